"""How much work a case is: windows and forwards of the network, known from its grid alone."""

import math
from dataclasses import dataclass

from medseg.inference.predictor import Predictor, Prepared
from medseg.inference.settings import WalkSettings
from medseg.inference.window import Windows
from medseg.preprocess.geometry import cropped_grid, oriented_axes, respaced, whole_box
from medseg.preprocess.record import Preprocessing
from medseg.volume import Grid

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Effort:
    """Windows of a case, forwards of a network, and the shape on the network's grid."""

    windows: int
    forwards: int
    shape: Triple


def effort_on(predictor: Predictor, source: Grid, *, settings: WalkSettings, folds: int) -> Effort:
    """What an image on the grid `source` takes with `settings` and so many `folds`.

    A crop to what is not zero is not known before the image is read, so it may be less.
    """
    shape = shape_on_model(predictor.preprocessing, source)
    windows = _windows(predictor, shape, settings)
    forwards = windows * folds * 2 ** len(settings.mirror_axes)
    if predictor.previous is None:
        return Effort(windows, forwards, shape)
    own = predictor.previous
    first = effort_on(own, source, settings=own.settings, folds=len(own.models))
    return Effort(windows + first.windows, forwards + first.forwards, shape)


def forwards_over(predictor: Predictor, prepared: Prepared) -> int:
    """The forwards of a network that a preprocessed image took."""
    _, i, j, k = prepared.image.shape
    settings = predictor.settings
    forwards = _windows(predictor, (i, j, k), settings) * len(predictor.models)
    forwards *= 2 ** len(settings.mirror_axes)
    if predictor.previous is None or prepared.previous is None:
        return forwards
    return forwards + forwards_over(predictor.previous, prepared.previous)


def shape_on_model(preprocessing: Preprocessing, source: Grid) -> Triple:
    """The shape that preprocessing gives an image on `source`, uncropped."""
    axes, flips = oriented_axes(source, preprocessing.orientation, preprocessing.axes)
    i, j, k = (source.shape[axis] for axis in axes)
    oriented = cropped_grid(source, axes, flips, whole_box((i, j, k)))
    if preprocessing.spacing_mm is None:
        return oriented.shape
    i_mm, j_mm, k_mm = (
        here if wanted is None else wanted
        for here, wanted in zip(oriented.spacing_mm, preprocessing.spacing_mm, strict=True)
    )
    return respaced(oriented, (i_mm, j_mm, k_mm)).shape


def image_bytes(source: Grid, shape: Triple, channels: int) -> int:
    """The image as it is read and as the network sees it, both float32."""
    return 4 * channels * (math.prod(source.shape) + math.prod(shape))


def _windows(predictor: Predictor, shape: Triple, settings: WalkSettings) -> int:
    return len(
        Windows.over(
            shape, predictor.task.patch_size, overlap=settings.overlap, rule=settings.windows
        )
    )
