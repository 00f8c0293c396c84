"""The walk of overlapping windows over a volume larger than a network's patch."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from medseg.progress import Listener, Progress, silent

# Width of the Gaussian weight, in sides of the patch: nnU-Net's and MONAI's.
SIGMA = 0.125
SMALLEST_WEIGHT = 1e-3

Network = Callable[[Tensor], Tensor]


def sliding_window(
    model: Network,
    image: Float[Tensor, "c i j k"],
    *,
    patch_size: tuple[int, int, int],
    overlap: float = 0.5,
    batch_size: int = 1,
    device: torch.device | str | None = None,
    listener: Listener = silent,
) -> Float[Tensor, "out i j k"]:
    """Logits of `image`: windows of `patch_size`, averaged with a Gaussian weight, float32.

    Windows stand where MONAI's SlidingWindowInferer puts them. An image smaller than the patch
    is padded with zeros on both sides. Windows run on `device`; sums are kept where `image` is.
    """
    padded, inner = _padded(image, patch_size)
    starts = window_starts(padded.shape[1:], patch_size, overlap)
    weight = gaussian_weight(patch_size).to(padded.device)
    total: Tensor | None = None
    counts = torch.zeros(padded.shape[1:], device=padded.device)
    for done, group in enumerate(_grouped(starts, batch_size)):
        places = [_slices(start, patch_size) for start in group]
        windows = torch.stack([padded[(slice(None), *place)] for place in places])
        logits = model(windows.to(device) if device is not None else windows)
        logits = logits.to(padded.device, torch.float32)
        if total is None:
            total = torch.zeros((logits.shape[1], *padded.shape[1:]), device=padded.device)
        for place, window in zip(places, logits, strict=True):
            total[(slice(None), *place)] += window * weight
            counts[place] += weight
        listener(Progress("windows", min((done + 1) * batch_size, len(starts)), len(starts)))
    assert total is not None
    return total.div_(counts)[(slice(None), *inner)]


def mirrored(
    predict: Callable[[Tensor], Tensor],
    image: Float[Tensor, "c i j k"],
    *,
    axes: Sequence[int],
    channels: Sequence[int],
) -> Float[Tensor, "out i j k"]:
    """The mean of `predict` over all mirrorings along `axes` (0 i, 1 j, 2 k).

    i runs from left to right, so along it the output `channels` change places as well.
    """
    total = predict(image)
    count = 1
    for size in range(1, len(axes) + 1):
        for chosen in itertools.combinations(axes, size):
            flips = [axis + 1 for axis in chosen]
            logits = predict(image.flip(flips)).flip(flips)
            total = total + (logits[list(channels)] if 0 in chosen else logits)
            count += 1
    return total / count


def window_starts(
    shape: Sequence[int], patch_size: Sequence[int], overlap: float
) -> list[tuple[int, int, int]]:
    """First voxels of the windows that cover `shape`; the last of an axis ends at its end."""
    assert 0 <= overlap < 1, overlap
    along = []
    for side, patch in zip(shape, patch_size, strict=True):
        step = max(int(patch * (1 - overlap)), 1)
        last = side - patch
        along.append([*range(0, last, step), last])
    return [(i, j, k) for i in along[0] for j in along[1] for k in along[2]]


@lru_cache(maxsize=8)
def gaussian_weight(patch_size: tuple[int, int, int]) -> Float[Tensor, "i j k"]:
    """A Gaussian about the center of the patch, nowhere below 1e-3."""
    weight = torch.ones(())
    for side in patch_size:
        distance = torch.arange(side, dtype=torch.float32) - (side - 1) / 2
        along = torch.exp(-0.5 * (distance / (SIGMA * side)) ** 2)
        weight = weight[..., None] * along
    return weight.clamp_(min=SMALLEST_WEIGHT)


def _padded(image: Tensor, patch_size: Sequence[int]) -> tuple[Tensor, tuple[slice, ...]]:
    missing = [max(p - n, 0) for n, p in zip(image.shape[1:], patch_size, strict=True)]
    before = [m // 2 for m in missing]
    inner = tuple(slice(b, b + n) for b, n in zip(before, image.shape[1:], strict=True))
    if not any(missing):
        return image, inner
    pads = [(b, m - b) for b, m in zip(before, missing, strict=True)]
    return torch.nn.functional.pad(image, [n for pad in reversed(pads) for n in pad]), inner


def _slices(start: tuple[int, int, int], patch_size: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(s, s + p) for s, p in zip(start, patch_size, strict=True))


def _grouped(
    starts: Sequence[tuple[int, int, int]], size: int
) -> Iterator[Sequence[tuple[int, int, int]]]:
    for first in range(0, len(starts), size):
        yield starts[first : first + size]
