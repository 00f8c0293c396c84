"""The learning rate as a factor of how far the run is, 0 at its start and 1 at its end.

Progress is counted in steps, or in time where the run has a time limit: either way the schedule
has run its course when the run ends.
"""

import math
from collections.abc import Callable

Schedule = Callable[[float], float]


def poly(*, exponent: float = 0.9) -> Schedule:
    """(1 - p)^exponent, nnU-Net's."""

    def factor(progress: float) -> float:
        return (1.0 - min(max(progress, 0.0), 1.0)) ** exponent

    return factor


def warmup_cosine(*, warmup: float = 0.02, final: float = 0.0) -> Schedule:
    """A linear rise over the first `warmup` of the run, then half a cosine down to `final`."""

    def factor(progress: float) -> float:
        progress = min(max(progress, 0.0), 1.0)
        if progress < warmup:
            return max(progress / warmup, 1e-2)
        along = (progress - warmup) / (1.0 - warmup)
        return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * along))

    return factor
