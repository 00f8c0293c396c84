"""From logits to labels on another grid, without the logits there."""

from collections.abc import Sequence

from torch import Tensor

from medseg_kernels.pruned_export import operator
from medseg_kernels.pruned_export.backends import Backend, refuses
from medseg_kernels.pruned_export.places import Places, linear_places, nearest_places
from medseg_kernels.pruned_export.source import Source

__all__ = [
    "Backend",
    "Places",
    "export_sums",
    "linear_places",
    "nearest_places",
    "pruned_argmax",
    "pruned_regions",
    "refuses",
]

Triple = tuple[Places, Places, Places]


def pruned_argmax(
    logits: Tensor,  # (c, i, j, k)
    places: Triple,
    *,
    backend: Backend | None = None,
) -> Tensor:  # (a, b, c) uint8; int16 above 256 classes
    """The class of the largest logit at each target voxel, linearly interpolated.

    Of equal ones it is the first. Logits are float32, bfloat16 or float16, of any strides, and
    finite; they are interpolated in float32: a * (1 - t) + b * t along k, then j, then i. The
    result does not depend on how the volume is cut, nor on the `backend`: by default the first of
    compiled (C, for a CPU, where there is a compiler), triton (CUDA) and pruned (torch, any device)
    that does not refuse.

    Raises:
        ValueError: `logits` or `places` have another form, or a forced backend refuses.
    """
    source = Source(logits)
    _check(source, places)
    return operator.export(source, places, backend=backend)[0]


def pruned_regions(
    logits: Tensor,  # (r, i, j, k)
    places: Triple,
    values: Sequence[int],
    *,
    backend: Backend | None = None,
) -> Tensor:  # (a, b, c) uint8; int16 where a value is above 255
    """The value of the last region whose logit, linearly interpolated, is above 0; else 0.

    See `pruned_argmax`.

    Raises:
        ValueError: `logits`, `places` or `values` have another form, or a forced backend refuses.
    """
    source = Source(logits)
    _check(source, places, values)
    return operator.export(source, places, values=tuple(values), backend=backend)[0]


def export_sums(
    sums: Tensor,  # (f, i, j, k)
    counts: Tensor,  # (i, j, k)
    places: Triple,
    *,
    head: tuple[Tensor, Tensor] | None = None,  # (c, f), (c,)
    values: Sequence[int] | None = None,
    backend: Backend | None = None,
) -> tuple[Tensor, Tensor]:  # (a, b, c), ()
    """The labels of logits = weight @ (sums / counts) + bias; and the largest size of a mean.

    `head` is (weight, bias) of a last layer that looks at each voxel alone; without it the means,
    sums / counts rounded to the type of sums, are the logits. Labels are those of `pruned_argmax`
    or, given `values`, of `pruned_regions`. Logits are made a few at a time: compiled holds a box
    of them, or none where no voxel lies between others, and the other backends a few planes. Each
    sums products in an order of its own, so labels may differ where logits are equal but for
    rounding. What is no number shows in the size, which is NaN then.

    Raises:
        ValueError: the tensors have another form, or a forced backend refuses.
    """
    source = Source(sums, counts, *(head or (None, None)))
    _check(source, places, values)
    return operator.export(source, places, values=tuple(values or ()), backend=backend)


def _check(source: Source, places: Sequence[Places], values: Sequence[int] | None = None) -> None:
    given, counts, weight = source.values, source.counts, source.weight
    shape = tuple(given.shape)
    if given.ndim != 4 or not given.is_floating_point() or 0 in shape:
        raise ValueError(f"logits {shape} {given.dtype} must be (c, i, j, k), float")
    if counts is not None and counts.shape != given.shape[1:]:
        raise ValueError(f"counts {tuple(counts.shape)} must be as large as sums {shape}")
    if weight is not None and (weight.ndim != 2 or weight.shape[1] != len(given)):
        raise ValueError(f"weight {tuple(weight.shape)} must be (c, f) for sums {shape}")
    if source.bias is not None and source.bias.shape != (source.classes,):
        raise ValueError(f"bias {tuple(source.bias.shape)} must be ({source.classes},)")
    if any(len(place.left) == 0 or len(place.left) != len(place.beyond) for place in places):
        raise ValueError("places need as many `left` as `beyond`, and at least one")
    if values is not None and len(values) != source.classes:
        raise ValueError(f"{len(values)} values for {source.classes} regions; one each is needed")
