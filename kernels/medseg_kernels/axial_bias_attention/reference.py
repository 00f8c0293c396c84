"""Attention with decomposed relative positions, written to be read: the truth of the others."""

import torch
from torch import Tensor

from medseg_kernels.axial_bias_attention.partition import cut, join
from medseg_kernels.axial_bias_attention.request import Request, offsets


def forward(
    qkv: Tensor,  # (b, i, j, k, 3 c), the last axis ordered (q k v, head, channel of the head)
    tables: Tensor,  # (2 w_i - 1 + 2 w_j - 1 + 2 w_k - 1, e)
    padding: Tensor | None,  # (3 c)
    *,
    request: Request,
) -> Tensor:
    """The attended tokens (b, i, j, k, c), with a bias for every pair of tokens of a window."""
    if qkv.numel() == 0:
        return qkv[..., : qkv.shape[-1] // 3].clone()
    size = qkv.shape[1:4]
    exact = torch.promote_types(qkv.dtype, torch.float32)
    query, key, value = cut(qkv, padding, request)  # (b, g, heads, n, e)
    scores = (query @ key.mT).to(exact) * query.shape[-1] ** -0.5
    scores = scores + _bias(query, tables, request).to(exact)
    apart = _apart(size, request, masked=padding is None, device=qkv.device)
    weights = scores.masked_fill(apart[:, None], -torch.inf).softmax(-1).to(value.dtype)
    return join(weights @ value, size, request)


def _bias(query: Tensor, tables: Tensor, request: Request) -> Tensor:
    """The sum over axes of q . R[offset of the pair along the axis], (b, g, heads, n, n)."""
    shape = torch.Size(request.window)
    place = torch.unravel_index(torch.arange(shape.numel(), device=query.device), shape)
    bias = query.new_zeros(())
    for axis, table in enumerate(request.split(tables)):
        of_offsets = query @ table.to(query.dtype).t()
        entry = offsets(request.window[axis], query.device)[place[axis][:, None], place[axis]]
        bias = bias + of_offsets.gather(-1, entry.expand(*query.shape[:3], -1, -1))
    return bias


def _apart(
    size: tuple[int, ...], request: Request, *, masked: bool, device: torch.device
) -> Tensor:
    """The pairs of tokens (g, n, n) of each window that do not attend to each other."""
    apart = torch.zeros((1, 1, 1), dtype=torch.bool, device=device)
    for axis, (count, window) in enumerate(zip(request.counts(size), request.window, strict=True)):
        along = request.apart(size, axis, masked=masked, device=device)
        if along is None:
            along = apart.new_zeros((count, window, window))
        both = apart[:, None, :, None, :, None] | along[None, :, None, :, None, :]
        apart = both.flatten(4, 5).flatten(2, 3).flatten(0, 1)
    return apart
