"""Score a folder of predictions: every case, every structure, and what they come to together."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medseg.data.cases import Listing
from medseg.evaluation.interval import bootstrap_intervals
from medseg.evaluation.metrics import (
    NsdConvention,
    Scores,
    Structure,
    score_pair,
    structures,
    tolerances_mm,
)
from medseg.evaluation.pairs import Pair, find_pairs
from medseg.fault import InputFault, all_at_once
from medseg.io.nifti import read_header, read_labels
from medseg.io.nifti_place import Form
from medseg.progress import Listener, Progress, silent
from medseg.volume import LabelVolume, Target

MEAN = "mean"
SUMMARIZED = ("dice", "nsd", "hd95_mm", "volume_error_ml", "volume_error_percent")
SEED = 0


@dataclass(frozen=True)
class CaseScores:
    """The scores of one case by the names of its structures."""

    pair: Pair
    scores: Mapping[str, Scores]

    @property
    def case(self) -> str:
        """The name of the case."""
        return self.pair.case

    def mean(self, metric: str, names: Sequence[str]) -> float:
        """Mean of a metric over `names`, undefined ones left out; NaN where all are."""
        values = [getattr(self.scores[name], metric) for name in names]
        defined = [value for value in values if not math.isnan(value)]
        return sum(defined) / len(defined) if defined else math.nan


@dataclass(frozen=True)
class Summary:
    """A metric of one structure over the cases; `low` to `high` is the mean's 95 % interval.

    `undefined` counts the cases that are left out because the metric has no value there.
    """

    name: str
    metric: str
    mean: float
    median: float
    sd: float
    low: float
    high: float
    cases: int
    undefined: int


@dataclass(frozen=True)
class Refused:
    """A case whose files cannot be scored, and why; no mean counts it."""

    case: str
    code: str
    text: str

    @property
    def line(self) -> str:
        """The fault as one line that opens with the case."""
        return f"{self.case}: {self.text.replace(chr(10), ' ')} [{self.code}]"


@dataclass(frozen=True, eq=False)
class Evaluation:
    """All scores, and what they were computed with.

    `headline` are the names that "mean" is taken over: the regions of a target, or its labels.
    `unscored` are predictions without a truth. `form` is what grids are taken from where the
    sform and the qform of a file disagree.
    """

    cases: tuple[CaseScores, ...]
    target: Target
    tolerances_mm: Mapping[str, float]
    unscored: tuple[str, ...] = ()
    nsd: NsdConvention = "border-voxels"
    refused: tuple[Refused, ...] = ()
    form: Form | None = None

    @property
    def structures(self) -> tuple[Structure, ...]:
        """What was scored, in the order of the tables."""
        return structures(self.target)

    @property
    def headline(self) -> tuple[str, ...]:
        """The names that the mean over structures is taken over."""
        return self.target.foreground_names

    @property
    def missing(self) -> tuple[str, ...]:
        """Cases without a prediction, which were counted as empty."""
        return tuple(case.case for case in self.cases if case.pair.prediction is None)

    def mean(self, metric: str = "dice") -> float:
        """Mean over cases of the mean over structures."""
        values = self.values(MEAN, metric)
        return float(np.nanmean(values)) if not np.isnan(values).all() else math.nan

    def values(self, name: str, metric: str) -> np.ndarray:
        """A metric of one structure (or of "mean") for every case; NaN where not defined."""
        if name == MEAN:
            return np.array([case.mean(metric, self.headline) for case in self.cases])
        return np.array([getattr(case.scores[name], metric) for case in self.cases])

    def summaries(self, *, seed: int = SEED) -> tuple[Summary, ...]:
        """Mean, median, SD and bootstrap interval by structure and metric; "mean" stands first."""
        names = (MEAN, *(structure.name for structure in self.structures))
        columns = [(name, metric) for name in names for metric in SUMMARIZED]
        values = np.stack([self.values(name, metric) for name, metric in columns], axis=1)
        intervals = bootstrap_intervals(values, seed=seed)
        return tuple(
            _summary(name, metric, values[:, place], intervals[place])
            for place, (name, metric) in enumerate(columns)
        )

    def worst_first(self) -> tuple[CaseScores, ...]:
        """The cases from the lowest mean Dice to the highest."""
        return tuple(sorted(self.cases, key=lambda case: case.mean("dice", self.headline)))


def evaluate(
    predictions: Path,
    truths: Path | Listing,
    target: Target,
    *,
    tolerance_mm: float | Mapping[str, float] = 1.0,
    nsd: NsdConvention = "border-voxels",
    images: Path | None = None,
    cases: Sequence[str] | None = None,
    allow_missing: bool = False,
    listener: Listener = silent,
) -> Evaluation:
    """Score the label maps in `predictions` against those of the same names in `truths`.

    Both may be folders or both single files, or the truths a data set's; `images` are only shown.
    `cases` limits what is scored. With `allow_missing` a case without a prediction counts as an
    empty mask.

    Raises:
        InputFault: predictions are missing (E_MISSING), or cases cannot be scored: on other grids
            (E_PAIR), files that cannot be read, labels outside the table (E_LABEL); all at once.
    """
    found = find_pairs(predictions, truths, images=images, cases=cases, allow_missing=allow_missing)
    evaluation = evaluate_pairs(
        found.pairs,
        target,
        tolerance_mm=tolerance_mm,
        nsd=nsd,
        unscored=found.unscored,
        listener=listener,
    )
    if evaluation.refused:
        raise _unscorable(evaluation.refused, count=len(found.pairs))
    return evaluation


def evaluate_pairs(
    pairs: Sequence[Pair],
    target: Target,
    *,
    tolerance_mm: float | Mapping[str, float] = 1.0,
    nsd: NsdConvention = "border-voxels",
    unscored: tuple[str, ...] = (),
    form: Form | None = None,
    listener: Listener = silent,
) -> Evaluation:
    """Score pairs of files; one case is in memory at a time.

    A case that cannot be scored is among `refused`, and the others are scored.

    Raises:
        InputFault: no case can be scored; what is wrong with each is told.
    """
    tolerances = tolerances_mm(structures(target), tolerance_mm)
    cases, refused = [], []
    for done, pair in enumerate(pairs, start=1):
        try:
            truth, prediction = read_maps(pair, target, form=form)
            scores = score_pair(prediction, truth, target, tolerance_mm=tolerances, nsd=nsd)
            cases.append(CaseScores(pair, scores))
        except InputFault as fault:
            refused.append(Refused(pair.case, fault.code, str(fault)))
        listener(Progress("evaluate", done, len(pairs), text=pair.case))
    if not cases:
        raise _unscorable(refused, count=len(pairs))
    return Evaluation(tuple(cases), target, tolerances, unscored, nsd, tuple(refused), form)


def read_maps(
    pair: Pair, target: Target, *, form: Form | None = None
) -> tuple[LabelVolume, LabelVolume]:
    """Truth and prediction of a case on one grid; the prediction is empty where there is none.

    Raises:
        InputFault: a file that cannot be read, a label outside the table (E_LABEL), or the two
            lie on different grids (E_PAIR), which their headers tell first.
    """
    if pair.prediction is None:
        truth = read_labels(pair.truth, target.labels, form=form)
        return truth, LabelVolume(np.zeros_like(truth.array), truth.grid, truth.table)
    apart = read_header(pair.truth, form=form).apart(read_header(pair.prediction, form=form))
    if apart:
        raise InputFault(
            f"{pair.prediction}: it lies on another grid than its truth ({apart}, truth first); "
            "predict on the image that the truth was drawn on.",
            code="E_PAIR",
        )
    truth, prediction = (
        read_labels(path, target.labels, form=form) for path in (pair.truth, pair.prediction)
    )
    return truth, prediction.on(truth.grid)


def _unscorable(refused: Sequence[Refused], *, count: int) -> InputFault:
    codes = {case.code for case in refused}
    return all_at_once(
        [case.line for case in refused],
        summary=f"{len(refused)} of {count} cases cannot be scored:",
        code=codes.pop() if len(codes) == 1 else "E_PAIR",
    )


def _summary(name: str, metric: str, values: np.ndarray, interval: np.ndarray) -> Summary:
    defined = values[~np.isnan(values)]
    nothing = defined.size == 0
    return Summary(
        name=name,
        metric=metric,
        mean=math.nan if nothing else float(defined.mean()),
        median=math.nan if nothing else float(np.median(defined)),
        sd=float(defined.std(ddof=1)) if defined.size > 1 else math.nan,
        low=float(interval[0]),
        high=float(interval[1]),
        cases=int(defined.size),
        undefined=int(values.size - defined.size),
    )
