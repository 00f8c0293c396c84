"""The pruned form in C, for logits on a CPU; not a bit differs from the others."""

import ctypes
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from medseg_kernels.native import NotCompiledError, library
from medseg_kernels.pruned_export import reference
from medseg_kernels.pruned_export.blocks import Block, blocks
from medseg_kernels.pruned_export.places import Places

SOURCE = Path(__file__).with_name("pruned.c")
# Winners are two bytes, one of whose values says that there is none.
MOST_CLASSES = 1 << 15


def refuses(logits: Tensor, values: Sequence[int] = ()) -> str | None:  # (c, i, j, k)
    """Why this form cannot serve the call; None where it can."""
    if logits.device.type != "cpu":
        return f"logits lie on {logits.device}, and it is for a CPU"
    most = max([len(logits) - 1, *values])
    if most >= MOST_CLASSES:
        return f"a label of {most} is above {MOST_CLASSES - 1}"
    try:
        library(SOURCE)
    except NotCompiledError as error:
        return str(error)
    return None


def argmax(
    logits: Tensor,  # (c, i, j, k)
    places: tuple[Places, Places, Places],
) -> Tensor:  # (a, b, c)
    """The first class of the largest interpolated logit."""
    labels = _empty(places, len(logits))
    for block in blocks(logits, places):
        _decide(block, labels[block.rows], values=None)
    return labels


def regions(
    logits: Tensor,  # (r, i, j, k)
    places: tuple[Places, Places, Places],
    values: Sequence[int],
) -> Tensor:  # (a, b, c)
    """The value of the last region whose interpolated logit is above 0; 0 where none is."""
    labels = _empty(places, max(values) + 1)
    for block in blocks(logits, places):
        _decide(block, labels[block.rows], values=torch.tensor(values, dtype=torch.int32))
    return labels


def _empty(places: Sequence[Places], count: int) -> Tensor:
    shape = tuple(len(place.left) for place in places)
    return torch.empty(shape, dtype=reference.index_type(count))


def _decide(block: Block, labels: Tensor, *, values: Tensor | None) -> None:
    voxels = block.logits[0].numel() if values is None else 0
    winner, second = torch.empty(voxels, dtype=torch.int16), torch.empty(voxels)
    left = [place.left.contiguous() for place in block.places]
    beyond = [place.beyond.contiguous() for place in block.places]
    numbers, addresses = ctypes.c_int64 * 3, ctypes.c_void_p * 3
    failed = library(SOURCE).pruned_export(
        ctypes.c_void_p(block.flat.data_ptr() + 4 * block.origin),
        ctypes.c_int64(block.stride),
        ctypes.c_int64(len(block.logits)),
        numbers(*block.logits.shape[1:]),
        numbers(*labels.shape),
        addresses(*(tensor.data_ptr() for tensor in left)),
        addresses(*(tensor.data_ptr() for tensor in beyond)),
        ctypes.c_void_p(winner.data_ptr()),
        ctypes.c_void_p(second.data_ptr()),
        ctypes.c_void_p(None if values is None else values.data_ptr()),
        ctypes.c_void_p(labels.data_ptr()),
        ctypes.c_int(labels.dtype is not torch.uint8),
    )
    if failed:
        raise MemoryError("the pruned export found no memory for a row")
