"""Convolutions by AMX tiles, float32 in two parts: a C source, and its calls."""

import ctypes
import math
from pathlib import Path

import torch
from torch import Tensor

from medseg_kernels.constant import constant
from medseg_kernels.maps import channels_last, map_like
from medseg_kernels.native import NotCompiledError, address, in_threads, library, ranges

SOURCE = Path(__file__).with_name("split.c")
# Below them torch's own is as fast: the weight is packed for few voxels, or tiles stay empty.
LEAST_VOXELS, LEAST_ROW = 64, 24
# As many rows of a kernel as the source has place for.
MOST_ROWS = 64
_PARTS = 2
_BLOCK = 16
_Number = ctypes.c_longlong


class _Shape(ctypes.Structure):
    _fields_ = [(name, _Number) for name in ("i", "j", "k", "in_", "out", "a", "b", "c")]


class _Strides(ctypes.Structure):
    _fields_ = [(name, _Number) for name in ("out", "in_", "a", "b", "c")]


def refuses(x: Tensor, weight: Tensor) -> str | None:
    """Why this backend cannot serve the call, or None."""
    if x.device.type != "cpu":
        return f"it runs on CPUs alone, and the map is on {x.device}"
    if x.dtype != torch.float32 or weight.dtype != torch.float32:
        return f"it is for float32, and the map is {str(x.dtype).removeprefix('torch.')}"
    items, _, *size = x.shape
    # A number that a traced graph leaves open is taken for a large one.
    if isinstance(items * math.prod(size), int) and (items == 0 or math.prod(size) < LEAST_VOXELS):
        return f"the map has fewer than {LEAST_VOXELS} voxels"
    rows, row = weight.shape[2:4].numel(), x.shape[1] * weight.shape[4]
    if row < LEAST_ROW or rows > MOST_ROWS:
        return f"a row of the kernel has {row} numbers, and there are {rows}"
    return _unready()


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, *, turned: bool) -> Tensor:
    """The map convolved with the weight, or with the weight turned: from its outputs back."""
    x, weight = channels_last(x), weight.detach()
    bias = None if bias is None else bias.detach().contiguous()
    outputs = weight.shape[1 if turned else 0]
    shape = _Shape(*x.shape[2:], x.shape[1], outputs, *weight.shape[2:])
    packed, result = _pack(weight, shape, turned=turned), map_like(x, outputs)

    def work(begin: int, end: int) -> None:
        space = _space("convolve_space", shape)
        for item, out in zip(x, result, strict=True):
            library(SOURCE).convolve(
                ctypes.byref(shape), address(item), address(packed), address(bias),
                ctypes.c_int(_PARTS), address(out), _Number(begin), _Number(end), address(space),
            )  # fmt: skip

    in_threads(x.shape[2], work)
    return result


def weight_gradient(x: Tensor, gradient: Tensor, weight: Tensor) -> Tensor:
    """The weight's gradient, (o, c, a, b, d)."""
    x, gradient = channels_last(x), channels_last(gradient)
    outputs, inputs, *kernel = weight.shape
    shape = _Shape(*x.shape[2:], inputs, outputs, *kernel)
    sizes = (-(-size // _BLOCK) * _BLOCK for size in (inputs, outputs))
    parts = ranges(x.shape[2])
    sums = x.new_zeros((len(parts), *kernel, *sizes))

    def work(begin: int, end: int) -> None:
        space = _space("weight_gradient_space", shape)
        own = sums[[part[0] for part in parts].index(begin)]
        for item, slope in zip(x, gradient, strict=True):
            library(SOURCE).weight_gradient(
                ctypes.byref(shape), address(item), address(slope), ctypes.c_int(_PARTS),
                address(own), _Number(begin), _Number(end), address(space),
            )  # fmt: skip

    in_threads(x.shape[2], work)
    total = sums[0] if len(parts) == 1 else sums.sum(0)
    return total[..., :inputs, :outputs].permute(4, 3, 0, 1, 2).contiguous()


@constant
def _unready() -> str | None:
    try:
        return None if library(SOURCE).ready() else "this CPU has no AMX, or the system forbids it"
    except NotCompiledError as error:
        return str(error)


def _pack(weight: Tensor, shape: _Shape, *, turned: bool) -> Tensor:
    """The weight as tiles of both parts."""
    out, into, *along = weight.stride()
    strides, first = _Strides(out, into, *along), 0
    if turned:
        ends = zip(weight.shape[2:], along, strict=True)
        first = sum((side - 1) * stride for side, stride in ends)
        strides = _Strides(into, out, *(-stride for stride in along))
    packed = weight.new_empty(_count("packed_size", shape), dtype=torch.bfloat16)

    def work(begin: int, end: int) -> None:
        library(SOURCE).pack(
            ctypes.byref(shape), address(weight, first), ctypes.byref(strides), address(packed),
            _Number(begin), _Number(end),
        )  # fmt: skip

    in_threads(-(-shape.out // _BLOCK), work)
    return packed


def _space(name: str, shape: _Shape) -> Tensor:
    return torch.zeros(_count(name, shape), dtype=torch.bfloat16)


def _count(name: str, shape: _Shape) -> int:
    function = getattr(library(SOURCE), name)
    function.restype = _Number
    return function(ctypes.byref(shape))
