"""Plain torch, but fast: groups that share a mask are attended together, a cache-full at a time.

Nothing of size groups x heads x n x n is ever held: the forward calls torch's fused attention
with one bias a kind of group, and the backward computes the weights again.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from medseg_kernels.attend import attend
from medseg_kernels.window_attention.groups import Kind, kinds
from medseg_kernels.window_attention.reference import position_bias
from medseg_kernels.window_attention.request import Request
from medseg_kernels.window_attention.table import gradient

# Bytes worked on at a time: half of a core's second-level cache, or plenty for a device.
_CPU_BYTES, _DEVICE_BYTES = 1 << 20, 1 << 28


def forward(
    qkv: Tensor, table: Tensor | None, padding: Tensor | None, *, request: Request
) -> Tensor:
    """The attended tokens (b, i, j, k, c)."""
    heads, packed, channels = request.heads, qkv.detach().flatten(1, 3), qkv.shape[-1] // 3
    out, items = _buffer(packed, channels)
    size = 3 * channels * request.tokens
    for part in _parts(qkv, table, padding, request, elements=size):
        groups = part.gather(packed, padding).unflatten(-1, (3, heads, -1))
        query, key, value = groups.permute(2, 0, 3, 1, 4)
        bias = None if part.bias is None else part.bias.to(qkv.dtype)[None]
        tokens = attend(query, key, value, bias)
        items[part.item].index_copy_(0, part.write, tokens.transpose(1, 2).reshape(-1, channels))
    return out.reshape(*qkv.shape[:-1], channels)


def backward(
    grad: Tensor,
    out: Tensor,
    qkv: Tensor,
    table: Tensor | None,
    padding: Tensor | None,
    *,
    request: Request,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of qkv, table and padding; empty where there is no such tensor."""
    heads, n = request.heads, request.tokens
    packed, packed_grad, attended = (x.detach().flatten(1, 3) for x in (qkv, grad, out))
    exact = torch.promote_types(qkv.dtype, torch.float32)
    slope, items = _buffer(packed, packed.shape[-1])
    grad_bias = qkv.new_zeros((heads, n, n), dtype=exact)
    grad_padding = qkv.new_zeros(0 if padding is None else len(padding), dtype=exact)
    for part in _parts(qkv, table, padding, request, elements=heads * n * n):
        groups = part.gather(packed, padding).unflatten(-1, (3, heads, -1))
        upstream = part.gather(packed_grad, None).unflatten(-1, (heads, -1))
        dot = (upstream * part.gather(attended, None).view_as(upstream)).sum(-1, keepdim=True)
        with torch.autocast(qkv.device.type, enabled=False):
            downstream = _groups_backward(groups, upstream, dot, part.bias, grad_bias).flatten(2)
        if padding is not None and part.hollow is not None:
            grad_padding += downstream[part.hollow].sum(0, dtype=exact)
        items[part.item].index_copy_(0, part.write, downstream.flatten(0, 1).to(qkv.dtype))
    of_table = grad_bias.new_empty(0)
    if table is not None:
        of_table = gradient(grad_bias, request.extents(table), request)
    return slope.reshape(qkv.shape), of_table, grad_padding


def _groups_backward(
    groups: Tensor,  # (g, n, 3, heads, e)
    upstream: Tensor,  # (g, n, heads, e)
    dot: Tensor,  # (g, n, heads, 1), upstream times output, summed over e
    bias: Tensor | None,  # (heads, n, n)
    grad_bias: Tensor,  # (heads, n, n), added to
) -> Tensor:
    """The gradient of `groups`, a few heads at a time.

    With P = softmax(S), S = Q K^T / sqrt(e) + B, O = P V and G the gradient of O:
    dV = P^T G, dS = P (G V^T - dot), dQ = dS K / sqrt(e), dK = dS^T Q / sqrt(e), dB = dS.
    """
    g, n, _, heads, e = groups.shape
    groups, upstream, dot = (x.to(grad_bias.dtype) for x in (groups, upstream, dot))
    downstream, scale = torch.empty_like(groups), e**-0.5
    step = max(1, _budget(groups) // (g * n * n))
    for first in range(0, heads, step):
        some = slice(first, first + step)
        query, key, value = groups[:, :, :, some].permute(2, 0, 3, 1, 4).flatten(1, 2)
        slope = upstream[:, :, some].transpose(1, 2).flatten(0, 1)
        offset = dot[:, :, some].transpose(1, 2).flatten(0, 1)
        start = query.new_zeros(1) if bias is None else bias[some]
        start = start if g == 1 or bias is None else start.repeat(g, 1, 1)
        weights = torch.baddbmm(start, query, key.mT, alpha=scale).softmax(-1)
        d_scores = torch.bmm(slope, value.mT).sub_(offset).mul_(weights)
        d_query, d_key = torch.bmm(d_scores, key * scale), torch.bmm(d_scores.mT, query * scale)
        for slot, d_rows in enumerate((d_query, d_key, torch.bmm(weights.mT, slope))):
            downstream[:, :, slot, some].copy_(d_rows.unflatten(0, (g, -1)).transpose(1, 2))
        grad_bias[some].add_(d_scores if g == 1 else d_scores.unflatten(0, (g, -1)).sum(0))
    return downstream


@lru_cache(maxsize=64)
def _entries(extents: tuple[int, ...], request: Request, device: torch.device) -> Tensor:
    """The row of the flattened table that each pair of tokens reads."""
    with torch.inference_mode(mode=False), torch.no_grad():
        numbers = torch.arange(math.prod(extents), dtype=torch.float64).view(*extents, 1)
        return position_bias(numbers, request).flatten().long().to(device)


@dataclass(frozen=True, eq=False)
class _Part:
    """Some groups of one kind in one item of the batch."""

    item: int
    read: Tensor  # (g, n)
    write: Tensor  # (g n)
    hollow: Tensor | None  # (g, n)
    bias: Tensor | None  # (heads, n, n)

    def gather(self, rows: Tensor, padding: Tensor | None) -> Tensor:
        """The tokens (g, n, c) of the groups; padding's row, or zero, where there is none."""
        tokens = rows[self.item].index_select(0, self.read.flatten()).unflatten(0, self.read.shape)
        if self.hollow is not None:
            tokens[self.hollow] = 0 if padding is None else padding.to(tokens.dtype)
        return tokens


def _parts(
    qkv: Tensor, table: Tensor | None, padding: Tensor | None, request: Request, *, elements: int
) -> Iterator[_Part]:
    """All groups, item by item, so many at a time as fit when one group takes `elements`."""
    i, j, k = qkv.shape[1:4]
    found = kinds((i, j, k), request, masked=padding is None, device=qkv.device)
    base = None if table is None else _bias(table, request)
    biases = [_masked(base, kind, request, like=qkv) for kind in found]
    step = max(1, _budget(qkv) // elements)
    for item in range(len(qkv)):
        for kind, bias in zip(found, biases, strict=True):
            for first in range(0, len(kind.read), step):
                part = slice(first, first + step)
                hollow = None if kind.hollow is None else kind.hollow[part]
                yield _Part(item, kind.read[part], kind.write[part].flatten(), hollow, bias)


def _bias(table: Tensor, request: Request) -> Tensor:
    """`reference.position_bias` with its index kept, (heads, n, n)."""
    entries, n = _entries(tuple(table.shape[:3]), request, table.device), request.tokens
    columns = table.detach().flatten(0, 2).t().contiguous()
    return columns.index_select(1, entries).view(-1, n, n)


def _masked(bias: Tensor | None, kind: Kind, request: Request, *, like: Tensor) -> Tensor | None:
    """What is added to the scores of every group of this kind, (heads, n, n) or None."""
    exact = torch.promote_types(like.dtype, torch.float32)
    if kind.apart is None:
        return None if bias is None else bias.to(exact)
    if bias is None:
        bias = like.new_zeros((request.heads, *kind.apart.shape), dtype=exact)
    return bias.to(exact).masked_fill(kind.apart, -torch.inf)


def _buffer(rows: Tensor, channels: int) -> tuple[Tensor, list[Tensor]]:
    """Space for the result (b t, c), and a view (t + 1, c) for each item of the batch.

    Padding is written one past the end of an item: into the first token of the next one, which is
    written in its turn, and in the end into a row that is not part of the result.
    """
    batch, tokens, _ = rows.shape
    space = rows.new_empty((batch * tokens + 1, channels))
    return space[:-1], [space[b * tokens : (b + 1) * tokens + 1] for b in range(batch)]


def _budget(tensor: Tensor) -> int:
    """How many elements are worked on at a time."""
    size = _CPU_BYTES if tensor.device.type == "cpu" else _DEVICE_BYTES
    return size // torch.promote_types(tensor.dtype, torch.float32).itemsize
