"""Several methods scored on the same cases: a row each, and the tests between them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from medseg.evaluation.evaluate import SEED
from medseg.evaluation.interval import bootstrap_intervals
from medseg.evaluation.paired import PairedTest, paired_tests

METRICS = ("dice", "nsd", "hd95_mm")


@dataclass(frozen=True)
class Effort:
    """What a method took: its network, and the training of it (means over folds, peaks largest).

    `gmacs` are 10^9 multiply-adds for a training patch; NaN where they cannot be counted.
    """

    parameters: int
    gmacs: float
    patch_size: tuple[int, ...]
    batch_size: int
    peak_memory_gb: float
    seconds_per_step: float
    steps: float
    minutes: float


@dataclass(frozen=True, eq=False)
class Scored:
    """A metric a case by structure; `cases` are in the order of all arrays."""

    cases: tuple[str, ...]
    headline: tuple[str, ...]
    values: Mapping[tuple[str, str], np.ndarray]

    @classmethod
    def from_reports(cls, reports: Sequence[Mapping[str, Any]]) -> Self:
        """The cases of one or more evaluations (their `scores.json`), one after the other."""
        cases = [case for report in reports for case in report["cases"]]
        headline = tuple(reports[0]["mean_over"])
        values = {
            (name, metric): np.array([_number(case["scores"][name][metric]) for case in cases])
            for name in headline
            for metric in METRICS
        }
        return cls(tuple(case["case"] for case in cases), headline, values)

    def means(self, metric: str) -> np.ndarray:
        """Mean over structures for every case, undefined ones left out; NaN where all are."""
        table = np.stack([self.values[name, metric] for name in self.headline])
        defined = ~np.isnan(table)
        counts = defined.sum(axis=0)
        sums = np.where(defined, table, 0.0).sum(axis=0)
        return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


@dataclass(frozen=True, eq=False)
class Row:
    """A method. Without `scored` it failed, and `code` and `message` say why."""

    name: str
    network: str
    scored: Scored | None = None
    effort: Effort | None = None
    code: str = ""
    message: str = ""


@dataclass(frozen=True)
class Estimate:
    """A mean over cases with its 95 % interval, and the cases where the metric has no value."""

    mean: float
    low: float
    high: float
    undefined: int


@dataclass(frozen=True, eq=False)
class Comparison:
    """Rows in the order they were asked for; `budget` and `split` say what they share."""

    title: str
    rows: tuple[Row, ...]
    budget: str
    split: str

    def __post_init__(self) -> None:
        assert len({row.scored.cases for row in self.done if row.scored}) <= 1

    @property
    def done(self) -> tuple[Row, ...]:
        """The rows that have scores."""
        return tuple(row for row in self.rows if row.scored is not None)

    @property
    def cases(self) -> int:
        """How many cases each row is scored on."""
        scored = [row.scored for row in self.done if row.scored]
        return len(scored[0].cases) if scored else 0

    @property
    def best(self) -> str:
        """The row with the highest mean Dice; empty where there is none."""
        means = {row.name: estimate(row, "dice").mean for row in self.done}
        return max(means, key=lambda name: means[name], default="")

    def tests(self) -> tuple[PairedTest, ...]:
        """Each pair of rows, by the mean Dice of every case."""
        scored = [row.scored for row in self.done if row.scored]
        return paired_tests([row.name for row in self.done], [one.means("dice") for one in scored])

    def to_best(self) -> Mapping[str, PairedTest]:
        """By name, each row less the best one."""
        best = self.best
        found = {}
        for test in self.tests():
            if test.second == best:
                found[test.first] = test
            elif test.first == best:
                found[test.second] = _turned(test)
        return found


def estimate(row: Row, metric: str, name: str | None = None) -> Estimate:
    """A metric of one structure, or of the mean over them."""
    assert row.scored is not None
    values = row.scored.means(metric) if name is None else row.scored.values[name, metric]
    low, high = bootstrap_intervals(values[:, None], seed=SEED)[0]
    defined = values[~np.isnan(values)]
    return Estimate(
        mean=float(defined.mean()) if defined.size else math.nan,
        low=float(low),
        high=float(high),
        undefined=int(values.size - defined.size),
    )


def effort_of(runs: Sequence[Mapping[str, Any]]) -> Effort:
    """The effort of a method from what was measured in each of its runs."""
    first = runs[0]
    return Effort(
        parameters=first["parameters"],
        gmacs=_number(first["gmacs"]),
        patch_size=tuple(first["patch_size"]),
        batch_size=first["batch_size"],
        peak_memory_gb=max(run["peak_memory_gb"] for run in runs),
        seconds_per_step=float(np.mean([_number(run["seconds_per_step"]) for run in runs])),
        steps=float(np.mean([run["steps"] for run in runs])),
        minutes=float(np.mean([run["seconds"] / 60 for run in runs])),
    )


def facts_of(comparison: Comparison) -> list[dict[str, Any]]:
    """A flat mapping a row, the same keys in all; NaN where there is nothing to tell."""
    tests, best = comparison.to_best(), comparison.best
    headline = next((row.scored.headline for row in comparison.done if row.scored), ())
    return [_facts(row, headline, tests.get(row.name), best) for row in comparison.rows]


def _facts(row: Row, headline: Sequence[str], test: PairedTest | None, best: str) -> dict[str, Any]:
    nothing = Estimate(math.nan, math.nan, math.nan, 0)
    found = {m: estimate(row, m) if row.scored else nothing for m in METRICS}
    labels = {
        f"dice {name}": (estimate(row, "dice", name).mean if row.scored else math.nan)
        for name in headline
    }
    effort = row.effort or Effort(0, math.nan, (), 0, math.nan, math.nan, math.nan, math.nan)
    return {
        "name": row.name,
        "network": row.network,
        "state": "done" if row.scored else "failed",
        "code": row.code,
        "dice": found["dice"].mean,
        "dice_low": found["dice"].low,
        "dice_high": found["dice"].high,
        "nsd": found["nsd"].mean,
        "hd95_mm": found["hd95_mm"].mean,
        "hd95_undefined": found["hd95_mm"].undefined,
        **labels,
        **asdict(effort),
        "patch_size": " x ".join(map(str, effort.patch_size)),
        "is_best": row.name == best,
        "difference_to_best": test.difference if test else math.nan,
        "difference_low": test.low if test else math.nan,
        "difference_high": test.high if test else math.nan,
        "p_holm": test.p_holm if test else math.nan,
    }


def _turned(test: PairedTest) -> PairedTest:
    return PairedTest(
        test.second,
        test.first,
        -test.difference,
        -test.high,
        -test.low,
        test.p,
        test.p_holm,
        test.cases,
    )


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
