"""Neighborhood attention on a 3D token grid: every token attends to the window around it."""

import math
from functools import partial
from typing import Literal

from torch import Tensor

from medseg_kernels import gpu
from medseg_kernels.choice import chosen
from medseg_kernels.neighborhood_attention import operator, reference
from medseg_kernels.neighborhood_attention.request import Request, Triple

__all__ = ["Backend", "neighborhood_attention", "refuses"]

Backend = Literal["triton", "tiled", "reference"]


def neighborhood_attention(
    qkv: Tensor,  # (b, i, j, k, 3 c)
    *,
    heads: int,
    window: Triple,
    dilation: Triple = (1, 1, 1),
    table: Tensor | None = None,  # (2 w_i - 1, 2 w_j - 1, 2 w_k - 1, heads)
    scale: float | None = None,
    backend: Backend | None = None,
) -> Tensor:
    """Tokens (b, i, j, k, c), each attending to the w_i w_j w_k tokens of its own neighborhood.

    Neighborhood attention (arXiv 2204.07143), dilated as in 2209.15001, with NATTEN's rule at the
    borders: along an axis of L tokens the query at p attends to the w keys that begin at
    clamp(p - floor(w / 2), 0, L - w), so that every query has all w of them. Tokens that lie
    `dilation` apart form a row of their own, and the rule holds inside that row; an axis needs at
    least window times dilation tokens. An even window reaches one further down than up.

    The last axis of `qkv` is ordered (query key value, head, channel of the head). With e channels
    in a head, out = softmax(scale Q K^T + B) V, and scale is 1 / sqrt(e) by default. `table` holds
    B for every offset query minus key in steps of `dilation`, as in `window_attention`: entry
    (w_i - 1, w_j - 1, w_k - 1) is the token itself. NATTEN's bias counts key minus query with
    heads first: its table is `rpb.flip(1, 2, 3).permute(1, 2, 3, 0)` here.

    `backend` forces one; by default the first that does not refuse is taken, and refusals are
    logged at debug level.

    Raises:
        ValueError: shapes that do not fit each other, or a forced backend that refuses.
    """
    _check(qkv, table, heads, window, dilation)
    scale = 1 / math.sqrt(qkv.shape[-1] // (3 * heads)) if scale is None else scale
    request = Request(heads, window, dilation, scale)
    refused = partial(refuses, qkv=qkv, request=request)
    name = chosen("neighborhood_attention", _BACKENDS, backend, refused)
    if name == "reference":
        return reference.forward(qkv, table, request=request)
    return operator.forward(qkv, table, request=request, backend=name)


def refuses(backend: str, qkv: Tensor, *, request: Request) -> str | None:
    """Why a backend cannot serve a call, or None."""
    if backend != "triton":
        return None
    channels = qkv.shape[-1] // (3 * request.heads)
    if channels > 128:
        return f"its tiles hold heads of up to 128 channels, not {channels}"
    if max(request.window) > 240:
        return f"it compares places of windows of up to 240, not {max(request.window)}"
    refusal = gpu.refuses(qkv)
    if refusal is None and math.prod(qkv.shape[1:]) >= 2**31:
        return "it counts the numbers of an item in 32 bits, and there are more"
    return refusal


_BACKENDS: tuple[Backend, ...] = ("triton", "tiled", "reference")


def _check(qkv: Tensor, table: Tensor | None, heads: int, window: Triple, dilation: Triple) -> None:
    if qkv.ndim != 5 or heads < 1 or qkv.shape[-1] % (3 * heads) or not qkv.shape[-1]:
        raise ValueError(
            f"qkv {tuple(qkv.shape)} must be (b, i, j, k, 3 c), c a multiple of {heads} heads"
        )
    if min(*window, *dilation) < 1:
        raise ValueError(f"window {window} and dilation {dilation} start at 1")
    size = tuple(qkv.shape[1:4])
    least = tuple(w * d for w, d in zip(window, dilation, strict=True))
    if math.prod(size) and any(s < n for s, n in zip(size, least, strict=True)):
        raise ValueError(
            f"a grid of {size} tokens is smaller than window {window} times dilation {dilation}: "
            f"each axis needs at least {least}"
        )
    entries = (*(2 * w - 1 for w in window), heads)
    if table is not None and table.shape != entries:
        raise ValueError(f"table {tuple(table.shape)} must be {entries}")
