"""The walk of windows along one axis of a volume.

Only the planes that windows still to come can touch are held: a ring as deep as the patch. Planes
that no further window touches are handed on and their memory is used again, so what is held does
not grow with the length of the volume.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from medseg.inference.blend import Blend, BlendLogits, Mirroring, Network
from medseg.inference.window import Windows, pieces, window_of
from medseg.progress import Listener, Progress, silent


@dataclass(frozen=True)
class Slab:
    """Finished planes `first` to `first + n` along the axis of the walk, averaged over windows.

    `mean` is a view of memory that the walk uses again afterwards.
    """

    first: int
    mean: Float[Tensor, "f i j k"]

    def place(self, blend: Blend, logits: Float[Tensor, "out i j k"], *, axis: int) -> None:
        """Write the logits of these planes where they belong in those of the whole."""
        some = torch.empty((len(logits), *self.mean.shape[1:]), device=self.mean.device)
        blend.finish(self.mean, out=some)
        logits.narrow(axis + 1, self.first, some.shape[axis + 1]).copy_(some)


@dataclass(frozen=True, kw_only=True)
class Walk:
    """How the windows are run: `batch_size` at a time on `device`, summed on `sums_device`.

    `sums` is the type that the sums are kept in.
    """

    windows: Windows
    axis: int
    batch_size: int = 1
    device: torch.device | str = "cpu"
    sums_device: torch.device | str = "cpu"
    sums: torch.dtype = torch.float32
    autocast: torch.dtype | None = None

    def slabs(
        self, blend: Blend, image: Float[Tensor, "c i j k"], *, listener: Listener = silent
    ) -> Iterator[Slab]:
        """The finished planes of `image`, in their order."""
        ring: _Ring | None = None
        done = 0
        for start, following, rows in self._rows():
            for first in range(0, len(rows), self.batch_size):
                places = rows[first : first + self.batch_size]
                ring = self._added(ring, places, blend, image)
                done += len(places)
                listener(Progress("windows", done, len(self.windows)))
            assert ring is not None
            yield from ring.finished(max(start, 0), following)

    def _rows(self) -> Iterator[tuple[int, int, list[tuple[int, int, int]]]]:
        """Windows that share a place along the axis, and where the next ones begin."""
        along = self.windows.starts[self.axis]
        ends = (*along[1:], self.windows.shape[self.axis])
        for start, following in zip(along, ends, strict=True):
            fixed = [(start,) if n == self.axis else self.windows.starts[n] for n in range(3)]
            yield start, following, [(i, j, k) for i, j, k in itertools.product(*fixed)]

    def _added(
        self,
        ring: "_Ring | None",
        places: list[tuple[int, int, int]],
        blend: Blend,
        image: Tensor,
    ) -> "_Ring":
        """The ring, made with the first windows, and the results of `places` in it."""
        # A function of its own, so that no result is held while the next windows run.
        results = self._run(blend, image, places)
        ring = ring or _Ring(self, channels=results.shape[1])
        for place, result in zip(places, results, strict=True):
            ring.add(place, result)
        return ring

    def _run(
        self, blend: Blend, image: Tensor, places: list[tuple[int, int, int]]
    ) -> Float[Tensor, "b f i j k"]:
        batch = torch.stack([window_of(image, place, self.windows.patch_size) for place in places])
        batch = batch.to(self.device)
        kind = batch.device.type
        # Not inference_mode: what a network caches there could not be used in training afterwards.
        with (
            torch.no_grad(),
            torch.autocast(kind, dtype=self.autocast, enabled=self.autocast is not None),
        ):
            return blend.run(batch).to(self.sums_device, torch.float32)


def gathered(
    walk: Walk, blend: Blend, image: Float[Tensor, "c i j k"], *, listener: Listener = silent
) -> Float[Tensor, "out i j k"]:
    """The logits of the whole image, float32, where `image` is."""
    result: Tensor | None = None
    for slab in walk.slabs(blend, image, listener=listener):
        if result is None:
            channels = blend.out_channels or len(slab.mean)
            result = image.new_empty((channels, *image.shape[1:]), dtype=torch.float32)
        slab.place(blend, result, axis=walk.axis)
    assert result is not None
    return result


def sliding_window(
    model: Network,
    image: Float[Tensor, "c i j k"],
    *,
    patch_size: tuple[int, int, int],
    overlap: float = 0.5,
    batch_size: int = 1,
) -> Float[Tensor, "out i j k"]:
    """Logits of `image` by MONAI's windows, float32, on its device; for validation in training."""
    i, j, k = image.shape[1:]
    windows = Windows.over((i, j, k), patch_size, overlap=overlap)
    walk = Walk(
        windows=windows,
        axis=windows.walk_axis(),
        batch_size=batch_size,
        device=image.device,
        sums_device=image.device,
    )
    return gathered(walk, BlendLogits([model], Mirroring(), channels=0), image)


class _Ring:
    """Weighted sums of the planes that are open, and the sums of the weights."""

    def __init__(self, walk: Walk, *, channels: int) -> None:
        self.windows, self.axis = walk.windows, walk.axis
        shape = list(self.windows.shape)
        self.depth = min(self.windows.patch_size[self.axis], shape[self.axis])
        shape[self.axis] = self.depth
        self.weight = self.windows.weight.to(walk.sums_device)
        make = {"dtype": walk.sums, "device": walk.sums_device}
        self.sums = torch.zeros((channels, *shape), **make)
        self.counts = torch.zeros(shape, **make)

    def add(self, place: tuple[int, int, int], result: Float[Tensor, "f i j k"]) -> None:
        """Add one window at its place."""
        parts = [
            pieces(start, size, side)
            for start, size, side in zip(
                place, self.windows.patch_size, self.windows.shape, strict=True
            )
        ]
        for low, high in self._turns(parts[self.axis][0].start, parts[self.axis][0].stop):
            into, of = [part[0] for part in parts], [part[1] for part in parts]
            into[self.axis] = slice(low % self.depth, low % self.depth + high - low)
            of[self.axis] = slice(low - place[self.axis], high - place[self.axis])
            weight = self.weight[tuple(of)]
            self.counts[tuple(into)] += weight
            for sums, values in zip(self.sums, result, strict=True):
                # Channel by channel, so that what rounding needs stays small.
                sums[tuple(into)].addcmul_(values[tuple(of)], weight)

    def finished(self, low: int, high: int) -> Iterator[Slab]:
        """Hand on the planes from `low` to `high`, and clear them."""
        for first, last in self._turns(low, high):
            place, planes = first % self.depth, last - first
            counts = self.counts.narrow(self.axis, place, planes)
            sums = self.sums.narrow(self.axis + 1, place, planes)
            yield Slab(first, sums.div_(counts))
            sums.zero_()
            counts.zero_()

    def _turns(self, low: int, high: int) -> Iterator[tuple[int, int]]:
        """Planes `low` to `high`, cut where the ring begins anew."""
        while low < high:
            turn = min(high, (low // self.depth + 1) * self.depth)
            yield low, turn
            low = turn
