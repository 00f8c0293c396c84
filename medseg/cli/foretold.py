"""`medseg predict --dry-run`: the cases, and what they will take, as a table."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from medseg.cli.terminal import Terminal

if TYPE_CHECKING:
    from medseg.engine.forecast import CaseForecast
    from medseg.engine.job import Job
    from medseg.engine.speed import Speed
    from medseg.inference.predictor import Predictor

COLUMNS = ("case", "image", "windows", "forwards", "seconds", "memory", "note")


def tell_forecast(
    predictor: "Predictor", jobs: Sequence["Job"], speed: "Speed", terminal: Terminal
) -> int:
    """Print the forecast of every case and of the run; 3 where some will fail, nothing written."""
    from medseg.engine.forecast import case_forecast, run_seconds, seen
    from medseg.engine.receipt import looks_done
    from medseg.engine.report import printable
    from medseg.inference.memory import shown

    there = {job.name for job in jobs if looks_done(job)}
    sights = seen(jobs, predictor.task.channels)
    forecasts = [case_forecast(predictor, sight, speed) for sight in sights]
    rows = [_row(one, is_there=one.sight.job.name in there) for one in forecasts]
    terminal.table("", COLUMNS, rows)
    to_do = [one for one in forecasts if one.fault is None and one.sight.job.name not in there]
    seconds = run_seconds(
        predictor,
        [one.sight for one in to_do],
        speed,
        settings=predictor.settings,
        folds=len(predictor.models),
        overlapped=predictor.settings.max_ram is None,
    )
    failing = [one for one in forecasts if one.fault is not None]
    for one in failing:
        assert one.fault is not None
        terminal.error(printable(f"{one.sight.job.name}: {one.fault}"), code=one.fault.code)
    most = max((one.peak_bytes for one in to_do), default=0)
    terminal.result(
        f"{len(to_do)} of {len(jobs)} cases to predict: about {_clock(seconds)} and "
        f"{shown(most)} of memory on {predictor.device}; {len(there)} are there, {len(failing)} "
        "cannot be done. Nothing was written."
    )
    return 3 if failing else 0


def _row(forecast: "CaseForecast", *, is_there: bool) -> tuple[str, ...]:
    from medseg.engine.report import printable
    from medseg.inference.memory import shown

    name = printable(forecast.sight.job.name)
    if forecast.fault is not None:
        return name, "", "", "", "", "", forecast.fault.code
    assert forecast.sight.grid is not None
    shape = "x".join(map(str, forecast.sight.grid.shape))
    effort = forecast.effort
    if is_there:
        return name, shape, str(effort.windows), "0", "0.0", "", "there already"
    return (
        name,
        shape,
        str(effort.windows),
        str(effort.forwards),
        f"{forecast.seconds:.1f}",
        shown(forecast.peak_bytes),
        "",
    )


def _clock(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
