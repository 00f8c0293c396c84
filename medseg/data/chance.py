"""Chance that is a function of what is drawn, not of when: the same sample on any worker or rank.

A generator is made of (seed, purpose, number). Nothing has to be saved for a run to continue.
"""

import numpy as np

ORDER, SAMPLE = 1, 2


def generator(seed: int, purpose: int, number: int) -> np.random.Generator:
    """The generator of draw `number` for `purpose`."""
    return np.random.default_rng(np.random.SeedSequence([seed, purpose, number]))


def case_of_sample(number: int, cases: tuple[str, ...], *, seed: int) -> str:
    """Which case sample `number` is of: all cases once, in a new order, before any comes again."""
    lap, place = divmod(number, len(cases))
    return cases[generator(seed, ORDER, lap).permutation(len(cases))[place]]
