"""A volume cut along i, so that what is held beside it stays small whatever its size."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medseg_kernels.pruned_export.places import Places

# Voxels of source and target whose maps are held at a time.
BLOCK = 1 << 21
# Logits that are copied at a time where they are not float32 in one piece.
COPY = 1 << 24


@dataclass(frozen=True)
class Block:
    """A part of the volume: source planes, and the target rows that lie between them.

    Voxel n of class c of the block stands at `origin` + c * `stride` + n of `flat`.
    """

    rows: slice
    logits: Tensor  # (c, i, j, k) float32
    places: tuple[Places, Places, Places]
    flat: Tensor
    origin: int
    stride: int


def blocks(logits: Tensor, places: tuple[Places, Places, Places]) -> Iterator[Block]:
    """The target's rows along i, some at a time, with the source planes that they lie between."""
    device = logits.device
    across = [place.to(device) for place in places[1:]]
    plane = logits[0, 0].numel()
    as_is = logits.is_contiguous() and logits.dtype is torch.float32
    most = BLOCK if as_is else min(BLOCK, COPY // len(logits))
    for low, high, first, last in _parts(logits.shape, places, most):
        part = logits[:, first:last]
        copied = part if as_is else part.float().contiguous()
        yield Block(
            rows=slice(low, high),
            logits=copied,
            places=(places[0].part(low, high).after(first).to(device), across[0], across[1]),
            flat=(logits if as_is else copied).view(-1),
            origin=first * plane if as_is else 0,
            stride=(logits if as_is else copied)[0].numel(),
        )


def _parts(
    shape: torch.Size, places: Sequence[Places], most: int
) -> Iterator[tuple[int, int, int, int]]:
    """First and last target row, and first and last source plane, of about `most` voxels."""
    row = len(places[1].left) * len(places[2].left)
    plane = shape[2] * shape[3]
    left = places[0].left.tolist()
    needed = (places[0].left + (places[0].beyond > 0) + 1).tolist()
    low = 0
    while low < len(left):
        high = low + 1
        while (
            high < len(left)
            and (high + 1 - low) * row <= BLOCK
            and (needed[high] - left[low]) * plane <= most
        ):
            high += 1
        yield low, high, left[low], needed[high - 1]
        low = high
