"""Where the voxels of one axis lie between those of another."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Places:
    """For each target voxel of an axis the source voxel `left` of it and how far `beyond` it lies.

    `left` (n,) is int64 and never falls, `beyond` (n,) float32 from 0 (exactly there) to below 1.
    """

    left: Tensor
    beyond: Tensor

    @property
    def moves(self) -> bool:
        """Whether any voxel lies between two."""
        return bool((self.beyond > 0).any())

    def reads_all(self, side: int) -> bool:
        """Whether each of `side` source voxels counts for some target voxel."""
        far = (self.left + (self.beyond > 0)).clamp(max=side - 1)
        gaps = self.left[1:] - far[:-1]
        return int(self.left[0]) == 0 and int(far[-1]) == side - 1 and not bool((gaps > 1).any())

    def part(self, low: int, high: int) -> "Places":
        """Those of the target voxels from `low` to before `high`."""
        return Places(self.left[low:high], self.beyond[low:high])

    def after(self, first: int) -> "Places":
        """The same places, counted from source voxel `first` on."""
        return Places(self.left - first, self.beyond)

    def to(self, device: torch.device) -> "Places":
        """The same places on `device`."""
        return Places(self.left.to(device), self.beyond.to(device))


def linear_places(source: int, target: int) -> Places:
    """`target` voxels over the field of view of `source`: n lies at (n + 0.5) / target of it."""
    place = (torch.arange(target, dtype=torch.float64) + 0.5) * source / target - 0.5
    place = place.clamp(0, source - 1)
    left = place.floor().long()
    return Places(left, (place - left).float())


def nearest_places(source: int, target: int) -> Places:
    """Each target voxel at the center of the source voxel nearest to it, the later of two."""
    place = (torch.arange(target, dtype=torch.float64) + 0.5) * source / target
    return Places(place.floor().long().clamp(max=source - 1), torch.zeros(target))
