"""Only what can change the outcome is interpolated.

Interpolation mixes the eight corners of a cell with weights that are never negative. So

- where the corners have one winner, the target has it too: nothing is computed;
- a class that wins at no corner is at each corner at most the second largest there, so its mix is
  at most the mix of the second largest: if a winner of a corner mixes to more, it wins;
- what is left (a third class may rise between two others) compares every class.

Regions: where the corners have one sign, so has the target.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medseg_kernels.pruned_export import reference
from medseg_kernels.pruned_export.blocks import Block, blocks
from medseg_kernels.pruned_export.places import Places
from medseg_kernels.pruned_export.source import Source

# Source voxels whose classes are compared at a time: they stay in a core's cache.
RUN = 1 << 13
# So many classes are compared without asking first which can be left out.
FEW = 8
# Target voxels that are computed at a time.
CHUNK = 1 << 16
# Where more than this share of the voxels would compare every class, it is done without gathering.
DENSE = 0.25


def argmax(source: Source, places: tuple[Places, Places, Places]) -> Tensor:  # (a, b, c)
    """The first class of the largest interpolated logit."""
    labels = reference.empty_labels(source.values, places, source.classes)
    for block in blocks(source, places):
        winner, second = _two_largest(block.logits)
        low, mixed = _by_cells(winner, block.places)
        labels[block.rows] = low
        _decide(block, winner, second, mixed, labels[block.rows])
    return labels


def regions(
    source: Source, places: tuple[Places, Places, Places], values: Sequence[int]
) -> Tensor:  # (a, b, c)
    """The value of the last region whose interpolated logit is above 0; 0 where none is."""
    labels = reference.empty_labels(source.values, places, max(values) + 1).zero_()
    for block in blocks(source, places):
        part = labels[block.rows]
        for index, (channel, value) in enumerate(zip(block.logits, values, strict=True)):
            inside, mixed = _by_cells((channel > 0).byte(), block.places)
            part.masked_fill_(inside.bool() & ~mixed, value)
            flat = part.view(-1)
            for chunk in torch.nonzero(mixed.view(-1))[:, 0].split(CHUNK):
                corners = _Corners.around(chunk, block)
                above = corners.mix(block.flat, block.origin + index * block.stride) > 0
                flat[chunk[above]] = value
    return labels


def _two_largest(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The first of the largest class of each voxel (i, j, k), and the second largest logit."""
    shape = logits.shape[1:]
    flat = logits.reshape(len(logits), -1)
    winner = torch.zeros(flat.shape[1], dtype=reference.index_type(len(flat)), device=flat.device)
    second = torch.full((flat.shape[1],), -torch.inf, device=flat.device)
    run = RUN if flat.device.type == "cpu" else flat.shape[1]
    for low in range(0, flat.shape[1], run):
        part = flat[:, low : low + run]
        _compare(part, winner[low : low + run], second[low : low + run])
    return winner.view(shape), second.view(shape)


def _compare(logits: Tensor, winner: Tensor, second: Tensor) -> None:
    classes = _possible(logits)
    best = logits[classes[0]].clone()
    winner.fill_(classes[0])
    wins, lesser = torch.empty_like(best, dtype=torch.bool), torch.empty_like(best)
    for index in classes[1:]:
        values = logits[index]
        torch.gt(values, best, out=wins)
        winner.masked_fill_(wins, index)
        torch.minimum(values, best, out=lesser)
        torch.maximum(second, lesser, out=second)
        torch.maximum(best, values, out=best)


def _possible(logits: Tensor) -> list[int]:
    """The classes that are first or second at some voxel, and perhaps others, in their order.

    Where two classes are nowhere below a floor, a class that is below it everywhere is neither.
    """
    if len(logits) <= FEW:
        return list(range(len(logits)))
    largest = logits.amax(dim=1)
    first, second = largest.topk(2).indices.tolist()
    floor = torch.minimum(logits[first], logits[second]).amin()
    return torch.nonzero(largest >= floor)[:, 0].tolist()


def _by_cells(source: Tensor, places: Sequence[Places]) -> tuple[Tensor, Tensor]:
    """The smallest value among the corners of each target voxel's cell, and if there are others."""
    low, high = source, source
    for axis, place in enumerate(places):
        if place.moves:
            low, high = _with_next(low, axis, torch.minimum), _with_next(high, axis, torch.maximum)
    mixed = low != high
    # From the last axis to the first: the others then move whole rows.
    for axis in (2, 1, 0):
        low = low.index_select(axis, places[axis].left)
        mixed = mixed.index_select(axis, places[axis].left)
    return low, mixed


def _with_next(values: Tensor, axis: int, choose: Callable[..., Tensor]) -> Tensor:
    side = values.shape[axis]
    result = values.clone()
    if side > 1:
        inner = result.narrow(axis, 0, side - 1)
        choose(values.narrow(axis, 0, side - 1), values.narrow(axis, 1, side - 1), out=inner)
    return result


@dataclass(frozen=True)
class _Corners:
    """The corners around n target voxels, and how they are mixed.

    `offsets` are places in the block; the far half along the last axis that moves comes second,
    and so on within the halves. `beyond` has a tensor (n,) for each axis that moves, last first.
    """

    offsets: Tensor  # (corner, n)
    beyond: tuple[Tensor, ...]

    @classmethod
    def around(cls, flat: Tensor, block: Block) -> "_Corners":
        """The corners of the target voxels numbered `flat`."""
        sides, source = [len(place.left) for place in block.places], block.logits.shape[1:]
        row = torch.div(flat, sides[2], rounding_mode="floor")
        index = (torch.div(row, sides[1], rounding_mode="floor"), row % sides[1], flat % sides[2])
        strides = (source[1] * source[2], source[2], 1)
        offsets = torch.zeros((1, len(flat)), dtype=torch.int64, device=flat.device)
        beyond: tuple[Tensor, ...] = ()
        for axis, place in enumerate(block.places):
            left = place.left[index[axis]]
            near = offsets + left * strides[axis]
            if not place.moves:
                offsets = near
                continue
            step = (left < source[axis] - 1) * strides[axis]
            offsets = torch.cat([near, near + step])
            beyond = (place.beyond[index[axis]], *beyond)
        return cls(offsets, beyond)

    def some(self, which: Tensor) -> "_Corners":
        """The corners of some of the voxels."""
        return _Corners(self.offsets[:, which], tuple(share[which] for share in self.beyond))

    def mix(self, values: Tensor, shift: Tensor | int = 0) -> Tensor:  # (n,)
        """The values at the corners, each `shift` further on, mixed as the reference does."""
        mixed = values.take(self.offsets + shift)
        for beyond in self.beyond:
            near, far = mixed.chunk(2)
            mixed = near * (1 - beyond) + far * beyond
        return mixed[0]


def _decide(block: Block, winner: Tensor, second: Tensor, mixed: Tensor, labels: Tensor) -> None:
    """Set the voxels of `labels` whose cell has several winners."""
    open_ = torch.nonzero(mixed.view(-1))[:, 0]
    if len(open_) == 0:
        return
    flat, winners, bounds = labels.view(-1), winner.view(-1), second.view(-1)
    done = dense = 0
    for chunk in open_.split(CHUNK):
        corners = _Corners.around(chunk, block)
        best, value = _best_of_corners(corners, block, winners)
        rest = torch.nonzero(value <= corners.mix(bounds))[:, 0]
        done, dense = done + len(chunk), dense + len(rest)
        if dense / done * len(open_) > DENSE * mixed.numel():
            labels.copy_(reference.argmax(block.logits, block.places))
            return
        best[rest] = _best_of_all(corners.some(rest), block)
        flat[chunk] = best.to(flat.dtype)


def _best_of_corners(
    corners: _Corners, block: Block, winners: Tensor
) -> tuple[Tensor, Tensor]:  # (n,), (n,)
    """Of the classes that win at a corner the first of the largest, and its value."""
    found = winners.take(corners.offsets)
    low, high = found.amin(dim=0), found.amax(dim=0)
    best, value = _larger(corners, block, low.long(), high.long())
    # Most cells hold two classes. Those with more look at each corner's.
    more = torch.nonzero(((found != low) & (found != high)).any(dim=0))[:, 0]
    if len(more):
        few, ordered = corners.some(more), found[:, more].long().sort(dim=0).values
        chosen, largest = best[more], value[more]
        for candidate in ordered[1:-1]:
            other = few.mix(block.flat, candidate * block.stride + block.origin)
            wins = (other > largest) | ((other == largest) & (candidate < chosen))
            chosen = torch.where(wins, candidate, chosen)
            largest = torch.where(wins, other, largest)
        best[more], value[more] = chosen, largest
    return best, value


def _larger(
    corners: _Corners, block: Block, low: Tensor, high: Tensor
) -> tuple[Tensor, Tensor]:  # (n,), (n,)
    of_low = corners.mix(block.flat, low * block.stride + block.origin)
    of_high = corners.mix(block.flat, high * block.stride + block.origin)
    wins = of_high > of_low
    return torch.where(wins, high, low), torch.where(wins, of_high, of_low)


def _best_of_all(corners: _Corners, block: Block) -> Tensor:  # (n,)
    value = corners.mix(block.flat, block.origin)
    best = torch.zeros(len(value), dtype=torch.int64, device=value.device)
    for index in range(1, len(block.logits)):
        other = corners.mix(block.flat, block.origin + index * block.stride)
        best.masked_fill_(other > value, index)
        torch.maximum(value, other, out=value)
    return best
