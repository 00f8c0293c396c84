"""Intensities of one channel brought to the scale a network is trained on."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from medseg.fault import InputFault

NormalisationKind = Literal["zscore", "zscore_nonzero", "ct", "range", "none"]


@dataclass(frozen=True)
class Normalisation:
    """How one channel is scaled.

    zscore: mean 0 and standard deviation 1 over the whole (cropped) image.
    zscore_nonzero: the same over voxels that are not 0; voxels of 0 stay 0.
    ct: clipped to [lower, upper], then `mean` and `std` of the data set's foreground (nnU-Net).
    range: [lower, upper] becomes [0, 1], clipped (a window in HU).
    none: as it is.
    """

    kind: NormalisationKind
    lower: float | None = None
    upper: float | None = None
    mean: float | None = None
    std: float | None = None

    def __post_init__(self) -> None:
        needed = {"ct": ("lower", "upper", "mean", "std"), "range": ("lower", "upper")}
        missing = [name for name in needed.get(self.kind, ()) if asdict(self)[name] is None]
        if missing:
            raise InputFault(
                f"normalisation {self.kind} needs {', '.join(missing)}; state them, or let "
                "`medseg plan` find them.",
                code="E_NORMALISE",
            )
        if self.kind in needed and not self._lower < self._upper:
            raise InputFault(
                f"normalisation {self.kind}: lower {self.lower} is not below upper {self.upper}.",
                code="E_NORMALISE",
            )

    def apply(self, channel: np.ndarray) -> np.ndarray:
        """The scaled channel, float32 of shape (i, j, k).

        Raises:
            InputFault: the result is not finite (E_NORMALISE).
        """
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            scaled = np.asarray(self._scaled(channel), dtype=np.float32)
        if not np.isfinite(scaled).all():
            raise InputFault(
                f"normalisation {self.kind} gave values that are no numbers, from an image of "
                f"{channel.min():g} to {channel.max():g}; look at the image.",
                code="E_NORMALISE",
            )
        return scaled

    def to_json(self) -> dict[str, Any]:
        """The normalisation as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Normalisation":
        """The normalisation that `to_json` wrote."""
        return cls(**data)

    @property
    def _lower(self) -> float:
        assert self.lower is not None
        return self.lower

    @property
    def _upper(self) -> float:
        assert self.upper is not None
        return self.upper

    def _scaled(self, channel: np.ndarray) -> np.ndarray:
        if self.kind == "zscore":
            return _standard(channel, channel)
        if self.kind == "zscore_nonzero":
            inside = channel != 0
            return np.where(inside, _standard(channel, channel[inside]), 0.0)
        if self.kind == "ct":
            assert self.mean is not None
            assert self.std is not None
            clipped = np.clip(channel, self._lower, self._upper)
            return (clipped - self.mean) / max(self.std, 1e-8)
        if self.kind == "range":
            clipped = np.clip(channel, self._lower, self._upper)
            return (clipped - self._lower) / (self._upper - self._lower)
        return channel


def _standard(channel: np.ndarray, sample: np.ndarray) -> np.ndarray:
    """`channel` less the mean of `sample`, over its standard deviation (float64 sums)."""
    if sample.size == 0:
        return np.zeros_like(channel)
    mean = sample.mean(dtype=np.float64)
    return (channel - mean) / max(float(sample.std(dtype=np.float64)), 1e-8)
