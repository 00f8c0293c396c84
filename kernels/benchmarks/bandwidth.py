"""What a machine reaches at best, for the bounds in the tables."""

import statistics

import torch
from measured import in_turn


def copied(device: str) -> float:
    """Bytes a millisecond that a copy reads and writes, of a tensor that no cache holds."""
    numbers = torch.ones(2**28 if device == "cuda" else 2**26, device=device)
    target = torch.empty_like(numbers)
    times = in_turn([lambda: target.copy_(numbers)], repeats=5, device=device)[0]
    return 2 * numbers.nbytes / statistics.median(times)


def multiplied(device: str, dtype: torch.dtype) -> float:
    """Floating-point operations a millisecond of a large product of matrices."""
    side = 8192 if device == "cuda" else 1024
    a, b = (torch.randn(side, side, dtype=dtype, device=device) for _ in range(2))
    return 2 * side**3 / statistics.median(in_turn([lambda: a @ b], repeats=3, device=device)[0])
