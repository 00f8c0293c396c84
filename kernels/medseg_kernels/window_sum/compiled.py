"""The sums in C, one pass over a window, for a CPU."""

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from medseg_kernels.native import NotCompiledError, in_threads, library

SOURCE = Path(__file__).with_name("window.c")
_KINDS = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
_Number = ctypes.c_int64


class _Array(ctypes.Structure):
    _fields_ = [("first", ctypes.c_void_p), ("by", _Number * 4), ("kind", _Number)]


class _Call(ctypes.Structure):
    _fields_ = [
        *((name, _Array) for name in ("sums", "counts", "features", "weight")),
        ("channels", _Number), ("sides", _Number * 3),
    ]  # fmt: skip


def refuses(sums: Tensor, features: Tensor) -> str | None:
    """Why this form cannot serve the call; None where it can."""
    for tensor in (sums, features):
        if tensor.device.type != "cpu":
            return f"it is for a CPU, and the tensors are on {tensor.device}"
        refusal = _unready(tensor.dtype)
        if refusal is not None:
            return refusal
    return None


def _unready(kind: torch.dtype) -> str | None:
    if kind not in _KINDS:
        return f"it has no {str(kind).removeprefix('torch.')}"
    try:
        knows = library(SOURCE).knows(_Number(_KINDS[kind]))
    except NotCompiledError as error:
        return str(error)
    return None if knows else f"the compiler has no {str(kind).removeprefix('torch.')} here"


def add_window(
    sums: Tensor,  # (f, i, j, k)
    counts: Tensor,  # (i, j, k)
    features: Tensor,  # (f, i, j, k)
    weight: Tensor,  # (i, j, k) float32
) -> None:
    """Not a bit differs from the reference."""
    arrays = map(_array, (sums, counts[None], features.detach(), weight[None]))
    call = _Call(*arrays, len(sums), sums.shape[1:])

    def work(low: int, high: int) -> None:
        library(SOURCE).add_window(ctypes.byref(call), _Number(low), _Number(high))

    in_threads(sums.shape[1], work)


def _array(tensor: Tensor) -> _Array:
    return _Array(tensor.data_ptr(), tensor.stride(), _KINDS[tensor.dtype])
