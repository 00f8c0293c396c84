"""A tile of queries attends to the union of its neighborhoods at once, by `attend`.

Pairs that are no neighbors are masked; tiles with the same mask go together, a cache-full at a
time. The backward computes the weights again, so nothing of size tokens x window is ever held.
"""

import torch
from torch import Tensor

from medseg_kernels import attend
from medseg_kernels.neighborhood_attention.request import Request
from medseg_kernels.neighborhood_attention.tiles import Kind, kinds

TILE = (4, 4, 4)
# Bytes worked on at a time: about a core's second-level cache, or plenty for a device.
_CPU_BYTES, _DEVICE_BYTES = 1 << 21, 1 << 28


def forward(qkv: Tensor, table: Tensor | None, *, request: Request) -> Tensor:
    """The attended tokens (b, i, j, k, c)."""
    rows, channels = qkv.flatten(0, 3), qkv.shape[-1] // 3
    out = rows.new_empty((len(rows), channels))
    for kind in _kinds(qkv, request):
        bias = _bias(kind, table, like=qkv).to(qkv.dtype)[None]
        step = max(1, _budget(qkv) // (2 * channels * kind.shape[1]))
        for queries, keys in kind.parts(len(qkv), step):
            query = _gather(rows[:, :channels], queries, (request.heads, -1)).transpose(1, 2)
            packed = _gather(rows[:, channels:], keys, (2, request.heads, -1))
            key, value = packed.permute(2, 0, 3, 1, 4)
            tokens = attend.forward(query, key, value, bias, request.scale)
            out.index_copy_(0, queries.flatten(), tokens.transpose(1, 2).reshape(-1, channels))
    return out.view(*qkv.shape[:-1], channels)


def backward(
    grad: Tensor, qkv: Tensor, table: Tensor | None, *, request: Request
) -> tuple[Tensor, Tensor]:
    """The gradients of qkv and of the table, the latter empty where there is no table."""
    rows, slopes = qkv.flatten(0, 3), grad.flatten(0, 3)
    channels, heads = qkv.shape[-1] // 3, request.heads
    exact = torch.promote_types(qkv.dtype, torch.float32)
    down_query = rows.new_empty((len(rows), channels))
    down_key = rows.new_zeros((len(rows), 2 * channels), dtype=exact)
    down_table = rows.new_zeros((0 if table is None else table[..., 0].numel(), heads), dtype=exact)
    for kind in _kinds(qkv, request):
        n, m = kind.shape
        bias = _bias(kind, table, like=qkv)
        down_bias = None if table is None else bias.new_zeros((heads, n, m))
        # Its tokens are held at a time, or where torch does it their weights.
        compiled = attend.refuses(qkv.device, exact) is None
        step = max(1, _budget(qkv) // (3 * channels * m if compiled else heads * n * m))
        for queries, keys in kind.parts(len(qkv), step):
            query = _gather(rows[:, :channels], queries, (heads, -1)).to(exact)
            packed = _gather(rows[:, channels:], keys, (2, heads, -1)).to(exact)
            slope = _gather(slopes, queries, (heads, -1)).to(exact)
            d_query, d_packed = torch.empty_like(query), torch.empty_like(packed)
            key, value = packed.permute(2, 0, 3, 1, 4)
            attend.backward(
                query.transpose(1, 2),
                key,
                value,
                bias[None],
                slope.transpose(1, 2),
                into=(d_query.transpose(1, 2), *d_packed.permute(2, 0, 3, 1, 4)),
                of_bias=None if down_bias is None else down_bias[None],
                scale=request.scale,
            )
            d_rows = d_query.flatten(2).flatten(0, 1).to(qkv.dtype)
            down_query.index_copy_(0, queries.flatten(), d_rows)
            _add_rows(down_key, keys.flatten(), d_packed.flatten(2).flatten(0, 1))
        if down_bias is not None:
            _add_rows(down_table, kind.entries().flatten(), down_bias.flatten(1).t())
    down = torch.cat((down_query, down_key.to(qkv.dtype)), 1).view(qkv.shape)
    return down, down_table.flatten() if table is None else down_table.view(table.shape)


def _kinds(qkv: Tensor, request: Request) -> tuple[Kind, ...]:
    i, j, k = qkv.shape[1:4]
    return kinds((i, j, k), request, tile=TILE, device=qkv.device)


def _gather(rows: Tensor, places: Tensor, split: tuple[int, ...]) -> Tensor:
    """The rows at `places` (g, n), their channels split."""
    return rows.index_select(0, places.flatten()).view(*places.shape, *split)


def _bias(kind: Kind, table: Tensor | None, *, like: Tensor) -> Tensor:
    """What is added to the scores of every tile of this kind, (heads or 1, n, m)."""
    exact = torch.promote_types(like.dtype, torch.float32)
    apart = kind.apart()
    if table is None:
        return like.new_zeros((1, *apart.shape), dtype=exact).masked_fill_(apart, -torch.inf)
    columns = table.flatten(0, 2).t().to(exact).contiguous()
    bias = columns.index_select(1, kind.entries().flatten()).view(-1, *apart.shape)
    return bias.masked_fill_(apart, -torch.inf)


def _add_rows(target: Tensor, places: Tensor, rows: Tensor) -> None:
    """Adds rows at places that may repeat, always in the same order."""
    if target.device.type == "cpu":
        target.index_add_(0, places, rows)
    else:
        target.index_put_((places,), rows, accumulate=True)


def _budget(tensor: Tensor) -> int:
    """How many elements are worked on at a time."""
    size = _CPU_BYTES if tensor.device.type == "cpu" else _DEVICE_BYTES
    return size // torch.promote_types(tensor.dtype, torch.float32).itemsize
