"""The selective scan of Mamba: a linear recurrence whose coefficients the tokens choose."""

import importlib
import importlib.util
import logging
from typing import Literal

import torch
from torch import Tensor

from medseg_kernels.selective_scan import chunked, reference

__all__ = ["Backend", "refuses", "selective_scan"]

Backend = Literal["mamba_ssm", "chunked", "reference"]
_SUPPLIER = "mamba_ssm.ops.selective_scan_interface"

log = logging.getLogger(__name__)


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

    Sums are float32 at least. "chunked" is plain torch on any device; it works on `block` tokens
    at a time (None: as many as the device's caches like), and its memory is linear in n, in the
    backward pass too. "mamba_ssm" is that package's CUDA kernel. "reference" takes one token after
    another. `backend` forces one; by default the first of mamba_ssm and chunked that does not
    refuse is taken, and refusals are logged at debug level.

    Raises:
        ValueError: shapes that do not fit each other, or a forced backend that refuses.
    """
    _check(x, step, decay, write, read, skip, block)
    given = [one.float() if one.dtype.itemsize < 4 else one for one in (x, step, write, read)]
    matrix, past = (one.to(given[0].dtype) for one in (decay, skip))
    chosen = backend or _chosen(x)
    refusal = refuses(x, backend=chosen)
    if refusal is not None:
        raise ValueError(f"selective_scan: backend {chosen!r} refuses: {refusal}")
    wide, steps, writes, reads = given
    with torch.autocast("cpu" if x.is_meta else x.device.type, enabled=False):
        if chosen == "reference":
            result = reference.forward(wide, steps, matrix, writes, reads, past)
        elif chosen == "mamba_ssm":
            supplier = importlib.import_module(_SUPPLIER)
            result = supplier.selective_scan_fn(wide, steps, matrix, writes, reads, past)
        else:
            scanned = chunked.forward(wide, steps, matrix, writes, reads, block=block)
            result = scanned + past[:, None] * wide
    return result.to(x.dtype)


def refuses(x: Tensor, *, backend: Backend) -> str | None:
    """Why `backend` cannot serve the call, or None."""
    if backend in ("chunked", "reference"):
        return None
    if backend != "mamba_ssm":
        return "there is no such backend"
    if x.device.type != "cuda":
        return f"it runs on CUDA devices alone, and the tensors are on {x.device}"
    if x.dtype == torch.float64:
        return "it has no float64"
    if importlib.util.find_spec("mamba_ssm") is None:
        return "the package mamba-ssm is not installed"
    return None


def _chosen(x: Tensor) -> Backend:
    refusal = refuses(x, backend="mamba_ssm")
    if refusal is None:
        return "mamba_ssm"
    log.debug("selective_scan: backend 'mamba_ssm' refuses: %s", refusal)
    return "chunked"


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
