"""The steps from a source volume to the network's grid, recorded so that they can be undone.

orient to RAS (exact flips and swaps) -> crop to the nonzero box -> normalise -> resample.
Normalising stands before resampling, as in nnU-Net, so that statistics are those of real voxels.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from medseg.fault import InputFault
from medseg.preprocess.normalise import Normalisation
from medseg.preprocess.resample import (
    coarse_axis,
    resample_image,
    resample_labels,
    resample_linear,
)
from medseg.volume import Grid, LabelVolume, Volume

Crop = Literal["nonzero", "none"]
Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


@dataclass(frozen=True)
class Record:
    """What was done to one volume, and the way back.

    `axes[n]` is the source axis that became RAS axis n, `flips[n]` whether it was reversed;
    `box` is the crop on the oriented volume; `model_grid` is where the network works.
    """

    source_grid: Grid
    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    box: Box
    model_grid: Grid

    @property
    def crop_shape(self) -> tuple[int, int, int]:
        """Shape of the oriented, cropped region at source resolution."""
        (i0, i1), (j0, j1), (k0, k1) = self.box
        return i1 - i0, j1 - j0, k1 - k0

    def orient(self, array: np.ndarray) -> np.ndarray:
        """A source array (i, j, k) as RAS and cropped: a view."""
        oriented = np.transpose(array, self.axes)[_reversal(self.flips)]
        return oriented[tuple(slice(low, high) for low, high in self.box)]

    def place(self, cropped: np.ndarray, *, fill: int = 0) -> np.ndarray:
        """An oriented, cropped array put back on the whole source grid; `fill` outside."""
        oriented_shape = tuple(self.source_grid.shape[axis] for axis in self.axes)
        whole = np.full(oriented_shape, fill, dtype=cropped.dtype)
        whole[tuple(slice(low, high) for low, high in self.box)] = cropped
        back = np.transpose(whole[_reversal(self.flips)], np.argsort(self.axes))
        return np.ascontiguousarray(back)

    def restore_channel(self, channel: np.ndarray) -> np.ndarray:
        """One channel (i, j, k) of the model's grid on the oriented crop, linear, float32."""
        return resample_linear(channel, self.crop_shape)

    def restore_labels(self, labels: np.ndarray) -> np.ndarray:
        """Label values (i, j, k) of the model's grid on the source grid; 0 outside the crop."""
        return self.place(resample_labels(labels, self.crop_shape))

    def to_json(self) -> dict[str, Any]:
        """The record as plain JSON values."""
        return {
            "source_grid": _grid_to_json(self.source_grid),
            "axes": list(self.axes),
            "flips": list(self.flips),
            "box": [list(side) for side in self.box],
            "model_grid": _grid_to_json(self.model_grid),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Record":
        """The record that `to_json` wrote."""
        (i0, i1), (j0, j1), (k0, k1) = data["box"]
        a, b, c = data["axes"]
        x, y, z = data["flips"]
        return cls(
            source_grid=_grid_from_json(data["source_grid"]),
            axes=(a, b, c),
            flips=(x, y, z),
            box=((i0, i1), (j0, j1), (k0, k1)),
            model_grid=_grid_from_json(data["model_grid"]),
        )


@dataclass(frozen=True)
class Preprocessing:
    """The settings of the steps; the same object serves training and prediction.

    `spacing_mm` None keeps the spacing of the source. One normalisation a channel.
    """

    spacing_mm: tuple[float, float, float] | None
    normalisation: tuple[Normalisation, ...]
    crop: Crop = "none"

    def apply(self, volume: Volume) -> tuple[np.ndarray, Record]:
        """The image (c, i, j, k) on the model's grid, float32, and the record of the way.

        Raises:
            InputFault: another number of channels (E_CHANNELS), an image without any voxel
                that is not 0 (E_CONST), or a normalisation that is not finite (E_NORMALISE).
        """
        if len(volume.channels) != len(self.normalisation):
            raise InputFault(
                f"{len(volume.channels)} channels, but {len(self.normalisation)} were prepared "
                "in training; give the same channels in the same order.",
                code="E_CHANNELS",
            )
        record = self.record_of(volume)
        coarse = coarse_axis(_crop_grid(record).spacing_mm, record.model_grid.spacing_mm)
        channels = [
            resample_image(
                normalisation.apply(record.orient(channel)),
                record.model_grid.shape,
                coarse_axis=coarse,
            )
            for channel, normalisation in zip(volume.array, self.normalisation, strict=True)
        ]
        return np.stack(channels), record

    def apply_labels(self, labels: LabelVolume, record: Record) -> np.ndarray:
        """Label values (i, j, k) on the model's grid of `record`.

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
        return np.ascontiguousarray(resample_labels(oriented, record.model_grid.shape))

    def record_of(self, volume: Volume) -> Record:
        """The geometry of the steps for `volume`, without touching its intensities."""
        axes, flips = _orientation(volume.grid)
        oriented = volume.array.transpose(0, *(axis + 1 for axis in axes))
        oriented = oriented[(slice(None), *_reversal(flips))]
        box = _nonzero_box(oriented) if self.crop == "nonzero" else _whole_box(oriented.shape[1:])
        cropped = _cropped_grid(volume.grid, axes, flips, box)
        return Record(
            source_grid=volume.grid,
            axes=axes,
            flips=flips,
            box=box,
            model_grid=_respaced(cropped, self.spacing_mm),
        )

    def to_json(self) -> dict[str, Any]:
        """The settings as plain JSON values."""
        return {
            "spacing_mm": list(self.spacing_mm) if self.spacing_mm else None,
            "normalisation": [step.to_json() for step in self.normalisation],
            "crop": self.crop,
            "orientation": "RAS",
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Preprocessing":
        """The settings that `to_json` wrote."""
        spacing = data["spacing_mm"]
        return cls(
            spacing_mm=(spacing[0], spacing[1], spacing[2]) if spacing else None,
            normalisation=tuple(Normalisation.from_json(step) for step in data["normalisation"]),
            crop=data["crop"],
        )

    def digest(self) -> str:
        """A sha256 of the settings: equal settings, equal digest."""
        canonical = json.dumps(self.to_json(), sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()


def _orientation(grid: Grid) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    """For each of R, A, S: the array axis nearest to it and whether it runs the other way."""
    worlds, signs = grid.nearest_axes()
    a, b, c = (worlds.index(world) for world in range(3))
    return (a, b, c), (signs[a] < 0, signs[b] < 0, signs[c] < 0)


def _reversal(flips: tuple[bool, bool, bool]) -> tuple[slice, slice, slice]:
    i, j, k = (slice(None, None, -1) if flip else slice(None) for flip in flips)
    return i, j, k


def _whole_box(shape: tuple[int, ...]) -> Box:
    return (0, shape[0]), (0, shape[1]), (0, shape[2])


def _nonzero_box(image: np.ndarray) -> Box:
    inside = (image != 0).any(axis=0)
    sides = []
    for axis in range(3):
        hit = np.flatnonzero(inside.any(axis=tuple(a for a in range(3) if a != axis)))
        if hit.size == 0:
            raise InputFault(
                "every voxel of the image is 0; there is nothing to segment.", code="E_CONST"
            )
        sides.append((int(hit[0]), int(hit[-1]) + 1))
    return sides[0], sides[1], sides[2]


def _cropped_grid(
    grid: Grid, axes: tuple[int, int, int], flips: tuple[bool, bool, bool], box: Box
) -> Grid:
    """The grid of the oriented crop: its voxel n is where a source voxel is, exactly."""
    to_source = np.zeros((4, 4))
    to_source[3, 3] = 1
    for target, (axis, flip, (low, _)) in enumerate(zip(axes, flips, box, strict=True)):
        to_source[axis, target] = -1 if flip else 1
        to_source[axis, 3] = grid.shape[axis] - 1 - low if flip else low
    i, j, k = (high - low for low, high in box)
    return Grid((i, j, k), grid.affine @ to_source)


def _crop_grid(record: Record) -> Grid:
    return _cropped_grid(record.source_grid, record.axes, record.flips, record.box)


def _respaced(grid: Grid, spacing_mm: tuple[float, float, float] | None) -> Grid:
    """The grid over the same field of view with (nearly) another spacing.

    The side is rounded to whole voxels, so the true spacing is field of view / side.
    """
    if spacing_mm is None:
        return grid
    old = np.asarray(grid.shape)
    new = np.maximum(np.rint(old * grid.spacing_mm / np.asarray(spacing_mm)), 1).astype(int)
    scale = old / new
    affine = np.array(grid.affine)
    affine[:3, 3] += affine[:3, :3] @ (0.5 * scale - 0.5)
    affine[:3, :3] *= scale
    return Grid((int(new[0]), int(new[1]), int(new[2])), affine)


def _grid_to_json(grid: Grid) -> dict[str, Any]:
    return {"shape": list(grid.shape), "affine": grid.affine.tolist()}


def _grid_from_json(data: Mapping[str, Any]) -> Grid:
    i, j, k = data["shape"]
    return Grid((i, j, k), np.asarray(data["affine"]))
