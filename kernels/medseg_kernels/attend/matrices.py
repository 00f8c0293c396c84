"""Attention in torch's operations, where it is not compiled."""

from collections.abc import Iterator, Sequence
from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional

# Bytes of scores that are worked on at a time where biases are sums: half of a second-level cache.
_BYTES = 1 << 20


def forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    scale: float,
    axes: Sequence[Tensor],
) -> Tensor:
    """Torch's fused attention; where biases are sums, of so many heads and rows as fit."""
    g, heads, n, e = query.shape
    with torch.autocast(query.device.type, enabled=False):
        if not axes:
            return functional.scaled_dot_product_attention(
                query, key, value, attn_mask=bias, scale=scale
            )
        result = query.new_empty((g, n, heads, e)).transpose(1, 2)
        for part, rows in _blocks(query, key):
            result[part][:, :, rows] = functional.scaled_dot_product_attention(
                query[part][:, :, rows], key[part], value[part],
                attn_mask=_joined(axes, part, rows).to(query.dtype), scale=scale,
            )  # fmt: skip
    return result


def backward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    slope: Tensor,
    into: Sequence[Tensor],
    of_bias: Tensor | None,
    scale: float,
) -> None:
    """The gradients: those of the rows are written over `into`, that of the bias is added."""
    # With P = softmax(S), S = scale Q K^T + B, and G the gradient of P V: dV = P^T G,
    # dS = P dP - P sum(P dP) with dP = G V^T, dQ = scale dS K, dK = scale dS^T Q, dB = dS.
    (g, heads, n, _), m = query.shape, key.shape[2]
    query, key, value, slope = (x.flatten(0, 1) for x in (query, key, value, slope))
    start = query.new_zeros(1) if bias is None else bias.expand(g, heads, -1, -1).flatten(0, 1)
    with torch.autocast(query.device.type, enabled=False):
        weights = torch.baddbmm(start, query, key.mT, alpha=scale).softmax(-1)
        d_scores = torch.bmm(slope, value.mT).mul_(weights)
        d_scores.addcmul_(weights, d_scores.sum(-1, keepdim=True), value=-1)
        if of_bias is not None:
            of_bias.add_(d_scores.view(g, heads, n, m).sum_to_size(of_bias.shape))
        d_rows = (
            torch.bmm(d_scores, key).mul_(scale),
            torch.bmm(d_scores.mT, query).mul_(scale),
            torch.bmm(weights.mT, slope),
        )
    for target, rows in zip(into, d_rows, strict=True):
        target.copy_(rows.unflatten(0, (g, heads)))


def backward_of_axes(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    slope: Tensor,
    into: Sequence[Tensor],
    scale: float,
    axes: Sequence[Tensor],
    of_axes: Sequence[Tensor],
) -> None:
    """As `backward`, where biases are sums; all gradients are written over what is there."""
    of_query, of_key, of_value = into
    of_key.zero_()
    of_value.zero_()
    for part, rows in _blocks(query, key):
        some, bias = query[part][:, :, rows], _joined(axes, part, rows)
        d_rows = torch.empty_like(some), torch.empty_like(key[part]), torch.empty_like(value[part])
        d_scores = torch.zeros_like(bias)
        given = some, key[part], value[part], bias, slope[part][:, :, rows]
        backward(*given, d_rows, d_scores, scale)
        of_query[part][:, :, rows] = d_rows[0]
        of_key[part] += d_rows[1]
        of_value[part] += d_rows[2]
        grid = d_scores.unflatten(-1, [axis.shape[-1] for axis in axes])
        for number, target in enumerate(of_axes):
            others = [3 + axis for axis in range(len(axes)) if axis != number]
            target[part][:, :, rows] = grid.sum(others) if others else grid


def _blocks(query: Tensor, key: Tensor) -> Iterator[tuple[tuple[slice, slice], slice]]:
    """Heads of a group, and rows of their queries, whose scores fit."""
    scores, keys = _BYTES // torch.promote_types(key.dtype, torch.float32).itemsize, key.shape[2]
    heads, rows = max(1, scores // keys**2), max(16, scores // keys)
    for group in range(len(query)):
        for head in range(0, query.shape[1], heads):
            for row in range(0, query.shape[2], rows):
                part = slice(group, group + 1), slice(head, head + heads)
                yield part, slice(row, row + rows)


def _joined(axes: Sequence[Tensor], part: tuple[slice, slice], rows: slice) -> Tensor:
    """The bias of every pair."""
    spread = []
    for number, axis in enumerate(axes):
        shape = [-1 if number == other else 1 for other in range(len(axes))]
        spread.append(axis[part][:, :, rows].unflatten(-1, shape))
    return reduce(torch.add, spread).flatten(3)
