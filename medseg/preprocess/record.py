"""The steps from a source volume to the network's grid, recorded so that they can be undone.

orient (exact flips and swaps: to RAS, or as the file stores it) -> crop to the nonzero box ->
normalise -> resample. Normalising stands before resampling, as in nnU-Net, so that statistics are
those of real voxels.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float, Integer, Shaped

from medseg.fault import InputFault
from medseg.preprocess.geometry import (
    Axes,
    Box,
    Flips,
    Orientation,
    cropped_grid,
    filled_nonzero,
    grid_from_json,
    grid_to_json,
    nonzero_box,
    oriented_axes,
    respaced,
    reversal,
    stated_spacing,
    whole_box,
)
from medseg.preprocess.labels import resample_labels
from medseg.preprocess.normalise import Normalisation
from medseg.preprocess.resample import coarse_axis, resample_image, resample_linear
from medseg.volume import Grid, LabelVolume, Volume

Crop = Literal["nonzero", "none"]
Spacing = tuple[float | None, float | None, float | None]

# Counts up when the same settings begin to give other voxels, so that no old cache is taken.
STEPS_VERSION = 5


@dataclass(frozen=True)
class Record:
    """What was done to one volume, and the way back.

    `axes[n]` is the source axis that became axis n of the model, `flips[n]` whether it was
    reversed; `box` is the crop on the oriented volume; `model_grid` is where the network works;
    `coarse_axis` is the model's axis along which slices are taken as they are.
    """

    source_grid: Grid
    axes: Axes
    flips: Flips
    box: Box
    model_grid: Grid
    coarse_axis: int | None = None

    @property
    def crop_shape(self) -> tuple[int, int, int]:
        """Shape of the oriented, cropped region at source resolution."""
        (i0, i1), (j0, j1), (k0, k1) = self.box
        return i1 - i0, j1 - j0, k1 - k0

    @property
    def crop_grid(self) -> Grid:
        """The oriented, cropped region at source resolution."""
        return cropped_grid(self.source_grid, self.axes, self.flips, self.box)

    def orient(self, array: Shaped[np.ndarray, "i j k"]) -> Shaped[np.ndarray, "i j k"]:
        """A source array oriented and cropped: a view."""
        assert array.shape == self.source_grid.shape
        oriented = np.transpose(array, self.axes)[reversal(self.flips)]
        return oriented[tuple(slice(low, high) for low, high in self.box)]

    def place(
        self, cropped: Shaped[np.ndarray, "i j k"], *, fill: int = 0
    ) -> Shaped[np.ndarray, "i j k"]:
        """An oriented, cropped array put back on the whole source grid; `fill` outside."""
        assert cropped.shape == self.crop_shape
        whole = np.full(self.source_grid.shape, fill, dtype=cropped.dtype)
        # The oriented view of the new array is where the crop belongs.
        self.orient(whole)[...] = cropped
        return whole

    def restore_channel(self, channel: Float[np.ndarray, "i j k"]) -> Float[np.ndarray, "i j k"]:
        """One channel of the model's grid on the oriented crop, linear, float32."""
        assert channel.shape == self.model_grid.shape
        return resample_linear(channel, self.crop_shape, coarse_axis=self.coarse_axis)

    def restore_labels(self, labels: Integer[np.ndarray, "i j k"]) -> Integer[np.ndarray, "i j k"]:
        """Label values of the model's grid on the source grid; 0 outside the crop."""
        assert labels.shape == self.model_grid.shape
        return self.place(resample_labels(labels, self.crop_shape, coarse_axis=self.coarse_axis))

    def to_json(self) -> dict[str, Any]:
        """The record as plain JSON values."""
        return {
            "source_grid": grid_to_json(self.source_grid),
            "axes": list(self.axes),
            "flips": list(self.flips),
            "box": [list(side) for side in self.box],
            "model_grid": grid_to_json(self.model_grid),
            "coarse_axis": self.coarse_axis,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Record":
        """The record that `to_json` wrote."""
        (i0, i1), (j0, j1), (k0, k1) = data["box"]
        a, b, c = data["axes"]
        x, y, z = data["flips"]
        return cls(
            source_grid=grid_from_json(data["source_grid"]),
            axes=(a, b, c),
            flips=(x, y, z),
            box=((i0, i1), (j0, j1), (k0, k1)),
            model_grid=grid_from_json(data["model_grid"]),
            coarse_axis=data["coarse_axis"],
        )


@dataclass(frozen=True)
class Preprocessing:
    """The settings of the steps; the same object serves training and prediction.

    `spacing_mm` is that of the model's axes; None keeps the spacing of the source, on all axes or
    on one. One normalisation a channel. A volume is turned to RAS, or taken as its file stores it
    (`orientation`); `axes[n]` is then the axis of it that becomes axis n of the model.
    """

    spacing_mm: Spacing | None
    normalisation: tuple[Normalisation, ...]
    crop: Crop = "none"
    orientation: Orientation = "RAS"
    axes: Axes = (0, 1, 2)

    def __post_init__(self) -> None:
        spacing = self.spacing_mm or ()
        if not all(mm is None or (math.isfinite(mm) and mm > 0) for mm in spacing):
            raise InputFault(
                f"spacing_mm {spacing}: each number is a voxel size above 0.", code="E_SPACING"
            )
        if self.crop not in get_args(Crop):
            raise InputFault(
                f"crop {self.crop!r} is not known; it is one of {', '.join(get_args(Crop))}.",
                code="E_CROP",
            )
        if self.orientation not in get_args(Orientation) or sorted(self.axes) != [0, 1, 2]:
            raise InputFault(
                f"orientation {self.orientation!r}, axes {self.axes}: the first is one of "
                f"{', '.join(get_args(Orientation))}, the second an order of 0, 1, 2.",
                code="E_ORIENTATION",
            )

    def apply(self, volume: Volume) -> tuple[Float[np.ndarray, "c i j k"], Record]:
        """The image on the model's grid, float32, and the record of the way.

        Raises:
            InputFault: another number of channels (E_CHANNELS), an image without any voxel
                that is not 0 (E_CONST), a spacing that makes too many voxels (E_SPACING), or
                intensities that are no numbers once normalised and resampled (E_NORMALISED).
        """
        if len(volume.channels) != len(self.normalisation):
            raise InputFault(
                f"{len(volume.channels)} channels, but {len(self.normalisation)} were prepared "
                "in training; give the same channels in the same order.",
                code="E_CHANNELS",
            )
        record = self.record_of(volume)
        inside = None
        if any(step.needs_inside for step in self.normalisation):
            inside = filled_nonzero([record.orient(channel) for channel in volume.array])
        image = np.empty((len(volume.array), *record.model_grid.shape), dtype=np.float32)
        for place, (channel, normalisation) in enumerate(
            zip(volume.array, self.normalisation, strict=True)
        ):
            image[place] = resample_image(
                normalisation.apply(record.orient(channel), inside=inside),
                record.model_grid.shape,
                coarse_axis=record.coarse_axis,
            )
            _refuse_nonfinite(volume.channels[place], image[place])
        return image, record

    def apply_labels(self, labels: LabelVolume, record: Record) -> Integer[np.ndarray, "i j k"]:
        """Label values on the model's grid of `record`.

        Raises:
            InputFault: the labels lie on another grid than the image (E_PAIR).
        """
        difference = record.source_grid.difference(labels.grid)
        if difference:
            raise InputFault(
                f"image and labels lie on different grids: {difference}; "
                "resample the labels onto the image's grid (nearest neighbor).",
                code="E_PAIR",
            )
        oriented = record.orient(labels.array)
        return np.ascontiguousarray(
            resample_labels(oriented, record.model_grid.shape, coarse_axis=record.coarse_axis)
        )

    def record_of(self, volume: Volume) -> Record:
        """The geometry of the steps for `volume`; its intensities matter to the crop alone."""
        axes, flips = oriented_axes(volume.grid, self.orientation, self.axes)
        oriented = volume.array.transpose(0, *(axis + 1 for axis in axes))
        oriented = oriented[(slice(None), *reversal(flips))]
        i, j, k = oriented.shape[1:]
        box = nonzero_box(oriented) if self.crop == "nonzero" else whole_box((i, j, k))
        cropped = cropped_grid(volume.grid, axes, flips, box)
        here = stated_spacing(cropped)
        i_mm, j_mm, k_mm = (
            old if new is None else new
            for old, new in zip(here, self.spacing_mm or here, strict=True)
        )
        return Record(
            source_grid=volume.grid,
            axes=axes,
            flips=flips,
            box=box,
            model_grid=respaced(cropped, (i_mm, j_mm, k_mm)) if self.spacing_mm else cropped,
            coarse_axis=coarse_axis(here, (i_mm, j_mm, k_mm)),
        )

    def to_json(self) -> dict[str, Any]:
        """The settings as plain JSON values."""
        return {
            "spacing_mm": list(self.spacing_mm) if self.spacing_mm else None,
            "normalisation": [step.to_json() for step in self.normalisation],
            "crop": self.crop,
            "orientation": self.orientation,
            # Left out where it is the usual one: the digest of older settings stays.
            **({} if self.axes == (0, 1, 2) else {"axes": list(self.axes)}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Preprocessing":
        """The settings that `to_json` wrote."""
        spacing = data["spacing_mm"]
        a, b, c = data.get("axes", (0, 1, 2))
        return cls(
            spacing_mm=(spacing[0], spacing[1], spacing[2]) if spacing else None,
            normalisation=tuple(Normalisation.from_json(step) for step in data["normalisation"]),
            crop=data["crop"],
            orientation=data.get("orientation", "RAS"),
            axes=(a, b, c),
        )

    def digest(self) -> str:
        """A sha256 of the settings and the version of the steps: equal digest, equal voxels."""
        canonical = json.dumps({"steps": STEPS_VERSION, **self.to_json()}, sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()


def _refuse_nonfinite(name: str, channel: Float[np.ndarray, "i j k"]) -> None:
    # A sum is finite only if every term is: one pass, no mask in memory.
    with np.errstate(invalid="ignore"):
        total = channel.sum(dtype=np.float64)
    if not np.isfinite(total):
        raise InputFault(
            f"channel {name}: resampling gave values that are no numbers; its intensities are at "
            "the limit of float32 (3.4e38). Look at the image.",
            code="E_NORMALISED",
        )
