"""Linear layers in float32 on a CPU: a C source, and its calls."""

import ctypes
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from medseg_kernels.constant import constant
from medseg_kernels.linear.step import Step
from medseg_kernels.native import address, in_threads, library, missing, ranges

SOURCE = Path(__file__).with_name("product.c")
# Rows that are multiplied while they are in a cache, as in the source.
NEAR = 64
# Below it what a call costs outweighs what it gains (measured on an AMD Zen 5).
LEAST_PRODUCTS = 1 << 24
_Number = ctypes.c_longlong


class _Step(ctypes.Structure):
    _fields_ = (
        ("gain", ctypes.c_void_p),
        ("shift", ctypes.c_void_p),
        ("eps", ctypes.c_float),
        ("gelu", _Number),
    )


class _Gradients(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_void_p) for name in ("rows", "of_norm", "of_bias", "sums"))


def refuses(x: Tensor, weight: Tensor) -> str | None:
    """Why this backend cannot serve the call, or None."""
    if x.device.type != "cpu":
        return f"it runs on CPUs alone, and the rows are on {x.device}"
    if x.dtype != torch.float32 or weight.dtype != torch.float32:
        return f"it is for float32, and the rows are {str(x.dtype).removeprefix('torch.')}"
    products = x.numel() * weight.shape[0]
    # A number that a traced graph leaves open is taken for a large one.
    if isinstance(products, int) and products < LEAST_PRODUCTS:
        return f"there are fewer than {LEAST_PRODUCTS} products"
    return _unready()


def multiply(x: Tensor, matrix: Tensor, bias: Tensor | None, step: Step) -> Tensor:
    """Rows (..., c) that took a step, times the matrix (o, c) turned, and the bias: (..., o)."""
    out, into = matrix.shape
    x, rows = x.detach().contiguous(), x.shape[:-1].numel()
    result = x.new_empty((*x.shape[:-1], out))  # before small ones take its place
    told, packed = _told(step), _packed(matrix)
    bias = None if bias is None else bias.detach().contiguous()

    def work(begin: int, end: int) -> None:
        space = x.new_empty(_count("multiply_space", into))
        library(SOURCE).multiply(
            address(x), ctypes.byref(told), _Number(into), address(packed), address(bias),
            _Number(out), address(result), _Number(begin * NEAR), _Number(min(end * NEAR, rows)),
            address(space),
        )  # fmt: skip

    in_threads(-(-rows // NEAR), work)
    return result


def gradients(
    gradient: Tensor,
    x: Tensor,
    matrix: Tensor,
    step: Step,
    *,
    of_rows: bool,
    of_matrix: bool,
    of_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Those of the rows (..., c), gain and shift (c,) of a norm, matrix (o, c) and bias (o,).

    They come from the result's (..., o). What is not asked for is empty; gain and shift are asked
    for with the rows, and zero where nothing is normed.
    """
    gradient, x, told = gradient.detach().contiguous(), x.detach().contiguous(), _told(step)
    (out, into), rows, parts = matrix.shape, x.shape[:-1].numel(), ranges(x.shape[:-1].numel())
    slope = x.new_empty(x.shape if of_rows else (0,))  # before small ones take its place
    packed = _packed(matrix.t()) if of_rows else None
    norm = x.new_zeros((len(parts), 2, into if of_rows else 0), dtype=torch.float64)
    bias = x.new_zeros((len(parts), out if of_bias else 0), dtype=torch.float64)
    size = _count("packed_size", out, into) if of_matrix else 0
    sums = x.new_zeros((len(parts), size))

    def work(begin: int, end: int) -> None:
        place = [part[0] for part in parts].index(begin)
        targets = (
            slope if of_rows else None,
            norm[place],
            bias[place] if of_bias else None,
            sums[place] if of_matrix else None,
        )
        space = x.new_empty(_count("multiply_back_space", into, out))
        library(SOURCE).multiply_back(
            address(x), ctypes.byref(told), address(gradient), address(packed),
            *map(_Number, (into, out)), ctypes.byref(_Gradients(*map(address, targets))),
            *map(_Number, (begin, end)), address(space),
        )  # fmt: skip

    in_threads(rows, work)
    of_gain, of_shift, of_start = (total.to(x.dtype) for total in (*norm.sum(0), bias.sum(0)))
    of_weight = _unpacked(sums, matrix) if of_matrix else x.new_empty(0)
    return slope, of_gain, of_shift, of_weight, of_start


@constant
def _unready() -> str | None:
    if not _is_amd():
        return "torch's own products (MKL) are as fast on processors that are not AMD's"
    return missing(SOURCE)


@cache
def _is_amd() -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.is_file() and "AuthenticAMD" in cpuinfo.read_text()


def _told(step: Step) -> _Step:
    """The step as the source reads it; a norm's tensors are contiguous."""
    gain, shift, eps = (None, None, 0.0) if step.norm is None else step.norm
    return _Step(address(gain), address(shift), eps, step.gelu)


def _packed(matrix: Tensor) -> Tensor:
    """The matrix (o, c) in the order in which the source multiplies rows of c numbers by it."""
    (out, into), matrix = matrix.shape, matrix.detach()
    packed = matrix.new_empty(_count("packed_size", into, out))
    library(SOURCE).pack(
        address(matrix), *map(_Number, (into, out, *matrix.stride())), address(packed)
    )
    return packed


def _unpacked(sums: Tensor, matrix: Tensor) -> Tensor:
    """The gradient of the matrix (o, c), from the sums of all threads."""
    total, (out, into) = sums[0] if len(sums) == 1 else sums.sum(0), matrix.shape
    result = matrix.new_empty(matrix.shape)
    library(SOURCE).unpack(address(total), _Number(into), _Number(out), address(result))
    return result


def _count(name: str, *sizes: int) -> int:
    function = getattr(library(SOURCE), name)
    function.restype = _Number
    return function(*map(_Number, sizes))
