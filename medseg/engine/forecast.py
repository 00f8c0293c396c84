"""What a run will take, from the headers of its cases and the speed of this machine."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medseg.engine.effort import Effort, effort_on, image_bytes
from medseg.engine.job import Job
from medseg.engine.speed import Speed
from medseg.fault import InputFault
from medseg.inference import memory
from medseg.inference.predictor import Predictor
from medseg.inference.settings import WalkSettings
from medseg.volume import Grid


@dataclass(frozen=True)
class Sight:
    """What the headers of a case tell: its grid, or why it cannot be read."""

    job: Job
    grid: Grid | None
    fault: InputFault | None = None


@dataclass(frozen=True, kw_only=True)
class CaseForecast:
    """A case to come: windows, forwards, seconds, and the most memory of the process in bytes."""

    sight: Sight
    effort: Effort
    seconds: float
    peak_bytes: int
    fault: InputFault | None = None


def seen(jobs: Sequence[Job], channels: Sequence[str]) -> list[Sight]:
    """The grids of the cases; one that cannot be read is so told, not raised."""
    sights = []
    for job in jobs:
        try:
            sights.append(Sight(job, job.case.grid(channels)))
        except InputFault as fault:
            sights.append(Sight(job, None, fault))
    return sights


def case_forecast(predictor: Predictor, sight: Sight, speed: Speed) -> CaseForecast:
    """What one case will take; its `fault` says where it would not fit into memory."""
    if sight.grid is None:
        return CaseForecast(
            sight=sight, effort=Effort(0, 0, (0, 0, 0)), seconds=0, peak_bytes=0, fault=sight.fault
        )
    settings, folds = predictor.settings, len(predictor.models)
    effort = effort_on(predictor, sight.grid, settings=settings, folds=folds)
    voxels = int(np.prod(sight.grid.shape, dtype=np.int64))
    label_bytes = voxels * np.dtype(predictor.task.target.dtype).itemsize
    images = image_bytes(sight.grid, effort.shape, predictor.task.in_channels)
    held, fault = memory.resident(), None
    try:
        peak = (
            held + images + predictor.forecast(effort.shape, label_bytes=label_bytes).bytes_beside
        )
    except InputFault as too_large:
        peak, fault = 0, too_large
    return CaseForecast(
        sight=sight,
        effort=effort,
        seconds=effort.forwards * speed.forward_s + speed.around_s(voxels),
        peak_bytes=peak,
        fault=fault,
    )


def run_seconds(
    predictor: Predictor,
    sights: Sequence[Sight],
    speed: Speed,
    *,
    settings: WalkSettings,
    folds: int,
    overlapped: bool,
) -> float:
    """What the whole run will take with `settings` and so many `folds`.

    Overlapped, it is as long as its slower part; in turn, as both together.
    """
    grids = [sight.grid for sight in sights if sight.grid is not None]
    network_s = sum(
        effort_on(predictor, grid, settings=settings, folds=folds).forwards for grid in grids
    )
    network_s *= speed.forward_s
    each_s = [speed.around_s(int(np.prod(grid.shape, dtype=np.int64))) for grid in grids]
    around_s = sum(each_s)
    if not overlapped or len(grids) < 2:
        return network_s + around_s
    return max(network_s, around_s) + max(each_s)
