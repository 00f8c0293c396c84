"""How sure a mean over cases is: a seeded bootstrap."""

import numpy as np

RESAMPLES = 5000
LEVEL = 0.95


def bootstrap_intervals(
    values: np.ndarray, *, seed: int, resamples: int = RESAMPLES, level: float = LEVEL
) -> np.ndarray:
    """Percentile intervals (m, 2) of the means of m columns of `values` (cases, m).

    Cases are drawn with replacement, the same ones for every column; NaN is left out. With fewer
    than two numbers in a column there is no interval: NaN. (Efron and Tibshirani 1993, chapter 13)
    """
    cases = len(values)
    defined = ~np.isnan(values)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(cases, np.full(cases, 1 / cases), size=resamples).astype(np.float64)
    counts = drawn @ defined
    sums = drawn @ np.where(defined, values, 0.0)
    means = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
    intervals = np.full((values.shape[1], 2), np.nan)
    enough = defined.sum(axis=0) >= 2
    tails = 100 * np.array([(1 - level) / 2, (1 + level) / 2])
    if enough.any():
        intervals[enough] = np.nanpercentile(means[:, enough], tails, axis=0).T
    return intervals
