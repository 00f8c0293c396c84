"""The selective scan of Mamba: a linear recurrence whose coefficients the tokens choose."""

import importlib
import importlib.util
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from medseg_kernels import gpu
from medseg_kernels.choice import chosen
from medseg_kernels.selective_scan import chunked, compiled, operator, reference
from medseg_kernels.selective_scan.chunked import Given

__all__ = ["Backend", "refuses", "selective_scan"]

Backend = Literal["triton", "compiled", "chunked", "torch", "mamba_ssm", "reference"]
_SUPPLIER = "mamba_ssm.ops.selective_scan_interface"


def selective_scan(
    x: Tensor,  # (b, d, n)
    step: Tensor,  # (b, d, n), positive
    *,
    decay: Tensor,  # (d, s), negative
    write: Tensor,  # (b, s, n)
    read: Tensor,  # (b, s, n)
    skip: Tensor,  # (d,)
    backend: Backend | None = None,
    block: int | None = None,
) -> Tensor:  # (b, d, n)
    """What each channel reads from a state that the tokens up to it have written.

    With the names of Mamba (arXiv 2312.00752, equation 2 and algorithm 2), x is u, step is delta,
    decay A, write B, read C and skip D:

        h_t = exp(step_t decay) h_(t-1) + step_t write_t x_t,    y_t = read_t . h_t + skip x_t

    The result has x's type; sums are float32 at least. Tensors may lie in memory in any way.
    "triton", "compiled" (C, on a CPU) and "chunked" (plain torch, any device) keep what they are
    given and the state before every `block` tokens for the backward pass (None: as many tokens as
    the backend likes). "torch" is chunked in torch's own operations, for tracing into other
    formats; "mamba_ssm" is that package's CUDA kernel; "reference" takes one token after another.
    `backend` forces one; by default the first of the first three that does not refuse is taken, and
    refusals are logged at debug level.

    Raises:
        ValueError: shapes that do not fit each other, or a forced backend that refuses.
    """
    _check(x, step, decay, write, read, skip, block)
    given = Given(x, step, decay, write, read, skip)
    name = chosen(
        "selective_scan",
        get_args(Backend),
        backend,
        lambda name: refuses(x, backend=name, states=decay.shape[1], block=block),
    )
    if name in _OPERATOR or x.numel() == 0:
        return operator.forward(given, block=block or _block(name, given), backend=name)
    # Tensors on the meta device are of no device that autocast knows.
    with torch.autocast("cpu" if x.is_meta else x.device.type, enabled=False):
        return _OTHERS[name](given)


def refuses(x: Tensor, *, backend: str, states: int = 16, block: int | None = None) -> str | None:
    """Why a backend cannot serve a call with `states` states of a channel, or None."""
    if backend == "compiled":
        return compiled.refuses(x, states)
    if backend == "triton":
        return _refuses_triton(x, block)
    if backend == "mamba_ssm":
        return _refuses_mamba_ssm(x)
    return None


_OPERATOR = ("triton", "compiled", "chunked")
_OTHERS: dict[str, Callable[[Given], Tensor]] = {
    "torch": chunked.traced,
    "mamba_ssm": lambda given: importlib.import_module(_SUPPLIER).selective_scan_fn(*given),
    "reference": lambda given: reference.forward(*given),
}


def _block(name: str, given: Given) -> int:
    """How many tokens at a time; those of triton are a tile of its programs."""
    if name in ("compiled", "triton"):
        return compiled.BLOCK if name == "compiled" else 256
    return chunked.block_of(given.x, given.decay.shape[1])


def _refuses_triton(x: Tensor, block: int | None) -> str | None:
    if block is not None and (block & (block - 1) or not 16 <= block <= 1024):
        return f"its blocks are of 16, 32, ... 1024 tokens, not {block}"
    return gpu.refuses(x)


def _refuses_mamba_ssm(x: Tensor) -> str | None:
    if x.device.type != "cuda":
        return f"it runs on CUDA devices alone, and the tensors are on {x.device}"
    if x.dtype == torch.float64:
        return "it has no float64"
    if importlib.util.find_spec("mamba_ssm") is None:
        return "the package mamba-ssm is not installed"
    return None


def _check(
    x: Tensor,
    step: Tensor,
    decay: Tensor,
    write: Tensor,
    read: Tensor,
    skip: Tensor,
    block: int | None,
) -> None:
    if x.ndim != 3 or step.shape != x.shape:
        raise ValueError(f"x {tuple(x.shape)}, step {tuple(step.shape)}: both are (b, d, n)")
    b, d, n = x.shape
    if decay.ndim != 2 or len(decay) != d or skip.shape != (d,):
        raise ValueError(
            f"decay {tuple(decay.shape)}, skip {tuple(skip.shape)}: they are (d, s) and (d,) with "
            f"d = {d}"
        )
    if write.shape != (b, decay.shape[1], n) or read.shape != write.shape:
        raise ValueError(
            f"write {tuple(write.shape)}, read {tuple(read.shape)}: both are (b, s, n), "
            f"{(b, decay.shape[1], n)}"
        )
    if block is not None and block < 1:
        raise ValueError(f"block {block}: it is at least 1")
