"""Linear layers in float32 on a CPU: a C source, and its calls."""

import ctypes
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from medseg_kernels.constant import constant
from medseg_kernels.native import address, in_threads, library, missing, ranges

SOURCE = Path(__file__).with_name("product.c")
# Rows that are multiplied while they are in a cache, as in the source.
NEAR = 64
# Below it what a call costs outweighs what it gains (measured on an AMD Zen 5).
LEAST_PRODUCTS = 1 << 24
_Number = ctypes.c_longlong


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


def multiply(x: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
    """Rows (..., c) times the matrix (o, c) turned, and the bias added: (..., o)."""
    out, into = matrix.shape
    x, matrix = x.detach().contiguous(), matrix.detach()
    bias = None if bias is None else bias.detach().contiguous()
    result, rows = x.new_empty((*x.shape[:-1], out)), x.shape[:-1].numel()
    packed = x.new_empty(_count("packed_size", into, out))
    library(SOURCE).pack(
        address(matrix), *map(_Number, (into, out, *matrix.stride())), address(packed)
    )

    def work(begin: int, end: int) -> None:
        library(SOURCE).multiply(
            address(x), _Number(into), address(packed), address(bias), _Number(out),
            address(result), _Number(begin * NEAR), _Number(min(end * NEAR, rows)),
        )  # fmt: skip

    in_threads(-(-rows // NEAR), work)
    return result


def weight_gradient(x: Tensor, gradient: Tensor) -> Tensor:
    """The matrix's gradient (o, c), from rows (..., c) and the gradient of the result (..., o)."""
    x, gradient = x.detach().contiguous(), gradient.detach().contiguous()
    into, out, rows = x.shape[-1], gradient.shape[-1], x.shape[:-1].numel()
    numbers, parts = (_Number(into), _Number(out)), ranges(rows)
    sums = x.new_zeros(len(parts), _count("packed_size", out, into))

    def work(begin: int, end: int) -> None:
        own = sums[[part[0] for part in parts].index(begin)]
        space = x.new_empty(_count("weight_gradient_space", into, out))
        library(SOURCE).weight_gradient(
            address(x), address(gradient), *numbers, address(own),
            *map(_Number, (begin, end, rows)), address(space),
        )  # fmt: skip

    in_threads(rows, work)
    total = sums[0] if len(parts) == 1 else sums.sum(0)
    result = x.new_empty((out, into))
    library(SOURCE).unpack(address(total), *numbers, address(result))
    return result


@constant
def _unready() -> str | None:
    if not _is_amd():
        return "torch's own products (MKL) are as fast on processors that are not AMD's"
    return missing(SOURCE)


@cache
def _is_amd() -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.is_file() and "AuthenticAMD" in cpuinfo.read_text()


def _count(name: str, into: int, out: int) -> int:
    function = getattr(library(SOURCE), name)
    function.restype = _Number
    return function(_Number(into), _Number(out))
