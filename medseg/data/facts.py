"""What a plan needs to know of a data set: shapes, spacings and foreground intensities."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

Shape = tuple[int, int, int]
Spacing = tuple[float, float, float]


@dataclass(frozen=True)
class ChannelIntensities:
    """Intensities of one channel inside the labels, each case counting alike."""

    percentile_00_5: float
    percentile_99_5: float
    mean: float
    std: float
    median: float
    minimum: float
    maximum: float


@dataclass(frozen=True)
class Fingerprint:
    """A data set in numbers. `shapes` are after the crop to nonzero, axes i, j, k (RAS).

    `relative_sizes` are the share of each case's voxels that the crop leaves. `classes` counts the
    labels and background. Entry n of `shapes`, `spacings_mm` and `relative_sizes` belongs to entry
    n of `cases`.
    """

    channels: tuple[str, ...]
    classes: int
    cases: tuple[str, ...]
    shapes: tuple[Shape, ...]
    spacings_mm: tuple[Spacing, ...]
    relative_sizes: tuple[float, ...]
    intensities: tuple[ChannelIntensities, ...]

    @property
    def median_shape(self) -> tuple[float, float, float]:
        """The median of each side, in voxels as they are stored."""
        i, j, k = np.median(self.shapes, axis=0)
        return float(i), float(j), float(k)

    @property
    def median_spacing_mm(self) -> Spacing:
        """The median spacing along each axis."""
        i, j, k = np.median(self.spacings_mm, axis=0)
        return float(i), float(j), float(k)

    @property
    def median_relative_size(self) -> float:
        """The median share of voxels that the crop to nonzero leaves."""
        return float(np.median(self.relative_sizes))

    def to_json(self) -> dict[str, Any]:
        """The fingerprint as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Fingerprint":
        """The fingerprint that `to_json` wrote."""
        return cls(
            channels=tuple(data["channels"]),
            classes=data["classes"],
            cases=tuple(data["cases"]),
            shapes=tuple((i, j, k) for i, j, k in data["shapes"]),
            spacings_mm=tuple((i, j, k) for i, j, k in data["spacings_mm"]),
            relative_sizes=tuple(data["relative_sizes"]),
            intensities=tuple(ChannelIntensities(**numbers) for numbers in data["intensities"]),
        )
