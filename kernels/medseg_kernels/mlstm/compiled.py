"""The mLSTM cell in C, a chunk of tokens at a time: in float32, on a CPU."""

import ctypes
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from medseg_kernels.constant import constant
from medseg_kernels.mlstm.given import Given, Lanes, alike, as_given, of_heads, room_for
from medseg_kernels.native import address, in_threads, library, missing

SOURCE = Path(__file__).with_name("cell.c")
# Measured: 32 to 64 differ by a tenth.
CHUNK = 48


def refuses(query: Tensor) -> str | None:
    """Why this backend cannot serve the call, or None."""
    if query.device.type != "cpu":
        return f"it runs on CPUs alone, and the tensors are on {query.device}"
    if query.dtype == torch.float64:
        return "it has no float64"
    return _not_compiled()


@constant
def _not_compiled() -> str | None:
    return missing(SOURCE)


def forward(given: Given, lanes: Lanes, *, chunk: int) -> tuple[Tensor, Tensor]:
    """What the lanes read (b, lane, n, d), and each token's sum of weights (b, lane, n)."""
    wide, steps = _wide(given)
    b, _, n, d = wide.query.shape
    read = wide.query.new_empty((b, n, sum(lanes), d)).transpose(1, 2)
    whole = wide.query.new_empty((b, sum(lanes), n))
    told = _told(wide, steps, read, whole, lanes, chunk)

    def work(begin: int, end: int) -> None:
        numbers = (ctypes.c_longlong(begin), ctypes.c_longlong(end))
        _done(library(SOURCE).cell(ctypes.byref(told), *numbers))

    in_threads(b * sum(lanes), work)
    return read.to(given.query.dtype), whole


def backward(
    grad: Tensor, read: Tensor, whole: Tensor, given: Given, lanes: Lanes, *, chunk: int
) -> tuple[Tensor, ...]:
    """The gradients of all that is given, from `forward`'s results and that of the first."""
    wide, steps = _wide(given)
    read = read.float()
    slope = torch.empty_like(read).copy_(grad)
    found = [room_for(wide.query, lanes) for _ in range(3)]
    of_gates = [torch.empty_like(whole) for _ in range(2)]
    told = _told(wide, steps, read, whole, lanes, chunk)
    strides = found[0].stride()[:3]
    slopes = _Slopes(*map(address, (slope, *found)), *strides, *map(address, of_gates))

    def work(begin: int, end: int) -> None:
        numbers = (ctypes.c_longlong(begin), ctypes.c_longlong(end))
        _done(library(SOURCE).cell_backward(ctypes.byref(told), ctypes.byref(slopes), *numbers))

    in_threads(len(grad) * sum(lanes), work)
    *rest, of_steps = (of_heads(one, wide.query.shape[1]) for one in (*found, *of_gates))
    rest.append(of_steps * torch.sigmoid(-wide.forget_gate))
    return tuple(as_given(one, of) for one, of in zip(given, rest, strict=True))


class _Told(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("query", "key", "value", "entered", "steps")),
        *((name, ctypes.c_void_p) for name in ("read", "whole")),
        *((name, ctypes.c_longlong) for name in ("item", "head", "token")),
        *((name, ctypes.c_longlong) for name in ("heads", "ahead", "lanes", "tokens")),
        *((name, ctypes.c_longlong) for name in ("size", "chunk")),
    ]


class _Slopes(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("gradient", "query", "key", "value")),
        *((name, ctypes.c_longlong) for name in ("item", "lane", "token")),
        *((name, ctypes.c_void_p) for name in ("entered", "steps")),
    ]


def _wide(given: Given) -> tuple[Given, Tensor]:
    """In float32, alike in memory; and the forgetting of each token."""
    wide = alike(Given(*(one.float() for one in given)))
    return wide, functional.logsigmoid(wide.forget_gate)


def _told(
    wide: Given, steps: Tensor, read: Tensor, whole: Tensor, lanes: Lanes, chunk: int
) -> _Told:
    query, key, value, input_gate, _ = wide
    _, heads, tokens, size = query.shape
    pointers = map(address, (query, key, value, input_gate, steps, read, whole))
    counts = (heads, lanes.ahead, sum(lanes), tokens, size, min(chunk, tokens))
    return _Told(*pointers, *query.stride()[:3], *counts)


def _done(failed: int) -> None:
    if failed:
        raise MemoryError("mlstm: no memory for the states between chunks")
