"""The C source, and how it is told what to do."""

import ctypes
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from medseg_kernels.constant import constant
from medseg_kernels.native import address, in_threads, library, missing

SOURCE = Path(__file__).with_name("attend.c")
Number = ctypes.c_longlong
_Three = Number * 3
_ARRAYS = (
    "query", "key", "value", "bias", "result", "slope", "of_query", "of_key", "of_value", "of_bias",
)  # fmt: skip


class Array(ctypes.Structure):
    """An array of the source, whose comments say what its fields are."""

    _fields_ = (
        ("first", ctypes.c_void_p),
        ("apart", _Three),
        ("rows", ctypes.c_void_p),
        ("rows_apart", Number),
        ("within", Number),
        ("other", ctypes.c_void_p),
    )


class Attention(ctypes.Structure):
    """What the source is asked; arrays that are not given have no `first`."""

    _fields_ = (
        *((name, Number) for name in ("groups", "queries", "keys", "channels")),
        ("scale", ctypes.c_float),
        ("places", _Three),
        *((name, Array) for name in _ARRAYS),
        *((name, Array * 3) for name in ("axes", "of_axes")),
    )


def refuses(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why the C source cannot serve a call, or None."""
    if device.type != "cpu" or dtype != torch.float32:
        return f"it is for float32 on a CPU, not {dtype} on {device}"
    return _unready()


@constant
def _unready() -> str | None:
    return missing(SOURCE)


def told_of(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    scale: float,
    axes: Sequence[Tensor],
    of_axes: Sequence[Tensor] = (),
    **others: Tensor | None,
) -> tuple[Attention, list[Tensor]]:
    """What the source is told, and the tensors that have to live until it is done."""
    g, heads, n, e = query.shape
    assert bias is None or not axes, "one bias or the other"
    given = {"query": query, "key": key, "value": value, "bias": bias}
    arrays = {name: close(x) for name, x in given.items() if x is not None}
    arrays |= {name: x for name, x in others.items() if x is not None}
    told = Attention(g, n, key.shape[2], e, scale)
    for name, x in arrays.items():
        setattr(told, name, array_of(x.expand(g, heads, -1, -1)))
    axes = [close(axis) for axis in axes]
    missing_axes = 3 - len(axes)
    told.places = _Three(*[1] * missing_axes, *(axis.shape[-1] for axis in axes))
    assert not axes or math.prod(told.places) == key.shape[2], "a place for each key"
    for target, given in ((told.axes, axes), (told.of_axes, of_axes)):
        for number, x in enumerate(given, start=missing_axes):
            target[number] = array_of(x)
    return told, [*arrays.values(), *axes]


def array_of(x: Tensor) -> Array:
    """An array (g, heads, n, e)."""
    assert x.stride(-1) == 1 or x.shape[-1] == 1
    return Array(address(x), _Three(*x.stride()[:3]))


def run(name: str, told: Attention, heads: int, *, together: int = 1) -> None:
    """`heads` of all groups: of so many groups one after the other, all others in any order."""
    count = library(SOURCE).attend_space
    count.restype = Number
    size = count(ctypes.byref(told))

    def work(begin: int, end: int) -> None:
        space = torch.empty(size, dtype=torch.float32, device="cpu")
        numbers = (Number(begin * together), Number(end * together))
        getattr(library(SOURCE), name)(ctypes.byref(told), *numbers, address(space))

    in_threads(told.groups * heads // together, work)


def close(tensor: Tensor) -> Tensor:
    """The tensor with its last axis close together."""
    tensor = tensor.detach()
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()
