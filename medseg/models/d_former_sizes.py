"""Which sizes D-Former takes: any, or with `faithful` those that its reference can cut."""

import itertools
import math

from medseg.models.shape import ShapePolicy
from medseg.nn.token_groups import IntervalScope

Triple = tuple[int, int, int]
Four = tuple[int, int, int, int]

STAGES = 4


def shape_policy(token_size: Triple, *, faithful: bool) -> ShapePolicy:
    """The rule that holds for all sizes; `reference_refuses` has one for each."""
    if not faithful:
        return ShapePolicy()
    i, j, k = (side * 2 ** (STAGES - 1) for side in token_size)
    return ShapePolicy(divisor=(i, j, k), minimum=(i, j, k))


def reference_refuses(
    size: Triple, *, token_size: Triple, group_size: Triple, intervals: Four
) -> str | None:
    """Why the reference cannot cut an input of this size into groups, and what it can; or None.

    The size obeys the shape policy.
    """
    refusal = _refuses(size, token_size, group_size, intervals)
    if refusal is None:
        return None
    steps = shape_policy(token_size, faithful=True).divisor
    larger = sorted(
        itertools.product(range(8), repeat=3), key=lambda more: _volume(size, steps, more)
    )
    for more in larger:
        near = _grown(size, steps, more)
        if _refuses(near, token_size, group_size, intervals) is None:
            return f"{_times(size)} voxels: {refusal}; the nearest that fits is {_times(near)}"
    return f"{_times(size)} voxels: {refusal}"


def _refuses(size: Triple, token_size: Triple, group_size: Triple, intervals: Four) -> str | None:
    for stage, interval in enumerate(intervals):
        i, j, k = (side // (t * 2**stage) for side, t in zip(size, token_size, strict=True))
        refusal = IntervalScope(group_size, interval).refuses((i, j, k))
        if refusal is not None:
            return f"at stage {stage} {refusal} with `faithful: true`"
    return None


def _grown(size: Triple, steps: Triple, more: tuple[int, ...]) -> Triple:
    i, j, k = (side + step * n for side, step, n in zip(size, steps, more, strict=True))
    return i, j, k


def _volume(size: Triple, steps: Triple, more: tuple[int, ...]) -> int:
    return math.prod(_grown(size, steps, more))


def _times(size: Triple) -> str:
    return "x".join(map(str, size))
