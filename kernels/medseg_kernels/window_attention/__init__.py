"""Attention inside the groups of a 3D token grid: windows, shifted windows, dilated groups."""

import math
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from medseg_kernels import gpu
from medseg_kernels.choice import chosen
from medseg_kernels.window_attention import operator, reference
from medseg_kernels.window_attention.plan import LARGEST_WINDOW
from medseg_kernels.window_attention.request import Request, Triple

__all__ = ["Backend", "refuses", "window_attention"]

Backend = Literal["triton", "grouped", "reference"]


def window_attention(
    qkv: Tensor,  # (b, i, j, k, 3 c)
    *,
    heads: int,
    window: Triple,
    shift: Triple = (0, 0, 0),
    dilation: Triple = (1, 1, 1),
    table: Tensor | None = None,  # (2 w_i - 1, 2 w_j - 1, 2 w_k - 1, heads)
    position: Literal["geometric", "prefix"] = "geometric",
    padding: Tensor | None = None,  # (3 c)
    dropout: float = 0.0,
    backend: Backend | None = None,
) -> Tensor:
    """Tokens (b, i, j, k, c), each attending to the tokens of its own group.

    Partition, roll and padding are done here: `qkv` is the plain grid, its last axis ordered
    (query key value, head, channel of the head). An axis is cut into groups of `window` tokens
    that lie `dilation` apart, after a roll by minus `shift`; tokens that only the roll brought
    together do not see each other. Sizes need not divide: the grid is padded at its far ends by
    tokens equal to `padding`, which take part as Swin's do, or, where it is None, take no part.

    `table` holds a bias for every offset query minus key, in steps of `dilation`, one a head. It
    may belong to a larger window than the one used; then `position` says how a pair of tokens
    finds its entry: by its own offset ("geometric"), or by the offset that tokens of the same
    numbers have in the larger window ("prefix", which is what MONAI's Swin UNETR computes).

    `dropout` acts on the attention weights, always; pass 0 for evaluation. With e channels in a
    head, out = dropout(softmax(Q K^T / sqrt(e) + B)) V: Swin Transformer, arXiv 2103.14030,
    equation 4. "triton" is for CUDA devices, "grouped" is for any; both compute the
    weights again in the backward pass, in float32 at least, and give the same gradients every
    time. `backend` forces one; by default the first that does not refuse is taken, and refusals
    are logged at debug level.

    Raises:
        ValueError: shapes that do not fit each other, or a forced backend that refuses.
    """
    request = Request(heads, window, shift, dilation, prefix=position == "prefix")
    _check(qkv, table, padding, request)
    refused = partial(refuses, qkv=qkv, request=request, dropout=dropout)
    name = chosen("window_attention", _BACKENDS, backend, refused)
    if name == "reference":
        return reference.forward(qkv, table, padding, request=request, dropout=dropout)
    return operator.forward(qkv, table, padding, request=request, backend=name)


def refuses(backend: str, qkv: Tensor, *, request: Request, dropout: float = 0.0) -> str | None:
    """Why a backend cannot serve a call, or None."""
    if backend == "reference":
        return None
    if dropout > 0:
        return "dropout acts on attention weights, which it never holds"
    return _triton_refuses(qkv, request) if backend == "triton" else None


def _triton_refuses(qkv: Tensor, request: Request) -> str | None:
    channels, most = qkv.shape[-1] // (3 * request.heads), 64 if qkv.dtype == torch.float32 else 128
    if channels > most:
        return f"its tiles of {qkv.dtype} hold heads of up to {most} channels, not {channels}"
    if max(request.window) > LARGEST_WINDOW:
        return f"it counts places in windows of up to {LARGEST_WINDOW}, not {max(request.window)}"
    refusal = gpu.refuses(qkv)
    if refusal is None and math.prod(qkv.shape[1:]) >= 2**31:
        return "it counts the numbers of an item in 32 bits, and there are more"
    return refusal


_BACKENDS: tuple[Backend, ...] = ("triton", "grouped", "reference")


def _check(qkv: Tensor, table: Tensor | None, padding: Tensor | None, request: Request) -> None:
    heads, channels = request.heads, qkv.shape[-1]
    blocks = [w * d for w, d in zip(request.window, request.dilation, strict=True)]
    if qkv.ndim != 5 or heads < 1 or not channels or channels % (3 * heads):
        raise ValueError(
            f"qkv {tuple(qkv.shape)} must be (b, i, j, k, 3 c), c a multiple of {heads} heads"
        )
    if min(blocks) < 1 or any(not 0 <= s < b for s, b in zip(request.shift, blocks, strict=True)):
        raise ValueError(
            f"{request}: window and dilation start at 1, shift is less than their product"
        )
    if padding is not None and padding.shape != (channels,):
        raise ValueError(f"padding {tuple(padding.shape)} must be one token's qkv, ({channels},)")
    if table is None:
        return
    least = [2 * w - 1 for w in request.window]
    if (
        table.ndim != 4
        or table.shape[3] != heads
        or any(t % 2 == 0 or t < n for t, n in zip(table.shape, least, strict=False))
    ):
        raise ValueError(f"table {tuple(table.shape)} must be odd, at least {(*least, heads)}")
