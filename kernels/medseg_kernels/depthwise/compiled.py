"""Depthwise convolutions of maps that lie channels last, float32, on a CPU: a C source, its calls.

Of the two maps of a convolution the one before it is the finer, of its transpose the one behind.
"""

import ctypes
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from medseg_kernels.constant import constant
from medseg_kernels.maps import channels_last
from medseg_kernels.native import address, in_threads, library, missing, ranges

SOURCE = Path(__file__).with_name("depthwise.c")

_Number = ctypes.c_longlong
_Three = _Number * 3


class _Shape(ctypes.Structure):
    _fields_ = [
        *((name, _Three) for name in ("from_", "to")), ("channels", _Number), ("side", _Three),
        *((name, _Number) for name in ("dilation", "over", "under")),
    ]  # fmt: skip


def refuses(x: Tensor, weight: Tensor) -> str | None:
    """Why this backend cannot serve the call, or None."""
    if x.device.type != "cpu":
        return f"it runs on CPUs alone, and the map is on {x.device}"
    if x.dtype != torch.float32 or weight.dtype != torch.float32:
        return f"it is for float32, and the map is {str(x.dtype).removeprefix('torch.')}"
    # torch does not tell of autocast for every type of device, meta among them.
    if torch.is_autocast_enabled("cpu"):
        return "under autocast torch multiplies in half precision"
    return _unready()


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    size: Sequence[int],
    *,
    stride: int,
    dilation: int,
    transposed: bool,
) -> Tensor:
    """The map of `size` that the convolution makes, or its transpose, which makes a finer one."""
    over, under = (1, stride) if transposed else (stride, 1)
    x, weight = channels_last(x), weight.detach().contiguous()
    bias = None if bias is None else bias.detach().contiguous()
    shape = _shape(x, size, weight, dilation, over=over, under=under)
    whole = (*x.shape[:2], *size)
    result = torch.empty(whole, dtype=x.dtype, memory_format=torch.channels_last_3d)
    packed = x.new_empty(_count("packed_size", shape))
    library(SOURCE).pack(ctypes.byref(shape), address(weight), int(transposed), address(packed))

    def work(begin: int, end: int) -> None:
        space = x.new_zeros(_count("space_size", shape))
        library(SOURCE).convolve(
            ctypes.byref(shape), *map(address, (x, packed, bias, result, space)),
            _Number(begin), _Number(end),
        )  # fmt: skip

    in_threads(whole[0] * whole[2], work)
    return result


def weight_gradient(
    fine: Tensor, coarse: Tensor, weight: Tensor, *, stride: int, dilation: int
) -> Tensor:
    """The weight's gradient, from one map and the gradient of the other."""
    fine, coarse = channels_last(fine), channels_last(coarse)
    shape = _shape(fine, coarse.shape[2:], weight, dilation, over=stride)
    planes = coarse.shape[0] * coarse.shape[2]
    parts = ranges(planes)
    sums = fine.new_zeros(len(parts), _count("packed_size", shape))

    def work(begin: int, end: int) -> None:
        own = sums[[part[0] for part in parts].index(begin)]
        plane_sums, space = torch.empty_like(own), fine.new_zeros(_count("space_size", shape))
        library(SOURCE).weight_gradient(
            ctypes.byref(shape), *map(address, (fine, coarse, own, plane_sums, space)),
            _Number(begin), _Number(end),
        )  # fmt: skip

    in_threads(planes, work)
    total = sums[0] if len(parts) == 1 else sums.sum(0)
    result = fine.new_empty(weight.shape)
    library(SOURCE).unpack(ctypes.byref(shape), address(total), address(result))
    return result


@constant
def _unready() -> str | None:
    return missing(SOURCE)


def _shape(
    x: Tensor, size: Sequence[int], weight: Tensor, dilation: int, *, over: int = 1, under: int = 1
) -> _Shape:
    side = _Three(*weight.shape[2:])
    return _Shape(_Three(*x.shape[2:]), _Three(*size), x.shape[1], side, dilation, over, under)


def _count(name: str, shape: _Shape) -> int:
    function = getattr(library(SOURCE), name)
    function.restype = _Number
    return function(ctypes.byref(shape))
