"""An image or a label map together with its place in the patient."""

from dataclasses import dataclass, replace

import numpy as np

from medseg.fault import InputFault
from medseg.volume.grid import Grid, shown
from medseg.volume.labels import LabelTable


@dataclass(frozen=True, eq=False)
class Volume:
    """Image of shape (c, i, j, k), float32 and finite, on `grid`, one name a channel."""

    array: np.ndarray
    grid: Grid
    channels: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.array.shape != (len(self.channels), *self.grid.shape):
            raise InputFault(
                f"image of shape {shown(self.array.shape)}: {len(self.channels)} channels "
                f"({', '.join(self.channels)}) on a grid of {shown(self.grid.shape)} are expected.",
                code="E_CHANNELS",
            )
        if self.array.dtype != np.float32:
            raise InputFault(
                f"image of type {self.array.dtype}: a Volume holds float32.", code="E_DTYPE"
            )
        for name, channel in zip(self.channels, self.array, strict=True):
            _refuse_nonfinite(name, channel)


@dataclass(frozen=True, eq=False)
class LabelVolume:
    """Label values of shape (i, j, k), uint8 or uint16, on `grid`; each value is in `table`."""

    array: np.ndarray
    grid: Grid
    table: LabelTable

    def __post_init__(self) -> None:
        if self.array.shape != self.grid.shape:
            raise InputFault(
                f"labels of shape {shown(self.array.shape)} do not fit a grid of "
                f"{shown(self.grid.shape)}.",
                code="E_PAIR",
            )
        if self.array.dtype not in (np.uint8, np.uint16):
            raise InputFault(
                f"labels of type {self.array.dtype}: label values are uint8 or uint16.",
                code="E_DTYPE",
            )
        self.table.refuse_unknown(self.array)

    def on(self, grid: Grid) -> "LabelVolume":
        """The same labels on a grid of this shape, which says the same place in other numbers."""
        return self if self.grid == grid else replace(self, grid=grid)


def _refuse_nonfinite(name: str, channel: np.ndarray) -> None:
    # A sum is finite only if every term is: one pass, no mask in memory. It can overflow on
    # honest values, so a sum that is not finite is looked at voxel by voxel.
    with np.errstate(invalid="ignore"):
        total = channel.sum(dtype=np.float64)
    if np.isfinite(total):
        return
    count = int(channel.size - np.isfinite(channel).sum())
    if count:
        raise InputFault(
            f"channel {name}: {count} voxels are NaN or infinite; every voxel must be a number. "
            "Repair the image (they often mark background: replace them with its value).",
            code="E_NONFINITE",
        )
