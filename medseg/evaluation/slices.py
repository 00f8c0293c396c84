"""Three planes of a case for its picture: gray values as PNG, outlines as vectors, all in mm.

Shown as radiologists look: the patient's right on the left of axial and coronal planes, anterior
on the left of the sagittal one. Each plane is the one in which truth and prediction differ most.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from contourpy import contour_generator
from matplotlib.image import imsave

from medseg.volume import Grid, LabelVolume, Volume

MARGIN_MM, MARGIN_SHARE = 12.0, 0.25
PLANES = (("axial", 2, "R", "A"), ("coronal", 1, "R", "S"), ("sagittal", 0, "A", "S"))


@dataclass(frozen=True)
class Outline:
    """The outline of one label in a plane: the `d` of an SVG path, in mm of the window."""

    value: int
    path: str


@dataclass(frozen=True)
class Plane:
    """One plane through a case; `side_mm` is the side of the square window it is shown in.

    `picture` is a base64 PNG (empty where there is no image) that fills `frame_mm`, the box
    (x, y, width, height) of the volume in the window. `left` and `top` say where these sides look.
    """

    name: str
    left: str
    top: str
    position: str
    side_mm: float
    frame_mm: tuple[float, float, float, float]
    picture: str
    truth: tuple[Outline, ...]
    prediction: tuple[Outline, ...]


def planes_of(
    truth: LabelVolume, prediction: LabelVolume, image: Volume | None
) -> tuple[Plane, ...]:
    """Axial, coronal and sagittal plane of a case around all of its labels."""
    grid = truth.grid
    view = _View.of(to_ras(truth.array, grid), to_ras(prediction.array, grid), grid)
    gray = None if image is None else to_ras(image.array[0], image.grid)
    limits = None if gray is None else _window_limits(view.cut(gray))
    return tuple(
        _plane(view, gray, limits, name=name, axis=axis, left=left, top=top)
        for name, axis, left, top in PLANES
    )


@dataclass(frozen=True)
class _View:
    """Both label maps in RAS, the box of voxels to be shown and the cube it is centered in."""

    truth: np.ndarray
    prediction: np.ndarray
    spacing_mm: tuple[float, float, float]
    low: tuple[int, int, int]
    high: tuple[int, int, int]
    start_mm: tuple[float, float, float]
    side_mm: float

    @classmethod
    def of(cls, truth: np.ndarray, prediction: np.ndarray, grid: Grid) -> "_View":
        axes, _ = grid.nearest_axes()
        spacing = np.array([grid.spacing_mm[axes.index(world)] for world in range(3)])
        low, high = _box((truth > 0) | (prediction > 0))
        extent = (high - low) * spacing
        side = float(extent.max() + 2 * max(MARGIN_MM, MARGIN_SHARE * extent.max()))
        side = min(side, float((np.array(truth.shape) * spacing).max()))
        start = _start(low * spacing, high * spacing, np.array(truth.shape) * spacing, side)
        shown_low = np.maximum(np.floor(start / spacing), 0).astype(int)
        shown_high = np.minimum(np.ceil((start + side) / spacing), truth.shape).astype(int)
        return cls(
            truth=truth,
            prediction=prediction,
            spacing_mm=_three(spacing),
            low=_whole(shown_low),
            high=_whole(shown_high),
            start_mm=_three(start),
            side_mm=side,
        )

    def cut(self, array: np.ndarray) -> np.ndarray:
        return array[tuple(slice(a, b) for a, b in zip(self.low, self.high, strict=True))]

    def slice_of_most_difference(self, axis: int) -> int:
        others = tuple(a for a in range(3) if a != axis)
        for mask in (self.truth != self.prediction, self.truth > 0):
            counts = mask.sum(axis=others)
            if counts.any():
                return int(counts.argmax())
        return self.truth.shape[axis] // 2


def _plane(
    view: _View,
    gray: np.ndarray | None,
    limits: tuple[float, float] | None,
    *,
    name: str,
    axis: int,
    left: str,
    top: str,
) -> Plane:
    number = view.slice_of_most_difference(axis)
    across, along = (a for a in range(3) if a != axis)
    step = view.spacing_mm[across], view.spacing_mm[along]
    # Both axes of the screen run against the RAS axes: R, A and S stand on the left and on top.
    end_mm = [view.start_mm[a] + view.side_mm for a in (across, along)]
    frame = (
        end_mm[0] - view.high[across] * step[0],
        end_mm[1] - view.high[along] * step[1],
        (view.high[across] - view.low[across]) * step[0],
        (view.high[along] - view.low[along]) * step[1],
    )

    def screen(array: np.ndarray) -> np.ndarray:
        plane = np.take(array, number, axis=axis)
        plane = plane[view.low[across] : view.high[across], view.low[along] : view.high[along]]
        return plane[::-1, ::-1].T

    return Plane(
        name=name,
        left=left,
        top=top,
        position=f"slice {number + 1} of {view.truth.shape[axis]}",
        side_mm=view.side_mm,
        frame_mm=frame,
        picture="" if gray is None or limits is None else _png(screen(gray), limits),
        truth=_outlines(screen(view.truth), frame, step),
        prediction=_outlines(screen(view.prediction), frame, step),
    )


def _outlines(
    labels: np.ndarray, frame_mm: Sequence[float], step_mm: tuple[float, float]
) -> tuple[Outline, ...]:
    values = np.flatnonzero(np.bincount(labels.ravel()))
    found = []
    for value in values[values > 0]:
        mask = np.pad((labels == value).astype(np.float32), 1)
        lines = contour_generator(z=mask).lines(0.5)
        # Pixel n of the padded mask has its center n - 0.5 pixels from the frame.
        offset = np.array([frame_mm[0], frame_mm[1]])
        parts = [_path((np.asarray(line) - 0.5) * step_mm + offset) for line in lines]
        found.append(Outline(int(value), "".join(parts)))
    return tuple(found)


def _path(points_mm: np.ndarray) -> str:
    # The last point of a closed line is its first one.
    first, *rest = (f"{x:.4g} {y:.4g}" for x, y in points_mm[:-1])
    return f"M{first}L{' '.join(rest)}Z"


def _png(plane: np.ndarray, limits: tuple[float, float]) -> str:
    low, high = limits
    buffer = io.BytesIO()
    imsave(buffer, plane, vmin=low, vmax=high, cmap="gray", format="png")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _window_limits(gray: np.ndarray) -> tuple[float, float]:
    inside = gray[gray != gray.min()]
    low, high = np.percentile(inside, (0.5, 99.5)) if inside.size else (0.0, 0.0)
    if low >= high:
        low, high = gray.min(), gray.max() + 1e-6
    return float(low), float(high)


def to_ras(array: np.ndarray, grid: Grid) -> np.ndarray:
    """A view of `array` (i, j, k) whose axes run nearest to R, A and S."""
    worlds, signs = grid.nearest_axes()
    order = [worlds.index(world) for world in range(3)]
    flips = tuple(slice(None, None, signs[axis]) for axis in order)
    return np.transpose(array, order)[flips]


def _box(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and one past last voxel of `mask` on each axis; the whole of it where it is empty."""
    low, high = np.zeros(3, dtype=int), np.array(mask.shape)
    for axis in range(3):
        hit = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        if hit.size:
            low[axis], high[axis] = hit[0], hit[-1] + 1
    return low, high


def _start(low: np.ndarray, high: np.ndarray, extent: np.ndarray, side: float) -> np.ndarray:
    """Where the shown cube begins: about the labels, and inside the volume where it fits."""
    start = (low + high) / 2 - side / 2
    inside = np.clip(start, 0, np.maximum(extent - side, 0))
    return np.where(extent >= side, inside, (extent - side) / 2)


def _three(values: np.ndarray) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])


def _whole(values: np.ndarray) -> tuple[int, int, int]:
    return int(values[0]), int(values[1]), int(values[2])
