"""The selective scan in C: as many channels at a time as a vector holds, in float32, on a CPU."""

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from medseg_kernels.constant import constant
from medseg_kernels.native import address, in_threads, library, missing
from medseg_kernels.selective_scan.chunked import Given

SOURCE = Path(__file__).with_name("scan.c")
# Tokens between the states that are kept; measured: 32 to 128 take the same time.
BLOCK = 64
# Channels whose shares in the gradients of write and read are summed before they are written.
_GROUP = 64
_MOST_STATES = 256


def refuses(x: Tensor, states: int) -> str | None:
    """Why this backend cannot serve the call, or None."""
    if x.device.type != "cpu":
        return f"it runs on CPUs alone, and the tensors are on {x.device}"
    if x.dtype == torch.float64:
        return "it has no float64"
    if states > _MOST_STATES:
        return f"it holds up to {_MOST_STATES} states of a channel, not {states}"
    return _not_compiled()


@constant
def _not_compiled() -> str | None:
    return missing(SOURCE)


def forward(given: Given, *, block: int) -> tuple[Tensor, Tensor]:
    """The result (b, d, n), and the state (b, blocks, d, s) before each block."""
    b, d, n = given.x.shape
    states = given.x.new_empty((b, -(-n // block), d, given.decay.shape[1]), dtype=torch.float32)
    wide = _wide(given)
    result = torch.empty_like(wide.x)
    told = _told(wide, states, block)

    def work(begin: int, end: int) -> None:
        numbers = (ctypes.c_longlong(begin), ctypes.c_longlong(end))
        _done(library(SOURCE).scan(ctypes.byref(told), _map(result), *numbers))

    in_threads(b * _vectors(d), work)
    return result.to(given.x.dtype), states


def backward(grad: Tensor, states: Tensor, given: Given, *, block: int) -> tuple[Tensor, ...]:
    """The gradients of all that is given."""
    wide, slope = _wide(given), grad.float()
    b, d, n = given.x.shape
    groups, size = -(-d // _GROUP), states.shape[3]
    of_x, of_step = torch.empty_like(wide.x), torch.empty_like(wide.step)
    of_decay, of_skip = states.new_empty((b, d, size)), states.new_empty((b, d))
    of_write, of_read = (states.new_empty((b, groups, n, size)) for _ in range(2))
    told = _told(wide, states, block)
    pointers = map(address, (of_decay, of_skip, of_write, of_read))
    wanted = _Wanted(_map(of_x), _map(of_step), *pointers, _GROUP)

    def work(begin: int, end: int) -> None:
        numbers = (ctypes.c_longlong(begin), ctypes.c_longlong(end))
        asked = (ctypes.byref(told), _map(slope), ctypes.byref(wanted))
        _done(library(SOURCE).scan_backward(*asked, *numbers))

    in_threads(b * groups, work)
    summed = (of_decay.sum(0), of_write.sum(1).mT, of_read.sum(1).mT, of_skip.sum(0))
    rest = (torch.empty_like(one).copy_(of) for one, of in zip(given[2:], summed, strict=True))
    return of_x.to(given.x.dtype), of_step.to(given.step.dtype), *rest


class _Map(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        *((name, ctypes.c_longlong) for name in ("item", "channel", "token")),
    ]


class _Told(ctypes.Structure):
    _fields_ = [
        *((name, _Map) for name in ("x", "step")),
        *((name, ctypes.c_void_p) for name in ("write", "read", "decay", "skip", "borders")),
        *((name, ctypes.c_longlong) for name in ("channels", "tokens", "states", "block")),
    ]


class _Wanted(ctypes.Structure):
    _fields_ = [
        *((name, _Map) for name in ("x", "step")),
        *((name, ctypes.c_void_p) for name in ("decay", "skip", "write", "read")),
        ("group", ctypes.c_longlong),
    ]


def _vectors(channels: int) -> int:
    """How many vectors hold the channels of an item; it depends on the machine."""
    count = library(SOURCE).vectors
    count.restype = ctypes.c_longlong
    return count(ctypes.c_longlong(channels))


def _wide(given: Given) -> Given:
    """In float32, write and read as (b, n, s); strides of x and step may be any."""
    x, step, decay, write, read, skip = (one.float() for one in given)
    write, read = (one.mT.contiguous() for one in (write, read))
    return Given(x, step, decay.contiguous(), write, read, skip.contiguous())


def _told(wide: Given, states: Tensor, block: int) -> _Told:
    pointers = map(address, (wide.write, wide.read, wide.decay, wide.skip, states))
    _, _, d, size = states.shape
    return _Told(_map(wide.x), _map(wide.step), *pointers, d, wide.x.shape[2], size, block)


def _map(tensor: Tensor) -> _Map:
    return _Map(address(tensor), *tensor.stride())


def _done(failed: int) -> None:
    if failed:
        raise MemoryError("selective_scan: no memory for a block of states")
