"""Intensities of one channel brought to the scale a network is trained on."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Bool, Float

from medseg.fault import InputFault

NormalisationKind = Literal[
    "zscore", "zscore_nonzero", "zscore_inside", "ct", "range", "full_range", "none"
]
SMALLEST_STD = 1e-8


@dataclass(frozen=True)
class Normalisation:
    """How one channel is scaled.

    zscore: mean 0 and standard deviation 1 over the whole (cropped) image.
    zscore_nonzero: the same over voxels that are not 0; voxels of 0 stay 0.
    zscore_inside: the same over voxels that are not 0 in some channel, and the holes that they
    enclose; the others stay as they are (nnU-Net's `use_mask_for_norm`).
    ct: clipped to [lower, upper], then `mean` and `std` of the data set's foreground (nnU-Net).
    range: [lower, upper] becomes [0, 1], clipped (a window in HU).
    full_range: the smallest value becomes 0 and the largest 1.
    none: as it is.
    """

    kind: NormalisationKind
    lower: float | None = None
    upper: float | None = None
    mean: float | None = None
    std: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(NormalisationKind):
            raise InputFault(
                f"normalisation {self.kind!r} is not known; it is one of "
                f"{', '.join(get_args(NormalisationKind))}.",
                code="E_NORMALISE",
            )
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

    @property
    def needs_inside(self) -> bool:
        """Whether `apply` must be told which voxels are inside."""
        return self.kind == "zscore_inside"

    def apply(
        self,
        channel: Float[np.ndarray, "i j k"],
        *,
        inside: Bool[np.ndarray, "i j k"] | None = None,
    ) -> Float[np.ndarray, "i j k"]:
        """The scaled channel, float32.

        Raises:
            InputFault: the result is not finite (E_NORMALISED).
        """
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            scaled = self._scaled(np.asarray(channel, dtype=np.float32), inside)
        if not np.isfinite(scaled).all():
            raise InputFault(
                f"normalisation {self.kind} gave values that are no numbers, from an image of "
                f"{channel.min():g} to {channel.max():g}; look at the image.",
                code="E_NORMALISED",
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

    def _scaled(self, channel: np.ndarray, inside: np.ndarray | None) -> np.ndarray:
        if self.kind == "zscore":
            return _standard(channel, channel)
        if self.kind in ("zscore_nonzero", "zscore_inside"):
            if self.kind == "zscore_nonzero":
                inside = channel != 0
            assert inside is not None
            # What is outside is 0 already.
            return np.where(inside, _standard(channel, channel[inside]), channel)
        if self.kind == "none":
            return channel
        if self.kind == "full_range":
            low, high = float(channel.min()), float(channel.max())
            return _shifted(channel, low, max(high - low, SMALLEST_STD))
        scaled = np.clip(channel, self._lower, self._upper)
        if self.kind == "ct":
            assert self.mean is not None
            assert self.std is not None
            return _shifted(scaled, self.mean, max(self.std, SMALLEST_STD))
        return _shifted(scaled, self._lower, self._upper - self._lower)


def _standard(channel: np.ndarray, sample: np.ndarray) -> np.ndarray:
    """`channel` less the mean of `sample`, over its standard deviation; sums are float64."""
    if sample.size == 0:
        return np.zeros_like(channel)
    mean = float(sample.mean(dtype=np.float64))
    # About a mean that is nearly right the squares are small, so float32 holds them.
    away = sample - np.float32(mean)
    offset = float(away.mean(dtype=np.float64))
    variance = float(np.square(away, out=away).mean(dtype=np.float64)) - offset**2
    if not math.isfinite(variance):
        # Dividing by infinity would leave an image of zeros, finite and empty.
        return np.full_like(channel, np.nan)
    return _shifted(channel, mean, max(math.sqrt(max(variance, 0.0)), SMALLEST_STD))


def _shifted(channel: np.ndarray, origin: float, unit: float) -> np.ndarray:
    """(`channel` - `origin`) / `unit`, computed in float32 with one new array."""
    result = channel - np.float32(origin)
    result /= np.float32(unit)
    return result
