"""How deep U-Mamba and xLSTM-UNet go: nnU-Net's rule, on volumes or on slices."""

from dataclasses import dataclass
from math import prod
from typing import Literal

from medseg.fault import InputFault
from medseg.models.shape import ShapePolicy
from medseg.models.topology import Axes, Spacing, topology
from medseg.nn.hybrid_form import Dimensions, HybridForm

Axis = Literal[0, 1, 2]
Variant = Literal["encoder", "bottleneck"]
# The first stage with a layer that looks far, in the encoder variants.
XLSTM_FIRST, MAMBA_FIRST = 3, 0


@dataclass(frozen=True)
class HybridPlan:
    """The form of the network, the grid of each stage for the planned patch, the sizes it takes."""

    form: HybridForm
    grids: tuple[tuple[int, ...], ...]
    shape_policy: ShapePolicy


def plan_hybrid(
    *,
    patch_size: Axes,
    spacing_mm: Spacing,
    dimensions: Dimensions,
    slice_axis: Axis,
    stages: int | None,
    base_features: int,
    max_features: int,
) -> HybridPlan:
    """The plan for a patch of `patch_size` voxels; slices lie across `slice_axis`.

    Raises:
        InputFault: the patch cannot be halved even once (E_PATCH).
    """
    kept = [axis for axis in range(3) if dimensions == 3 or axis != slice_axis]
    side = [patch_size[axis] if axis in kept else 1 for axis in range(3)]
    # An axis that is not there must not make the others look coarse.
    widest = max(spacing_mm[axis] for axis in kept)
    spacing = [spacing_mm[axis] if axis in kept else widest for axis in range(3)]
    deep = topology((side[0], side[1], side[2]), (spacing[0], spacing[1], spacing[2]))
    deep = deep if stages is None else deep.shallower(stages)
    if deep.stages < 2:
        raise InputFault(
            f"{'x'.join(map(str, patch_size))} voxels cannot be halved even once; one side must be "
            "12 voxels, or two sides 8.",
            code="E_PATCH",
        )
    form = HybridForm(
        features=deep.features(base=base_features, most=max_features),
        strides=tuple(tuple(stride[axis] for axis in kept) for stride in deep.strides),
        kernel_sizes=tuple(tuple(kernel[axis] for axis in kept) for kernel in deep.kernel_sizes),
        dimensions=dimensions,
    )
    policy = deep.shape_policy
    if dimensions == 2:
        first, second = (deep.divisor[axis] for axis in kept)
        policy = ShapePolicy.of_slices(slice_axis, divisor=(first, second))
    return HybridPlan(form, _grids([side[axis] for axis in kept], form), policy)


def mixed_stages(
    form: HybridForm, variant: Variant, *, first: int, faithful: bool = False
) -> tuple[int, ...]:
    """The stages behind which the layers that look far stand.

    On volumes, all from number `first` on; on slices, every second one from `first` or 2 on. A
    network too shallow for that has one at its deepest stage, or none where it is `faithful`.
    """
    last = form.stages - 1
    if variant == "bottleneck":
        return (last,)
    if form.dimensions == 2:
        found = tuple(s for s in range(min(first, 2), form.stages) if s % 2 != form.stages % 2)
    else:
        found = tuple(range(first, form.stages))
    return found or (() if faithful else (last,))


def channel_stages(plan: HybridPlan, variant: Variant, *, first: int) -> tuple[int, ...]:
    """The stages at which the authors' encoder variants take channels for tokens.

    Those whose map has no more voxels than channels; weights then have the size of the patch.
    """
    if variant == "bottleneck":
        return ()
    mixed = mixed_stages(plan.form, variant, first=first, faithful=True)
    return tuple(s for s in mixed if prod(plan.grids[s]) <= plan.form.features[s])


def sizes_taken(
    plan: HybridPlan, patch_size: Axes, variant: Variant, *, first: int, faithful: bool
) -> ShapePolicy:
    """The sizes of input: the patch alone where weights of a `faithful` network have its size."""
    fits = plan.shape_policy.refuses(patch_size) is None
    if faithful and fits and channel_stages(plan, variant, first=first):
        return ShapePolicy(fixed=patch_size)
    return plan.shape_policy


def _grids(side: list[int], form: HybridForm) -> tuple[tuple[int, ...], ...]:
    grids = []
    for strides in form.strides:
        side = [s // stride for s, stride in zip(side, strides, strict=True)]
        grids.append(tuple(side))
    return tuple(grids)
