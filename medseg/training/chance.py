"""The random numbers of a step: a function of (seed, step, rank), and of nothing before it."""

import random

import numpy as np
import torch


def seed_step(*, seed: int, step: int, rank: int, device: torch.device) -> None:
    """Seed every generator that a network may draw from (dropout, drop path) for one step."""
    words = np.random.SeedSequence([seed, step, rank]).generate_state(3, np.uint32)
    number = int(words[0]) << 31 | int(words[1]) >> 1
    # torch.manual_seed does the same, but notes down the whole call stack each time.
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        torch.cuda.manual_seed(number)
    # Our networks draw from torch alone; a user's own may draw from these.
    random.seed(number)
    np.random.seed(words[2])  # noqa: NPY002
