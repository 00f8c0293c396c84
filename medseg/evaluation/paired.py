"""Two methods on the same cases: whether their difference is more than chance, and how large."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from scipy.stats import wilcoxon

from medseg.evaluation.evaluate import SEED
from medseg.evaluation.interval import bootstrap_intervals


@dataclass(frozen=True)
class PairedTest:
    """`first` less `second` over the cases of both.

    `low` to `high` is the 95 % bootstrap interval of the mean `difference`; `p` is Wilcoxon's, and
    `p_holm` the same after Holm's correction for all the pairs that were tested.
    """

    first: str
    second: str
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    cases: int


def paired_tests(names: Sequence[str], values: Sequence[np.ndarray]) -> tuple[PairedTest, ...]:
    """Every pair of `names`; `values` holds a number a case for each, the cases in one order."""
    pairs = list(combinations(range(len(names)), 2))
    differences = [values[a] - values[b] for a, b in pairs]
    ps = [wilcoxon_p(difference) for difference in differences]
    tests = []
    for (a, b), difference, p, p_holm in zip(pairs, differences, ps, holm(ps), strict=True):
        low, high = bootstrap_intervals(difference[:, None], seed=SEED)[0]
        mean = float(difference.mean())
        tests.append(
            PairedTest(
                names[a], names[b], mean, float(low), float(high), p, p_holm, len(difference)
            )
        )
    return tuple(tests)


def wilcoxon_p(differences: np.ndarray) -> float:
    """Two-sided p of the signed-rank test, ties in pairs left out; 1 where nothing differs."""
    differing = differences[differences != 0]
    if not differing.size:
        return 1.0
    found: Any = wilcoxon(differing)
    return float(found.pvalue)


def holm(ps: Sequence[float]) -> tuple[float, ...]:
    """Holm's step-down adjustment, in the order given (Holm 1979, Scand. J. Statist. 6, 65)."""
    adjusted = [0.0] * len(ps)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=lambda place: ps[place])):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[place]))
        adjusted[place] = largest
    return tuple(adjusted)
