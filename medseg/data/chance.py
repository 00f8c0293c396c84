"""Chance that is a function of what is drawn, not of when: the same sample on any worker or rank.

Each draw has a state made of (seed, purpose, number), so nothing is saved for a run to continue.
"""

import numpy as np

ORDER, SAMPLE = 1, 2


def state(seed: int, purpose: int, number: int) -> np.random.RandomState:
    """The state of draw `number` for `purpose`, in the form that MONAI's transforms take."""
    sequence = np.random.SeedSequence([seed, purpose, number])
    return np.random.RandomState(np.random.PCG64(sequence))


def case_of_sample(number: int, cases: tuple[str, ...], *, seed: int) -> str:
    """Which case sample `number` is of: all cases once, in a new order, before any comes again."""
    lap, place = divmod(number, len(cases))
    return cases[state(seed, ORDER, lap).permutation(len(cases))[place]]
