"""The pruned form in C, for float32 on a CPU; not a bit differs from the others.

Where logits are made of other numbers it makes them box by box, or, where no voxel lies between
others, compares them as they come.
"""

import ctypes
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from medseg_kernels.native import NotCompiledError, in_threads, library
from medseg_kernels.pruned_export import reference
from medseg_kernels.pruned_export.blocks import blocks
from medseg_kernels.pruned_export.places import Places
from medseg_kernels.pruned_export.source import Source

SOURCE = Path(__file__).with_name("pruned.c")
# Winners are two bytes, one of whose values says that there is none.
MOST_CLASSES = 1 << 15
_Number = ctypes.c_int64
_Address = ctypes.c_void_p


class _Call(ctypes.Structure):
    _fields_ = [
        ("values", _Address), ("counts", _Address),
        ("by", _Number * 4), ("counts_by", _Number * 3),
        ("channels", _Number), ("classes", _Number),
        ("weight", _Address), ("bias", _Address),
        ("sides", _Number * 3), ("targets", _Number * 3),
        ("left", _Address * 3), ("beyond", _Address * 3),
        ("regions", _Address), ("labels", _Address), ("wide", _Number),
    ]  # fmt: skip


def refuses(source: Source, values: Sequence[int] = ()) -> str | None:
    """Why this form cannot serve the call; None where it can."""
    if source.values.device.type != "cpu":
        return f"logits lie on {source.values.device}, and it is for a CPU"
    most = max([source.classes - 1, *values])
    if most >= MOST_CLASSES:
        return f"a label of {most} is above {MOST_CLASSES - 1}"
    return _uncompiled()


@torch.compiler.assume_constant_result
def _uncompiled() -> str | None:
    try:
        library(SOURCE)
    except NotCompiledError as error:
        return str(error)
    return None


def argmax(source: Source, places: tuple[Places, Places, Places]) -> tuple[Tensor, Tensor]:
    """The first class of the largest interpolated logit (a, b, c), and the largest mean's size."""
    labels = reference.empty_labels(source.values, places, source.classes)
    return _export(source, places, None, labels)


def regions(
    source: Source, places: tuple[Places, Places, Places], values: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """The value of the last region above 0 (a, b, c), and the largest mean's size."""
    given = torch.tensor(values, dtype=torch.int32)
    labels = reference.empty_labels(source.values, places, max(values) + 1)
    return _export(source, places, given, labels)


def _export(
    source: Source,
    places: tuple[Places, Places, Places],
    values: Tensor | None,
    labels: Tensor,
) -> tuple[Tensor, Tensor]:
    if source.values.dtype is not torch.float32:
        # Widened a few planes at a time.
        means = Source(source.values, source.counts)
        for block in blocks(means, places):
            wide = Source(block.logits, None, source.weight, source.bias)
            _fill(labels[block.rows], wide, block.places, values)
        return labels, source.largest()
    largest = _fill(labels, source, places, values)
    sides = source.values.shape[1:]
    read_all = all(place.reads_all(side) for place, side in zip(places, sides, strict=True))
    return labels, largest if read_all or source.is_logits else source.largest()


def _fill(
    labels: Tensor,
    source: Source,
    places: tuple[Places, Places, Places],
    values: Tensor | None,
) -> Tensor:
    """Write the labels; returns the largest size of a mean that was read."""
    counts, weight, bias = (
        None if one is None else one.detach().float()
        for one in (source.counts, source.weight, source.bias)
    )
    weight = None if weight is None else weight.contiguous()
    left = [place.left.contiguous() for place in places]
    beyond = [place.beyond.contiguous() for place in places]
    call = _Call(
        source.values.data_ptr(), _address(counts),
        source.values.stride(), (0, 0, 0) if counts is None else counts.stride(),
        len(source.values), source.classes,
        _address(weight), _address(bias),
        source.values.shape[1:], labels.shape,
        tuple(map(_address, left)), tuple(map(_address, beyond)),
        _address(values), labels.data_ptr(), labels.element_size(),
    )  # fmt: skip
    found: list[float] = []

    def work(low: int, high: int) -> None:
        largest = ctypes.c_float()
        failed = library(SOURCE).pruned_export(
            ctypes.byref(call), _Number(low), _Number(high), ctypes.byref(largest)
        )
        if failed:
            raise MemoryError("the pruned export found no memory for a box")
        found.append(largest.value)

    in_threads(len(labels), work)
    return torch.tensor(found).amax()


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
