"""The steps of an instance norm over rows (voxels, channels) in C: float32, on a CPU."""

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from medseg_kernels.instance_norm.blocks import joined
from medseg_kernels.native import NotCompiledError, address, in_threads, library

SOURCE = Path(__file__).with_name("norm.c")
# Floats of a block: half of a core's first-level cache.
_BLOCK = 1 << 12


def refuses(x: Tensor) -> str | None:
    """Why these steps cannot be taken, or None."""
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return f"it is for float32 on CPUs, and the map is {x.dtype} on {x.device}"
    try:
        library(SOURCE)
    except NotCompiledError as error:
        return str(error)
    return None


def statistics(rows: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The mean and 1 / sqrt(variance + eps) of each channel, (c)."""
    count, channels = rows.shape
    size, blocks = _blocks(rows)
    sums, squares = rows.new_zeros((2, blocks, channels))

    def work(begin: int, end: int) -> None:
        library(SOURCE).statistics(
            address(rows), *_numbers(count, channels, size, begin, end), address(sums),
            address(squares),
        )  # fmt: skip

    in_threads(blocks, work)
    counts = [min(size, count - first) for first in range(0, count, size)]
    mean, scale = joined(counts, sums, squares, eps)
    return mean.float(), scale.float()


def normalize(
    rows: Tensor,
    mean: Tensor,
    scale: Tensor,
    added: Tensor | None,
    slope: float | None,
    out: Tensor,
) -> None:
    """Fill `out` with leaky_relu((rows - mean) * scale + added)."""
    count, channels = rows.shape

    def work(begin: int, end: int) -> None:
        library(SOURCE).normalize(
            address(rows), address(added), *_numbers(channels), address(mean), address(scale),
            _slope(slope), address(out), *_numbers(begin, end),
        )  # fmt: skip

    in_threads(count, work)


def differentiate(
    y: Tensor,
    grad: Tensor,
    grad_x: Tensor,
    *,
    added: Tensor | None,
    behind: Tensor | None,
    scale: Tensor,
    slope: float | None,
) -> None:
    """Fill `grad_x`, and `behind` with the gradient g of norm(x) + residual.

    With n = norm(x): grad_x = (g - mean(g) - n mean(g n)) * scale.
    """
    count, channels = y.shape
    size, blocks = _blocks(y)
    sums = y.new_zeros((blocks, 2, channels))
    given = (address(y), address(grad), *_numbers(grad.stride(0)), address(added), _slope(slope))

    def add(begin: int, end: int) -> None:
        library(SOURCE).gradient_sums(
            *given, *_numbers(count, channels, size, begin, end), address(sums), address(behind)
        )

    in_threads(blocks, add)
    shift, along = (sums.double().sum(0) / count).float()

    def work(begin: int, end: int) -> None:
        library(SOURCE).differentiate(
            *given, *_numbers(channels), address(shift), address(along), address(scale),
            address(grad_x), *_numbers(begin, end),
        )  # fmt: skip

    in_threads(count, work)


def _blocks(rows: Tensor) -> tuple[int, int]:
    """Rows of a block, and how many blocks there are."""
    count, channels = rows.shape
    size = max(2, _BLOCK // channels)
    return size, -(-count // size)


def _numbers(*numbers: int) -> list[ctypes.c_longlong]:
    return [ctypes.c_longlong(number) for number in numbers]


def _slope(slope: float | None) -> ctypes.c_float:
    return ctypes.c_float(1.0 if slope is None else slope)
