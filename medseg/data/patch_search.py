"""The largest patch, and the batch, that a UNet trains with in a given memory.

nnU-Net's rule (Isensee et al., Nature Methods 2021, supplementary note; numbers as in nnunetv2
2.8): memory is told by the number of feature map elements, counted here without building a network.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Literal

from medseg.models.topology import Axes, Spacing, Topology, topology

Network = Literal["plain", "resenc_m", "resenc_l", "resenc_xl"]

LARGEST_PATCH_VOXELS = 256**3
SMALLEST_BATCH = 2
BASE_FEATURES = 32
MAX_FEATURES = 320


@dataclass(frozen=True)
class Preset:
    """A network family and the memory it was balanced for.

    The last of `blocks` repeats. Two samples of `reference_elements` feature map elements each are
    known to train in `reference_gb`. A batch holds at most `largest_share` of the data set.
    """

    residual: bool
    blocks: tuple[int, ...]
    decoder_blocks: int
    reference_elements: int
    reference_gb: float
    largest_share: float

    def blocks_of(self, form: Topology) -> tuple[int, ...]:
        """Blocks of each encoder stage."""
        return (*self.blocks, *(self.blocks[-1:] * form.stages))[: form.stages]

    def elements(self, patch: Axes, form: Topology, *, out_channels: int) -> int:
        """Elements of every map that a convolution of the network writes for one patch."""
        features = form.features(base=BASE_FEATURES, most=MAX_FEATURES)
        sizes = [f * v for f, v in zip(features, _voxels_of_stages(patch, form), strict=True)]
        # A residual block writes two maps. Each stage has one more: the stem's at the top, below
        # it the shortcut's of the block that halves.
        maps = [2 * b + 1 if self.residual else b for b in self.blocks_of(form)]
        encoded = sum(count * size for count, size in zip(maps, sizes, strict=True))
        # A decoder stage writes the upsampled map and one a convolution.
        decoded = (self.decoder_blocks + 1) * sum(sizes[:-1])
        return encoded + decoded + out_channels * prod(patch)


PRESETS: Mapping[Network, Preset] = {
    "plain": Preset(
        residual=False,
        blocks=(2,),
        decoder_blocks=2,
        reference_elements=560_000_000,
        reference_gb=8.0,
        largest_share=0.05,
    ),
    "resenc_m": Preset(
        residual=True,
        blocks=(1, 3, 4, 6),
        decoder_blocks=1,
        reference_elements=680_000_000,
        reference_gb=8.0,
        largest_share=1.0,
    ),
    "resenc_l": Preset(
        residual=True,
        blocks=(1, 3, 4, 6),
        decoder_blocks=1,
        reference_elements=2_100_000_000,
        reference_gb=24.0,
        largest_share=1.0,
    ),
    "resenc_xl": Preset(
        residual=True,
        blocks=(1, 3, 4, 6),
        decoder_blocks=1,
        reference_elements=3_600_000_000,
        reference_gb=40.0,
        largest_share=1.0,
    ),
}


@dataclass(frozen=True)
class PatchSearch:
    """The search for one data set: spacing and median shape (in voxels of that spacing)."""

    spacing_mm: Spacing
    median_shape: tuple[float, float, float]
    out_channels: int
    preset: Preset
    memory_gb: float

    @property
    def budget(self) -> float:
        """Elements that one of two samples may take."""
        return self.preset.reference_elements * (self.memory_gb / self.preset.reference_gb)

    def largest_that_fits(self) -> tuple[Axes, Topology] | None:
        """The patch and its topology; None where no patch that can be halved fits.

        It begins with the shape of 256^3 voxels that is a cube in millimeters, cut to the median
        shape, and shrinks, axis by axis, whichever is longest relative to the median shape.
        """
        first = self._first_patch()
        form = topology(first, self.spacing_mm)
        patch = form.padded(first)
        while form.stages > 1 and self.elements(patch, form) > self.budget:
            patch, form = self._shrunk(patch, form)
        return (patch, form) if form.stages > 1 else None

    def elements(self, patch: Axes, form: Topology) -> int:
        """Feature map elements of one sample."""
        return self.preset.elements(patch, form, out_channels=self.out_channels)

    def batch_size(self, patch: Axes, form: Topology, *, dataset_voxels: float) -> int:
        """What is left of the memory, as samples, within the share of the data set; at least 2."""
        fitting = round(self.budget / self.elements(patch, form) * SMALLEST_BATCH)
        allowed = round(dataset_voxels * self.preset.largest_share / prod(patch))
        return max(min(fitting, allowed), SMALLEST_BATCH)

    def _first_patch(self) -> tuple[float, float, float]:
        scale_mm = (LARGEST_PATCH_VOXELS * prod(self.spacing_mm)) ** (1 / 3)
        i, j, k = (
            min(round(scale_mm / spacing), side)
            for spacing, side in zip(self.spacing_mm, self.median_shape, strict=True)
        )
        return i, j, k

    def _shrunk(self, patch: Axes, form: Topology) -> tuple[Axes, Topology]:
        excess = [side / most for side, most in zip(patch, self.median_shape, strict=True)]
        long_enough = [axis for axis in range(3) if patch[axis] > form.divisor[axis]]
        axis = max(long_enough, key=lambda a: (excess[a], a))
        # A side shorter by one divisor may be halved less often, so that the divisor shrinks too:
        # that smaller step is taken, else 224 would be skipped between 256 and 192.
        trial = _shorter(patch, axis, form.divisor[axis])
        step = topology(trial, self.spacing_mm).divisor[axis]
        smaller = _shorter(patch, axis, step)
        form = topology(smaller, self.spacing_mm)
        return form.padded(smaller), form


def _shorter(patch: Axes, axis: int, step: int) -> Axes:
    sides = list(patch)
    sides[axis] -= step
    return sides[0], sides[1], sides[2]


def _voxels_of_stages(patch: Axes, form: Topology) -> list[int]:
    sides, voxels = list(patch), []
    for stride in form.strides:
        sides = [side // by for side, by in zip(sides, stride, strict=True)]
        voxels.append(prod(sides))
    return voxels
