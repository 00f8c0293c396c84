"""The pruned form in C, for logits on a CPU; not a bit differs from the others."""

import ctypes
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


def refuses(logits: Tensor) -> str | None:  # (c, i, j, k)
    """Why this form cannot serve the call; None where it can."""
    if logits.device.type != "cpu":
        return f"logits lie on {logits.device}, and it is for a CPU"
    if len(logits) > MOST_CLASSES:
        return f"{len(logits)} classes are more than {MOST_CLASSES}"
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
    shape = tuple(len(place.left) for place in places)
    labels = torch.empty(shape, dtype=reference.index_type(len(logits)))
    for block in blocks(logits, places):
        _decide(block, labels[block.rows])
    return labels


def _decide(block: Block, labels: Tensor) -> None:
    voxels = block.logits[0].numel()
    winner, second = torch.empty(voxels, dtype=torch.int16), torch.empty(voxels)
    along = [tensor.contiguous() for place in block.places for tensor in (place.left, place.beyond)]
    triple = ctypes.c_int64 * 3
    failed = library(SOURCE).pruned_argmax(
        ctypes.c_void_p(block.flat.data_ptr() + 4 * block.origin),
        ctypes.c_int64(block.stride),
        ctypes.c_int64(len(block.logits)),
        triple(*block.logits.shape[1:]),
        triple(*labels.shape),
        *(ctypes.c_void_p(tensor.data_ptr()) for tensor in along),
        ctypes.c_void_p(winner.data_ptr()),
        ctypes.c_void_p(second.data_ptr()),
        ctypes.c_void_p(labels.data_ptr()),
        ctypes.c_int(labels.dtype is not torch.uint8),
    )
    if failed:
        raise MemoryError("the pruned export found no memory for a row")
