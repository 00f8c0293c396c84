"""A validation picture: three planes through the truth's center, truth and prediction outlined."""

from pathlib import Path

import numpy as np
from jaxtyping import Float, Integer
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from medseg.io.atomic import atomic_path
from medseg.volume import Label, Target


def write_picture(
    path: Path,
    *,
    image: Float[np.ndarray, "c i j k"],
    truth: Integer[np.ndarray, "i j k"],
    prediction: Integer[np.ndarray, "i j k"],
    target: Target,
    title: str,
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> None:
    """Write a PNG; labels are values of the table, truth in the upper row, prediction below."""
    center = _center(truth)
    figure = Figure(figsize=(9, 6.2), dpi=100, facecolor="black", layout="constrained")
    figure.suptitle(title, color="white", fontsize=10)
    axes = figure.subplots(2, 3)
    low, high = np.percentile(image[0], (1, 99))
    for row, labels in enumerate((truth, prediction)):
        for axis in range(3):
            plane = axes[row][axis]
            across, up = (spacing_mm[other] for other in range(3) if other != axis)
            plane.imshow(
                np.take(image[0], center[axis], axis=axis).T,
                cmap="gray",
                vmin=low,
                vmax=max(high, low + 1e-6),
                origin="lower",
                aspect=up / across,
            )
            _outline(plane, np.take(labels, center[axis], axis=axis).T, target)
            plane.set_axis_off()
        axes[row][0].set_title(("truth", "prediction")[row], color="white", fontsize=9, loc="left")
    _name_colors(figure, target, np.union1d(truth, prediction))
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", facecolor="black")


def _outline(plane: Axes, labels: np.ndarray, target: Target) -> None:
    for label in target.labels.labels:
        mask = labels == label.value
        # A contour needs two voxels along each side.
        if mask.any() and not mask.all() and min(mask.shape) > 1:
            plane.contour(mask, levels=[0.5], colors=[_color(label)], linewidths=1.2)


def _name_colors(figure: Figure, target: Target, values: np.ndarray) -> None:
    shown = [label for label in target.labels.labels if label.value in values]
    lines = [Line2D([], [], color=_color(label), label=label.name) for label in shown]
    figure.legend(
        handles=lines,
        loc="outside lower center",
        ncols=max(min(len(lines), 5), 1),
        frameon=False,
        fontsize=9,
        labelcolor="white",
    )


def _color(label: Label) -> tuple[float, float, float]:
    red, green, blue = (part / 255 for part in label.color)
    return red, green, blue


def _center(labels: np.ndarray) -> tuple[int, int, int]:
    inside = np.argwhere(labels > 0)
    i, j, k = inside.mean(axis=0) if len(inside) else np.asarray(labels.shape) / 2
    return int(i), int(j), int(k)
