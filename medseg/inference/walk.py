"""The walk of windows over a volume.

Only the bricks that windows still to come can touch are held. Those that no further window touches
are handed on and their memory is used again, so what is held does not grow with the volume along
the axis that is walked first; where windows overlap by half, it is little more than half as deep as
a window.
"""

import itertools
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from medseg.inference.blend import Blend, BlendLogits, Mirroring, Network
from medseg.inference.bricks import Box, Bricks
from medseg.inference.cuts import walk_axes
from medseg.inference.window import Triple, Windows, window_of
from medseg.nn.memory import reused_memory
from medseg.progress import Listener, Progress, silent


@dataclass(frozen=True, kw_only=True)
class Walk:
    """How the windows are run: `batch_size` at a time on `device`, summed on `sums_device`.

    Windows follow each other along the last of `axes`, then the second, then the first. `sums` is
    the type that the sums are kept in. With `keeps_memory` what one window frees waits for the next
    inside `memory`.
    """

    windows: Windows
    axes: Triple
    batch_size: int = 1
    device: torch.device | str = "cpu"
    sums_device: torch.device | str = "cpu"
    sums: torch.dtype = torch.float32
    autocast: torch.dtype | None = None
    keeps_memory: bool = False

    def memory(self) -> AbstractContextManager[None]:
        """What the walk is to be within."""
        return reused_memory() if self.keeps_memory else nullcontext()

    def boxes(
        self,
        blend: Blend,
        image: Float[Tensor, "c i j k"],
        *,
        linked: tuple[bool, bool, bool] = (False, False, False),
        listener: Listener = silent,
    ) -> Iterator[Box]:
        """The finished parts of `image`, each after those before it along every axis.

        Along `linked` axes the last plane of each stands before the next one too.
        """
        bricks: Bricks | None = None
        numbers = self._numbers()
        for first in range(0, len(numbers), self.batch_size):
            batch = numbers[first : first + self.batch_size]
            places = [self._place(number) for number in batch]
            results = self._run(blend, image, places)
            if bricks is None:
                bricks = Bricks(
                    self.windows, self.axes, result=results[0], dtype=self.sums, linked=linked
                )
            for n, (number, place) in enumerate(zip(batch, places, strict=True)):
                bricks.add(place, results[n])
                yield from bricks.finished(number)
            # Or they were held while the next windows run.
            del results
            listener(Progress("windows", first + len(batch), len(numbers)))

    def _numbers(self) -> list[Triple]:
        """The windows in their order, each by its numbers along i, j and k."""
        along = [range(len(self.windows.starts[axis])) for axis in self.axes]
        order = [self.axes.index(axis) for axis in range(3)]
        return [
            (number[order[0]], number[order[1]], number[order[2]])
            for number in itertools.product(*along)
        ]

    def _place(self, number: Triple) -> Triple:
        i, j, k = (starts[n] for starts, n in zip(self.windows.starts, number, strict=True))
        return i, j, k

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
    for box in walk.boxes(blend, image, listener=listener):
        logits = box.logits(blend)
        if result is None:
            result = image.new_empty((len(logits), *image.shape[1:]), dtype=torch.float32)
        result[(slice(None), *box.place)] = logits
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
        axes=walk_axes(windows),
        batch_size=batch_size,
        device=image.device,
        sums_device=image.device,
    )
    return gathered(walk, BlendLogits([model], Mirroring(), channels=0), image)
