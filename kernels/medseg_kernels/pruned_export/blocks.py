"""A volume cut along i, so that what is held beside it stays small whatever its size."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medseg_kernels.pruned_export.places import Places
from medseg_kernels.pruned_export.source import COPY, Source

# Voxels of source and target whose maps are held at a time.
BLOCK = 1 << 21


@dataclass(frozen=True)
class Block:
    """A part of the volume: source planes, and the target rows that lie between them.

    Voxel n of class c of the block stands at `origin` + c * `stride` + n of `flat`.
    """

    rows: slice
    logits: Tensor  # (c, i, j, k)
    places: tuple[Places, Places, Places]
    flat: Tensor
    origin: int
    stride: int


def blocks(
    source: Source,
    places: tuple[Places, Places, Places],
    *,
    types: Sequence[torch.dtype] = (torch.float32,),
) -> Iterator[Block]:
    """The target's rows along i, some at a time, with the source planes that they lie between.

    Logits of one of `types` that lie in one piece are not copied; others become float32.
    """
    values, device = source.values, source.values.device
    across = [place.to(device) for place in places[1:]]
    plane = values[0, 0].numel()
    as_is = source.is_logits and values.is_contiguous() and values.dtype in types
    most = BLOCK if as_is else min(BLOCK, COPY // source.classes)
    for low, high, first, last in _parts(values.shape, places, most):
        logits = values[:, first:last] if as_is else source.logits(first, last).contiguous()
        yield Block(
            rows=slice(low, high),
            logits=logits,
            places=(places[0].part(low, high).after(first).to(device), across[0], across[1]),
            flat=(values if as_is else logits).view(-1),
            origin=first * plane if as_is else 0,
            stride=(values if as_is else logits)[0].numel(),
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
