"""One case measured for the fingerprint of its data set; fit to run in another process."""

from dataclasses import dataclass

import numpy as np

from medseg.data.cases import Case
from medseg.data.facts import Shape, Spacing
from medseg.data.pairs import fault_line, read_pair
from medseg.fault import InputFault
from medseg.preprocess.record import Preprocessing
from medseg.volume import LabelTable

CROP = Preprocessing(spacing_mm=None, normalisation=(), crop="nonzero")


@dataclass(frozen=True)
class Job:
    """All that is needed to measure one case; `seed` and `samples` say what is drawn."""

    case: Case
    channels: tuple[str, ...]
    labels: LabelTable
    samples: int
    seed: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Measured:
    """A case turned to RAS and cropped.

    `sample` (c, n) are foreground intensities drawn with replacement, n = 0 without foreground;
    `extremes` (c, 2) are the lowest and the highest of all of them.
    """

    shape: Shape
    spacing_mm: Spacing
    relative_size: float
    sample: np.ndarray
    extremes: np.ndarray


def measure(job: Job) -> Measured | str:
    """The measures of a case; what is wrong with its files comes back as a line."""
    try:
        return _measured(job)
    except InputFault as fault:
        return fault_line(job.case, fault)


def _measured(job: Job) -> Measured:
    volume, labels = read_pair(job.case, job.channels, job.labels)
    record = CROP.record_of(volume)
    inside = record.orient(labels.array) > 0
    foreground = np.stack([record.orient(channel)[inside] for channel in volume.array])
    return Measured(
        shape=record.crop_shape,
        spacing_mm=record.model_grid.spacing_mm,
        relative_size=inside.size / labels.array.size,
        sample=_drawn(foreground, job),
        extremes=_extremes(foreground),
    )


def _drawn(foreground: np.ndarray, job: Job) -> np.ndarray:
    count = foreground.shape[1]
    if count == 0:
        return foreground
    return foreground[:, np.random.default_rng(job.seed).integers(count, size=job.samples)]


def _extremes(foreground: np.ndarray) -> np.ndarray:
    if foreground.shape[1] == 0:
        return np.empty((len(foreground), 0), dtype=foreground.dtype)
    return np.stack([foreground.min(axis=1), foreground.max(axis=1)], axis=1)
