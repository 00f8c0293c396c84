"""Weighted sums over windows, of the parts of a volume that windows still to come can touch."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from medseg.inference.blend import Blend
from medseg.inference.cuts import cuts_of
from medseg.inference.window import Triple, Windows, pieces
from medseg_kernels.window_sum import add_window

Slices = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Box:
    """Finished voxels of a volume from `first` on: sums over windows, and what they divide by.

    The first `before` planes along each axis, 0 or 1, were part of boxes before it; they are there
    for what lies between two boxes that are linked. `sums` and `counts` are views of memory that is
    used again.
    """

    first: Triple
    before: Triple
    sums: Float[Tensor, "f i j k"]
    counts: Float[Tensor, "i j k"]

    @property
    def place(self) -> Slices:
        """Where its own voxels lie in the volume."""
        starts = [a + b for a, b in zip(self.first, self.before, strict=True)]
        ends = [a + side for a, side in zip(self.first, self.counts.shape, strict=True)]
        i, j, k = map(slice, starts, ends)
        return i, j, k

    @property
    def mean(self) -> Float[Tensor, "f i j k"]:
        """The mean of its own voxels over windows: rounded as sums are, then float32."""
        i, j, k = (slice(before, None) for before in self.before)
        return (self.sums[:, i, j, k] / self.counts[i, j, k]).float()

    def logits(self, blend: Blend) -> Float[Tensor, "out i j k"]:
        """The logits of its own voxels."""
        mean = self.mean
        logits = mean.new_empty((blend.out_channels or len(mean), *mean.shape[1:]))
        blend.finish(mean, out=logits)
        return logits


class Bricks:
    """The sums, brick by brick (see `cuts`).

    They lie as `result` does, channels first or last, and take its channels and device. Bricks are
    `linked` along the axes where what lies between them will be asked for.
    """

    def __init__(
        self,
        windows: Windows,
        axes: Triple,
        *,
        result: Float[Tensor, "f i j k"],
        dtype: torch.dtype,
        linked: tuple[bool, bool, bool],
    ) -> None:
        self._windows = windows
        self._cuts = cuts_of(windows, axes, linked)
        self._channels = len(result)
        self._is_channels_last = result.stride(0) == 1 and len(result) > 1
        self._weight = windows.weight.to(result.device)
        self._make = {"dtype": dtype, "device": result.device}
        self._open: dict[Triple, _Brick] = {}
        self._edges: dict[Triple, list[tuple[int, _Brick]]] = {}
        self._free: list[Tensor] = []

    def add(self, place: Triple, result: Float[Tensor, "f i j k"]) -> None:
        """Add one window at its place."""
        inside = [
            pieces(start, size, side)[0]
            for start, size, side in zip(
                place, self._windows.patch_size, self._windows.shape, strict=True
            )
        ]
        touched = [
            cuts.over(part.start, part.stop) for cuts, part in zip(self._cuts, inside, strict=True)
        ]
        for i, j, k in itertools.product(*touched):
            brick = self._brick((i, j, k))
            into, of = self._shared((i, j, k), inside, place)
            add_window(
                brick.sums[(slice(None), *into)],
                brick.counts[into],
                result[(slice(None), *of)],
                self._weight[of],
            )

    def finished(self, window: Triple) -> Iterator[Box]:
        """Hand on the bricks that no window after this one touches; it is given by its numbers."""
        last = [cuts.finished_by(number) for cuts, number in zip(self._cuts, window, strict=True)]
        for i, j, k in itertools.product(*last):
            yield self._closed((i, j, k))

    def _shared(self, key: Triple, inside: list[slice], place: Triple) -> tuple[Slices, Slices]:
        """What a brick and a window have in common, counted from the beginning of each."""
        into, of = [], []
        for cuts, piece, part, start in zip(self._cuts, key, inside, place, strict=True):
            low = max(cuts.bounds[piece], part.start)
            high = min(cuts.bounds[piece + 1], part.stop)
            begin = cuts.bounds[piece] - cuts.before(piece)
            into.append(slice(low - begin, high - begin))
            of.append(slice(low - start, high - start))
        return (into[0], into[1], into[2]), (of[0], of[1], of[2])

    def _closed(self, key: Triple) -> Box:
        brick = self._open.pop(key)
        for axis, edge in self._edges.pop(key, []):
            brick.plane(axis, 0).copy(edge)
        for axis, piece in enumerate(key):
            if self._cuts[axis].linked and piece + 1 < len(self._cuts[axis]):
                i, j, k = (n + (axis == other) for other, n in enumerate(key))
                edge = brick.plane(axis, -1).clone()
                self._edges.setdefault((i, j, k), []).append((axis, edge))
        self._free.append(brick.memory)
        pairs = list(zip(self._cuts, key, strict=True))
        a, b, c = (cuts.before(piece) for cuts, piece in pairs)
        i, j, k = (cuts.bounds[piece] - cuts.before(piece) for cuts, piece in pairs)
        return Box((i, j, k), (a, b, c), brick.sums, brick.counts)

    def _brick(self, key: Triple) -> "_Brick":
        brick = self._open.get(key)
        if brick is None:
            shape = [
                cuts.bounds[piece + 1] - cuts.bounds[piece] + cuts.before(piece)
                for cuts, piece in zip(self._cuts, key, strict=True)
            ]
            room = math.prod(cuts.room(n) for cuts, n in zip(self._cuts, key, strict=True))
            memory = self._memory(room * (self._channels + 1))
            brick = self._open[key] = _Brick.over(
                memory, shape, channels=self._channels, last=self._is_channels_last
            )
        return brick

    def _memory(self, size: int) -> Tensor:
        """Zeros; memory that a finished brick of this size has left where there is such."""
        for place, memory in enumerate(self._free):
            if memory.numel() == size:
                return self._free.pop(place).zero_()
        # What does not fit is given back, so that no more is held than the open bricks take.
        self._free.clear()
        return torch.zeros(size, **self._make)


@dataclass(frozen=True)
class _Brick:
    sums: Tensor  # (f, i, j, k)
    counts: Tensor  # (i, j, k)
    memory: Tensor  # what both lie in

    @classmethod
    def over(cls, memory: Tensor, shape: list[int], *, channels: int, last: bool) -> "_Brick":
        voxels = math.prod(shape)
        sums, counts = memory[: channels * voxels], memory[-voxels:].view(shape)
        if last:
            return cls(sums.view(*shape, channels).movedim(-1, 0), counts, memory)
        return cls(sums.view(channels, *shape), counts, memory)

    def plane(self, axis: int, place: int) -> "_Brick":
        place %= self.counts.shape[axis]
        sums, counts = self.sums.narrow(axis + 1, place, 1), self.counts.narrow(axis, place, 1)
        return _Brick(sums, counts, self.memory)

    def clone(self) -> "_Brick":
        sums = self.sums.clone()
        return _Brick(sums, self.counts.clone(), sums)

    def copy(self, other: "_Brick") -> None:
        self.sums.copy_(other.sums)
        self.counts.copy_(other.counts)
