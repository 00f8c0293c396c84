"""The walk of overlapping windows over a volume larger than a network's patch."""

import itertools
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from medseg.fault import InputFault
from medseg.models.shape import ShapePolicy
from medseg.progress import Listener, Progress, silent

# Width of the Gaussian weight, in sides of the patch: nnU-Net's and MONAI's.
SIGMA = 0.125
SMALLEST_WEIGHT = 1e-3

Network = Callable[[Tensor], Tensor]
Start = tuple[int, int, int]


def sliding_window(
    model: Network,
    image: Float[Tensor, "c i j k"],
    *,
    patch_size: tuple[int, int, int],
    overlap: float = 0.5,
    batch_size: int = 1,
    shape_policy: ShapePolicy | None = None,
    device: torch.device | str | None = None,
    listener: Listener = silent,
) -> Float[Tensor, "out i j k"]:
    """Logits of `image`: windows of `patch_size`, averaged with a Gaussian weight, float32.

    Windows stand where MONAI's SlidingWindowInferer puts them. An image smaller than the patch
    is padded with zeros on both sides. `batch_size` windows at a time run on `device`; sums are
    kept where `image` is: one float32 volume a channel, and one of weights.

    Raises:
        InputFault: the network does not take this patch (E_SHAPE), or the overlap leaves 0..1.
    """
    _refuse_settings(patch_size, overlap, shape_policy)
    padded, inner = _padded(image, patch_size)
    starts = window_starts(padded.shape[1:], patch_size, overlap)
    weight = gaussian_weight(patch_size).to(padded.device)
    counts = torch.zeros(padded.shape[1:], device=padded.device)
    total = torch.empty(0)
    # Not inference_mode: what a network caches there could not be used in training afterwards.
    with torch.no_grad():
        for first in range(0, len(starts), batch_size):
            places = [_slices(start, patch_size) for start in starts[first : first + batch_size]]
            logits = _run(model, padded, places, device)
            if first == 0:
                total = torch.zeros((logits.shape[1], *padded.shape[1:]), device=padded.device)
            for place, window in zip(places, logits, strict=True):
                total[(slice(None), *place)] += window * weight
                counts[place] += weight
            listener(Progress("windows", first + len(places), len(starts)))
        for channel in total:
            channel.div_(counts)
    return total[(slice(None), *inner)]


def mirrored(model: Network, *, axes: Sequence[int], channels: Sequence[int]) -> Network:
    """A network that gives the mean of `model` over all mirrorings along `axes` (0 i, 1 j, 2 k).

    It takes windows (b, c, i, j, k), as nnU-Net does it, so nothing of the volume's size is held
    twice. i runs from left to right: mirrored along it, the output `channels` change places too.
    """
    ways = [
        chosen
        for size in range(len(axes) + 1)
        for chosen in itertools.combinations(sorted(axes), size)
    ]
    swapped = list(channels)

    def network(windows: Tensor) -> Tensor:
        total: Tensor | None = None
        for chosen in ways:
            flips = [axis + 2 for axis in chosen]
            logits = model(windows.flip(flips)).float().flip(flips)
            logits = logits[:, swapped] if 0 in chosen else logits
            total = logits if total is None else total.add_(logits)
        assert total is not None
        return total.div_(len(ways))

    return network if axes else model


def averaged(models: Sequence[Network]) -> Network:
    """A network that gives the mean of several, one after the other."""

    def network(windows: Tensor) -> Tensor:
        total = models[0](windows).float()
        for model in models[1:]:
            total = total.add_(model(windows))
        return total.div_(len(models))

    return network if len(models) > 1 else models[0]


def window_starts(shape: Sequence[int], patch_size: Sequence[int], overlap: float) -> list[Start]:
    """First voxels of the windows that cover `shape`; the last of an axis ends at its end."""
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


def _run(
    model: Network,
    padded: Tensor,
    places: Sequence[tuple[slice, ...]],
    device: torch.device | str | None,
) -> Tensor:
    windows = torch.stack([padded[(slice(None), *place)] for place in places])
    logits = model(windows.to(device) if device is not None else windows)
    return logits.to(padded.device, torch.float32)


def _refuse_settings(
    patch_size: tuple[int, int, int], overlap: float, shape_policy: ShapePolicy | None
) -> None:
    refusal = shape_policy.refuses(patch_size) if shape_policy else None
    if refusal:
        raise InputFault(f"patch_size {patch_size}: {refusal}.", code="E_SHAPE")
    if not 0 <= overlap < 1:
        raise InputFault(
            f"overlap {overlap}: the share of a window that its neighbor covers lies from 0 "
            "up to, but not including, 1; 0.5 is usual.",
            code="E_OVERLAP",
        )


def _padded(image: Tensor, patch_size: Sequence[int]) -> tuple[Tensor, tuple[slice, ...]]:
    missing = [max(p - n, 0) for n, p in zip(image.shape[1:], patch_size, strict=True)]
    before = [m // 2 for m in missing]
    inner = tuple(slice(b, b + n) for b, n in zip(before, image.shape[1:], strict=True))
    if not any(missing):
        return image, inner
    pads = [(b, m - b) for b, m in zip(before, missing, strict=True)]
    return torch.nn.functional.pad(image, [n for pad in reversed(pads) for n in pad]), inner


def _slices(start: Start, patch_size: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(s, s + p) for s, p in zip(start, patch_size, strict=True))
