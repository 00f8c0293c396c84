"""The pruned form in C, for float32 on a CPU; not a bit differs from the others.

Where logits are made of other numbers it makes them box by box, or, where no voxel lies between
others, compares them as they come.
"""

import ctypes
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from medseg_kernels.native import in_threads, library, missing
from medseg_kernels.pruned_export import reference
from medseg_kernels.pruned_export.blocks import blocks
from medseg_kernels.pruned_export.places import Places
from medseg_kernels.pruned_export.source import Source

SOURCE = Path(__file__).with_name("pruned.c")
# Winners are two bytes, one of whose values says that there is none.
MOST_CLASSES = 1 << 15
Triple = tuple[Places, Places, Places]
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
    return missing(SOURCE)


def argmax(source: Source, places: Triple) -> tuple[Tensor, Tensor]:
    """The first class of the largest interpolated logit (a, b, c), and the largest mean's size."""
    labels = reference.empty_labels(source.values, places, source.classes)
    return _export(source, places, None, labels)


def regions(source: Source, places: Triple, values: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The value of the last region above 0 (a, b, c), and the largest mean's size."""
    given = torch.tensor(values, dtype=torch.int32)
    labels = reference.empty_labels(source.values, places, max(values) + 1)
    return _export(source, places, given, labels)


def _export(
    source: Source,
    places: Triple,
    values: Tensor | None,
    labels: Tensor,
) -> tuple[Tensor, Tensor]:
    is_wide = source.values.dtype is torch.float32
    parts = [(labels, source, places)] if is_wide else _widened(labels, source, places)
    found = torch.stack([_fill(*part, values) for part in parts]).amax()
    # What no target voxel needs was not read, and means that are logits were not looked at.
    sides = source.values.shape[1:]
    read_all = all(place.reads_all(side) for place, side in zip(places, sides, strict=True))
    looked = is_wide or source.weight is not None
    return labels, found if source.is_logits or (read_all and looked) else source.largest()


def _widened(
    labels: Tensor, source: Source, places: Triple
) -> Iterator[tuple[Tensor, Source, Triple]]:
    """Means of 16 bits as float32, a few planes at a time, and the labels that they give."""
    for block in blocks(Source(source.values, source.counts), places):
        means = Source(block.logits, None, source.weight, source.bias)
        yield labels[block.rows], means, block.places


def _fill(
    labels: Tensor,
    source: Source,
    places: Triple,
    values: Tensor | None,
) -> Tensor:
    """Write the labels; returns the largest size of a mean that was read."""
    counts = None if source.counts is None else source.counts.float()
    weight, bias = (
        None if one is None else one.detach().float().contiguous()
        for one in (source.weight, source.bias)
    )
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
