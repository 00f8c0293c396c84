"""The scores as files for programs: two CSV tables and one JSON."""

import csv
import io
import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from medseg.evaluation.evaluate import SEED, Evaluation, Summary
from medseg.evaluation.interval import LEVEL, RESAMPLES
from medseg.evaluation.metrics import METRICS, NsdConvention

SUMMARY_COLUMNS = ("name", "metric", "mean", "median", "sd", "low", "high", "cases", "undefined")
CONVENTIONS = {
    "dice": "2 |P and T| / (|P| + |T|)",
    "hd95_mm": "larger of the two directed 95th percentiles of the distances between border "
    "voxels (those of a mask with a face neighbor outside it), in mm",
    "volume_error": "prediction less truth, in ml, and in percent of the truth",
    "empty": "in neither map: Dice 1, NSD 1, HD95 0; in one map: Dice 0, NSD 0, and HD95 is not "
    "defined, left out of the mean and counted",
}
NSD: Mapping[NsdConvention, str] = {
    "border-voxels": "normalized surface Dice; the surface of a mask is its border voxels (those "
    "with a face neighbor outside the mask), as in MONAI's default, not DeepMind's surface "
    "elements (--nsd surface-elements)",
    "surface-elements": "normalized surface Dice; the surface of a mask is made of surface "
    "elements between voxels, weighted by their area, as in DeepMind's surface-distance, not "
    "MONAI's border voxels (--nsd border-voxels)",
}


def scores_csv(evaluation: Evaluation) -> str:
    """A row a case and structure; a cell is empty where a metric is not defined."""
    rows = (
        (
            case.case,
            name,
            *(_cell(getattr(scores, metric)) for metric in METRICS),
            " ".join(scores.undefined),
        )
        for case in evaluation.cases
        for name, scores in case.scores.items()
    )
    return _csv(("case", "name", *METRICS, "undefined"), rows)


def summary_csv(summaries: Sequence[Summary]) -> str:
    """A row a structure and metric: mean, median, SD, the mean's 95 % interval, and counts."""
    rows = ([_cell(getattr(line, column)) for column in SUMMARY_COLUMNS] for line in summaries)
    return _csv(SUMMARY_COLUMNS, rows)


def as_json(evaluation: Evaluation, summaries: Sequence[Summary]) -> dict[str, Any]:
    """Everything there is to know of an evaluation; null where a metric is not defined."""
    return {
        "summary": [
            {column: _number(getattr(line, column)) for column in SUMMARY_COLUMNS}
            for line in summaries
        ],
        "cases": [
            {
                "case": case.case,
                "prediction": case.pair.prediction is not None,
                "scores": {
                    name: {metric: _number(getattr(scores, metric)) for metric in METRICS}
                    for name, scores in case.scores.items()
                },
            }
            for case in evaluation.cases
        ],
        "mean_over": list(evaluation.headline),
        "tolerance_mm": dict(evaluation.tolerances_mm),
        "nsd": evaluation.nsd,
        "conventions": {**CONVENTIONS, "nsd": NSD[evaluation.nsd]},
        "bootstrap": {"seed": SEED, "resamples": RESAMPLES, "level": LEVEL},
        "missing_counted_as_empty": list(evaluation.missing),
        "cases_not_scored": [
            {"case": case.case, "code": case.code, "fault": case.text}
            for case in evaluation.refused
        ],
        "predictions_without_truth": list(evaluation.unscored),
        "target": evaluation.target.to_json(),
        "versions": versions(),
    }


def versions() -> Mapping[str, str]:
    """What computed the scores."""
    names = ("medseg", "numpy", "scipy", "nibabel")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def _csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return out.getvalue()


def _cell(value: Any) -> Any:
    rounded = _number(value)
    return "" if rounded is None else rounded


def _number(value: Any) -> Any:
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 6)
    return value
