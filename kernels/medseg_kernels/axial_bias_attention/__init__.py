"""Attention with decomposed relative positions on 2D and 3D token grids, global or windowed."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from medseg_kernels import gpu
from medseg_kernels.axial_bias_attention import blocked, folded, operator, reference
from medseg_kernels.axial_bias_attention.request import Request, Triple
from medseg_kernels.choice import chosen

__all__ = ["Backend", "axial_bias_attention", "refuses", "resized_table"]

Backend = Literal["triton", "blocked", "folded", "reference"]


def axial_bias_attention(
    qkv: Tensor,  # (b, i, j, 3 c) or (b, i, j, k, 3 c)
    *,
    heads: int,
    tables: Sequence[Tensor],  # one an axis, (2 w - 1, c / heads)
    window: Sequence[int] | None = None,
    shift: Sequence[int] | None = None,
    padding: Tensor | None = None,  # (3 c)
    backend: Backend | None = None,
) -> Tensor:
    """Tokens (b, i, j, c) or (b, i, j, k, c), each attending to the tokens of its own window.

    The attention of MViTv2 and ViTDet (arXiv 2112.01526, 2203.16527) that Segment Anything's image
    encoder uses, on two axes or, as in 3DSAM-adapter (2306.13465), on three. With e channels in a
    head, a query q at the place p of its window and a key k at the place p' have the score

        q . k / sqrt(e) + sum over axes a of q . R_a[p_a - p'_a + w_a - 1],

    where `tables` holds R for each axis; all heads share it, and q is not scaled there. (A factor
    of the second term, as 3DSAM-adapter has one, goes into the tables.) The last axis of `qkv` is
    ordered (query key value, head, channel of the head).

    The grid is cut into windows of `window` tokens, or is one itself where that is None. Partition,
    roll and padding are done here: sizes need not divide; the grid is padded at its far ends by
    tokens equal to `padding`, which take part (in SAM they are zero before the linear layer, so
    its bias is their row), or, where it is None, take no part. The grid is rolled by minus `shift`
    first; tokens that only the roll brought together do not see each other.

    `backend` forces one; by default the first that does not refuse is taken, and refusals are
    logged at debug level.

    Raises:
        ValueError: shapes that do not fit each other, or a forced backend that refuses.
    """
    axes = qkv.ndim - 2
    window = tuple(qkv.shape[1:-1] if window is None else window)
    shift = (0,) * axes if shift is None else tuple(shift)
    _check(qkv, tables, padding, heads, window, shift)
    grid, rows = qkv, list(tables)
    if axes == 2:
        grid, window, shift = qkv[:, None], (1, *window), (0, *shift)
        rows = [rows[0].new_zeros(1, rows[0].shape[1]), *rows]
    request = Request(heads, _triple(window), _triple(shift))
    refused = partial(refuses, qkv=grid, request=request)
    name = chosen("axial_bias_attention", _BACKENDS, backend, refused)
    out = _run(name, grid, torch.cat(rows), padding, request)
    return out[:, 0] if axes == 2 else out


def resized_table(table: Tensor, window: int) -> Tensor:
    """A table (2 w - 1, e) for windows of another size, linearly interpolated along the offsets.

    This is what SAM's image encoder does to a checkpoint's tables when its grid has another size.
    """
    columns = table.t()[None]
    return functional.interpolate(columns, size=2 * window - 1, mode="linear")[0].t()


def refuses(backend: str, qkv: Tensor, *, request: Request) -> str | None:
    """Why a backend cannot serve a call, or None; `qkv` has three axes of tokens."""
    if backend == "blocked":
        return blocked.refuses(qkv)
    if backend != "triton":
        return None
    channels = qkv.shape[-1] // (3 * request.heads)
    if channels > 128:
        return f"its tiles hold heads of up to 128 channels, not {channels}"
    if max(request.window) > 128:
        return f"it holds the bias of up to 128 places of an axis, not {max(request.window)}"
    refusal = gpu.refuses(qkv)
    # Beside qkv there are the biases, at most twice as many a head as a window has places.
    widest = max(qkv.shape[-1], request.heads * (2 * sum(request.window) + 48))
    if refusal is None and math.prod(qkv.shape[1:4]) * widest >= 2**31:
        return "it counts the numbers of an item in 32 bits, and there are more"
    return refusal


_BACKENDS: tuple[Backend, ...] = ("triton", "blocked", "folded", "reference")


def _run(
    backend: Backend, qkv: Tensor, tables: Tensor, padding: Tensor | None, request: Request
) -> Tensor:
    if backend == "reference":
        return reference.forward(qkv, tables, padding, request=request)
    if backend == "folded":
        return folded.forward(qkv, tables, padding, request=request)
    return operator.forward(qkv, tables, padding, request=request, backend=backend)


def _check(
    qkv: Tensor,
    tables: Sequence[Tensor],
    padding: Tensor | None,
    heads: int,
    window: tuple[int, ...],
    shift: tuple[int, ...],
) -> None:
    axes, channels = qkv.ndim - 2, qkv.shape[-1]
    if axes not in (2, 3) or heads < 1 or channels % (3 * heads) or not channels:
        raise ValueError(
            f"qkv {tuple(qkv.shape)} must be (b, i, j, 3 c) or (b, i, j, k, 3 c), "
            f"c a multiple of {heads} heads"
        )
    if len(window) != axes or len(shift) != axes or len(tables) != axes:
        raise ValueError(
            f"{axes} axes of tokens need as many of window {window}, shift {shift} and "
            f"tables, of which there are {len(tables)}"
        )
    if min(window) < 1 or any(not 0 <= s < w for s, w in zip(shift, window, strict=True)):
        raise ValueError(f"window {window} starts at 1, and shift {shift} is less than it")
    for table, extent in zip(tables, window, strict=True):
        rows = (2 * extent - 1, channels // (3 * heads))
        if table.shape != rows:
            raise ValueError(
                f"table {tuple(table.shape)} must be {rows} for {extent} places of an axis; "
                "resized_table makes one of another size fit"
            )
    if padding is not None and padding.shape != (channels,):
        raise ValueError(f"padding {tuple(padding.shape)} must be one token's qkv, ({channels},)")


def _triple(numbers: tuple[int, ...]) -> Triple:
    i, j, k = numbers
    return i, j, k
