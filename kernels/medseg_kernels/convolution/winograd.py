"""Convolutions by minimal filtering, float32, on a CPU: a C source, and its calls."""

import ctypes
import itertools
import math
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from medseg_kernels.constant import constant
from medseg_kernels.maps import channels_last, map_like
from medseg_kernels.native import address, in_threads, library, missing

SOURCE = Path(__file__).with_name("winograd.c")
# Below it torch's own is as fast: packing the weight takes longer than the convolution (measured
# with 32 to 768 channels on an AMD Zen 5).
LEAST_VOXELS = 200
# Channels out that are made with one packed weight: as many as leave it in a third-level cache,
# in multiples of what is multiplied at once.
PACKED_BYTES, STEP = 16 << 20, 48
# As long as multiplying so many tiles takes packing the weight.
PACKING = 24
# Tiles that are multiplied at once: at least so many, for each number of the weight is read anew
# for them; no more than keep what they read in a second-level cache, nor than the source allows.
LEAST_TILES, LEAST_TILES_OF_GRADIENT, MOST_TILES, TILES_BYTES = 16, 32, 64, 1 << 20

_Number = ctypes.c_longlong
_Three = _Number * 3
_Work = Callable[[int, int], None]
_Share = Callable[[int, _Work], None]


class _Shape(ctypes.Structure):
    _fields_ = [
        *((name, _Three) for name in ("size", "kernel", "tile")),
        *((name, _Number) for name in ("in_", "out", "out_apart", "block")),
    ]


class _Strides(ctypes.Structure):
    _fields_ = [("out", _Number), ("in_", _Number), ("along", _Three)]


def refuses(x: Tensor, weight: Tensor) -> str | None:
    """Why this backend cannot serve the call, or None."""
    if x.device.type != "cpu":
        return f"it runs on CPUs alone, and the map is on {x.device}"
    if x.dtype != torch.float32 or weight.dtype != torch.float32:
        return f"it is for float32, and the map is {str(x.dtype).removeprefix('torch.')}"
    sides = tuple(weight.shape[2:])
    if not {1, 3}.issuperset(sides) or 3 not in sides:
        return f"a kernel's sides are 1 or 3, and one is 3 at least, but here they are {sides}"
    if weight.numel() == 0:
        return "there are no channels"
    voxels = x.numel() // x.shape[1]
    # A number that a traced graph leaves open is taken for a large one.
    if isinstance(voxels, int) and voxels < LEAST_VOXELS:
        return f"the maps have fewer than {LEAST_VOXELS} voxels"
    return _unready()


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, *, turned: bool) -> Tensor:
    """The map convolved with the weight, or with the weight turned: from its outputs back."""
    x, weight = channels_last(x), weight.detach()
    bias = None if bias is None else bias.detach().contiguous()
    strides = list(weight.stride())
    outputs, first = weight.shape[1 if turned else 0], 0
    if turned:
        first = sum((n - 1) * d for n, d in zip(weight.shape[2:], strides[2:], strict=True))
        strides = [strides[1], strides[0], *(-stride for stride in strides[2:])]
    result, apart = map_like(x, outputs), _Strides(*strides[:2], _Three(*strides[2:]))

    def part(begin: int, end: int, share: _Share) -> None:
        shape = _shape(x, weight, end - begin, outputs)
        packed = x.new_empty(_count("packed_size", shape))
        origin = address(weight, first + begin * strides[0])

        def pack(first_in: int, last_in: int) -> None:
            library(SOURCE).pack(
                ctypes.byref(shape), origin, ctypes.byref(apart), address(packed),
                _Number(first_in), _Number(last_in),
            )  # fmt: skip

        def work(first_tile: int, last_tile: int) -> None:
            space = x.new_empty(_count("convolve_space", shape))
            for item, out in zip(x, result, strict=True):
                library(SOURCE).convolve(
                    ctypes.byref(shape), address(item), address(packed),
                    None if bias is None else address(bias, begin), address(out, begin),
                    _Number(first_tile), _Number(last_tile), address(space),
                )  # fmt: skip

        share(x.shape[1], pack)
        share(_count("count_tiles", shape), work)

    _in_parts(_shape(x, weight, outputs, outputs), part)
    return result


def weight_gradient(x: Tensor, gradient: Tensor, weight: Tensor) -> Tensor:
    """The weight's gradient, (o, c, a, b, d)."""
    x, gradient = channels_last(x), channels_last(gradient)
    outputs, inputs = weight.shape[:2]
    result = weight.new_empty(weight.shape)
    apart = _Strides(*result.stride()[:2], _Three(*result.stride()[2:]))

    def part(begin: int, end: int, share: _Share) -> None:
        shape = _shape(x, weight, end - begin, outputs, LEAST_TILES_OF_GRADIENT)
        found = {}

        def work(first_tile: int, last_tile: int) -> None:
            space = x.new_empty(_count("weight_gradient_space", shape))
            sums = found[first_tile] = x.new_zeros(_count("packed_size", shape))
            for item, slope in zip(x, gradient, strict=True):
                library(SOURCE).weight_gradient(
                    ctypes.byref(shape), address(item), address(slope, begin), address(sums),
                    _Number(first_tile), _Number(last_tile), address(space),
                )  # fmt: skip

        share(_count("count_tiles", shape), work)
        total, *others = (found[first_tile] for first_tile in sorted(found))
        for other in others:
            total += other

        def unpack(first_in: int, last_in: int) -> None:
            library(SOURCE).unpack(
                ctypes.byref(shape), address(total), ctypes.byref(apart),
                address(result, begin * apart.out), _Number(first_in), _Number(last_in),
            )  # fmt: skip

        share(inputs, unpack)

    _in_parts(_shape(x, weight, outputs, outputs), part)
    return result


@constant
def _unready() -> str | None:
    return missing(SOURCE)


def _shape(
    x: Tensor, weight: Tensor, outputs: int, apart: int, least_tiles: int = LEAST_TILES
) -> _Shape:
    size, kernel, inputs = tuple(x.shape[2:]), tuple(weight.shape[2:]), x.shape[1]
    tile = best_tile(size, kernel)
    lines = (tile[0] + kernel[0] - 1) * (tile[1] + kernel[1] - 1)
    fitting = TILES_BYTES // (4 * lines * tile[2] * max(inputs, outputs))
    block = min(MOST_TILES, max(least_tiles, fitting // 8 * 8))
    return _Shape(_Three(*size), _Three(*kernel), _Three(*tile), inputs, outputs, apart, block)


@lru_cache(maxsize=256)
def best_tile(size: tuple[int, ...], kernel: tuple[int, ...]) -> tuple[int, ...]:
    """Voxels along each axis of a tile, such that there is the least to multiply."""

    def cost(tile: tuple[int, ...]) -> int:
        tiles = math.prod(-(-n // t) for n, t in zip(size, tile, strict=True))
        points = math.prod(t + side - 1 for t, side in zip(tile, kernel, strict=True))
        return (tiles + PACKING) * points

    return min(itertools.product(*((1,) if side == 1 else (4, 2) for side in kernel)), key=cost)


def _in_parts(shape: _Shape, part: Callable[[int, int, _Share], None]) -> None:
    """Call part(begin, end, share) for ranges of the channels out, share(count, work) in it."""
    threads, outputs = torch.get_num_threads(), shape.out
    each = PACKED_BYTES * outputs // (4 * _count("packed_size", shape)) // STEP * STEP
    by_channels = _count("count_tiles", shape) < LEAST_TILES * threads
    if by_channels:
        each = min(each, -(-outputs // threads))
    each = -(-max(each, 1) // STEP) * STEP

    def work(begin: int, end: int) -> None:
        for first in range(begin * each, min(end * each, outputs), each):
            part(first, min(first + each, outputs), _alone if by_channels else in_threads)

    (in_threads if by_channels else _alone)(-(-outputs // each), work)


def _alone(count: int, work: _Work) -> None:
    work(0, count)


def _count(name: str, shape: _Shape) -> int:
    function = getattr(library(SOURCE), name)
    function.restype = _Number
    return function(ctypes.byref(shape))
