"""Every class interpolated everywhere, and compared: the truth.

Interpolation is a * (1 - t) + b * t along k, then j, then i, each operation rounded to float32. It
never falls where a or b rises, not even by rounding; the pruned form rests on that.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from medseg_kernels.pruned_export.places import Places


def interpolated(
    channel: Tensor,  # (i, j, k)
    places: Sequence[Places],
) -> Tensor:  # (a, b, c) float32
    """One channel at the target's voxels."""
    values = channel.float()
    for axis in (2, 1, 0):
        values = _along(values, places[axis], axis)
    return values


def argmax(
    logits: Tensor,  # (c, i, j, k)
    places: Sequence[Places],
) -> Tensor:  # (a, b, c) uint8 or int16
    """The first class of the largest interpolated logit."""
    best = interpolated(logits[0], places).clone()
    winner = empty_labels(logits, places, len(logits)).zero_()
    for index in range(1, len(logits)):
        values = interpolated(logits[index], places)
        # The one that is the largest so far keeps its place where the next is equal.
        winner.masked_fill_(values > best, index)
        torch.maximum(best, values, out=best)
    return winner


def regions(
    logits: Tensor,  # (r, i, j, k)
    places: Sequence[Places],
    values: Sequence[int],
) -> Tensor:  # (a, b, c) uint8 or int16
    """The value of the last region whose interpolated logit is above 0; 0 where none is."""
    labels = empty_labels(logits, places, max(values) + 1).zero_()
    for channel, value in zip(logits, values, strict=True):
        labels.masked_fill_(interpolated(channel, places) > 0, value)
    return labels


def empty_labels(values: Tensor, places: Sequence[Places], count: int) -> Tensor:  # (a, b, c)
    """Place for labels from 0 to `count` - 1, where `values` are."""
    return values.new_empty([len(place.left) for place in places], dtype=index_type(count))


def index_type(count: int) -> torch.dtype:
    """The smallest type for 0 to `count` - 1 that torch computes with."""
    return torch.uint8 if count <= 1 << 8 else torch.int16 if count <= 1 << 15 else torch.int32


def _along(values: Tensor, place: Places, axis: int) -> Tensor:
    if not place.moves:
        return values if _is_identity(place, values.shape[axis]) else _taken(values, place, axis)
    shape = [1, 1, 1]
    shape[axis] = -1
    right = (place.left + 1).clamp(max=values.shape[axis] - 1)
    beyond = place.beyond.reshape(shape)
    result = _taken(values, place, axis).mul_(1 - beyond)
    return result.add_(values.index_select(axis, right).mul_(beyond))


def _taken(values: Tensor, place: Places, axis: int) -> Tensor:
    return values.index_select(axis, place.left)


def _is_identity(place: Places, side: int) -> bool:
    return len(place.left) == side and bool((place.left.diff() == 1).all())
