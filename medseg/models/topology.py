"""How deep a UNet goes, and along which axes: nnU-Net's rule, from patch size and voxel spacing.

Isensee et al., nnU-Net (Nature Methods 2021), supplementary note on network topology, as nnunetv2
2.8 applies it. The networks and the planner read it here, so they cannot disagree.
"""

import math
from dataclasses import dataclass

from medseg.fault import InputFault
from medseg.models.shape import ShapePolicy

Axes = tuple[int, int, int]
Spacing = tuple[float, float, float]

SMALLEST_EDGE = 4


@dataclass(frozen=True)
class Topology:
    """Strides and kernel sizes of each stage, from full resolution down to the bottleneck.

    The first stage has stride 1; stage n works on the patch divided by the strides up to its own.
    """

    strides: tuple[Axes, ...]
    kernel_sizes: tuple[Axes, ...]

    @property
    def stages(self) -> int:
        """How many resolutions there are, the bottleneck among them."""
        return len(self.strides)

    @property
    def pool_counts(self) -> Axes:
        """How often each axis is halved."""
        i, j, k = (sum(stride[axis] == 2 for stride in self.strides) for axis in range(3))
        return i, j, k

    @property
    def divisor(self) -> Axes:
        """What each side of a patch must be a multiple of."""
        i, j, k = (2**count for count in self.pool_counts)
        return i, j, k

    @property
    def shape_policy(self) -> ShapePolicy:
        """The sizes a UNet of it takes; instance norm needs two voxels at the bottleneck."""
        return ShapePolicy(
            divisor=self.divisor, minimum=self.divisor, voxels=2 * math.prod(self.divisor)
        )

    def padded(self, patch_size: tuple[float, float, float]) -> Axes:
        """The smallest patch that holds `patch_size` and that the strides divide."""
        i, j, k = (
            math.ceil(side / by) * by for side, by in zip(patch_size, self.divisor, strict=True)
        )
        return i, j, k

    def features(self, *, base: int, most: int) -> tuple[int, ...]:
        """Channels of each stage: `base`, doubled stage by stage up to `most`."""
        return tuple(min(most, base * 2**stage) for stage in range(self.stages))

    def shallower(self, stages: int) -> "Topology":
        """The same topology cut off below `stages` resolutions; the bottleneck keeps 3x3x3."""
        if stages >= self.stages:
            return self
        return Topology(self.strides[:stages], (*self.kernel_sizes[: stages - 1], (3, 3, 3)))


def topology(patch_size: tuple[float, float, float], spacing_mm: Spacing) -> Topology:
    """The topology for a patch of `patch_size` voxels of `spacing_mm`.

    A side may be fractional, as the median of shapes is.

    An axis is halved while its side is at least 8 (so that 4 are left) and its spacing is less
    than twice the finest of the axes that can still be halved. A single axis is not halved alone
    below 12. A kernel is 1 along an axis until its spacing comes within a factor of two of the
    finest, then 3 for good; the bottleneck is always 3x3x3.
    """
    _refuse(patch_size, spacing_mm)
    side, spacing = list(patch_size), list(spacing_mm)
    kernel = [1, 1, 1]
    strides: list[Axes] = [(1, 1, 1)]
    kernels: list[Axes] = []
    while halved := _axes_to_halve(side, spacing):
        finest = min(spacing)
        kernel = [3 if s / finest < 2 else size for s, size in zip(spacing, kernel, strict=True)]
        kernels.append((kernel[0], kernel[1], kernel[2]))
        strides.append((1 + (0 in halved), 1 + (1 in halved), 1 + (2 in halved)))
        for axis in halved:
            side[axis] = math.ceil(side[axis] / 2)
            spacing[axis] *= 2
    return Topology(tuple(strides), (*kernels, (3, 3, 3)))


def _axes_to_halve(side: list[float], spacing: list[float]) -> tuple[int, ...]:
    long_enough = [axis for axis in range(3) if side[axis] >= 2 * SMALLEST_EDGE]
    if not long_enough:
        return ()
    finest = min(spacing[axis] for axis in long_enough)
    halved = tuple(axis for axis in long_enough if spacing[axis] / finest < 2)
    if len(halved) == 1 and side[halved[0]] < 3 * SMALLEST_EDGE:
        return ()
    return halved


def _refuse(patch_size: tuple[float, float, float], spacing_mm: Spacing) -> None:
    if len(patch_size) != 3 or min(patch_size) < 1:
        raise InputFault(
            f"patch_size {tuple(patch_size)}: it has three sides of at least 1 voxel.",
            code="E_PATCH",
        )
    if len(spacing_mm) != 3 or not all(map(math.isfinite, spacing_mm)) or min(spacing_mm) <= 0:
        raise InputFault(
            f"spacing_mm {tuple(spacing_mm)}: it has three lengths above 0 mm.", code="E_PATCH"
        )
