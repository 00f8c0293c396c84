"""Groups that share a mask are attended together by `attend`.

Where it is compiled it reads and writes their tokens where they lie; elsewhere they are gathered, a
cache-full at a time. Nothing of size groups x heads x n x n is ever held: the backward computes the
weights again.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from medseg_kernels import attend
from medseg_kernels.window_attention import in_place
from medseg_kernels.window_attention.biases import biased_kinds
from medseg_kernels.window_attention.request import Request
from medseg_kernels.window_attention.table import gradient

# Bytes worked on at a time: half of a core's second-level cache, or plenty for a device.
_CPU_BYTES, _DEVICE_BYTES = 1 << 20, 1 << 28


def forward(
    qkv: Tensor, table: Tensor | None, padding: Tensor | None, *, request: Request
) -> Tensor:
    """The attended tokens (b, i, j, k, c)."""
    if attend.refuses(qkv.device, qkv.dtype) is None:
        return in_place.forward(qkv, table, padding, request=request)
    heads, packed, channels = request.heads, qkv.detach().flatten(1, 3), qkv.shape[-1] // 3
    out, items = _buffer(packed, channels)
    size = 3 * channels * request.tokens
    for part in _parts(qkv, table, padding, request, elements=size):
        groups = part.gather(packed, padding).unflatten(-1, (3, heads, -1))
        query, key, value = groups.permute(2, 0, 3, 1, 4)
        bias = None if part.bias is None else part.bias.to(qkv.dtype)[None]
        tokens = attend.forward(query, key, value, bias)
        rows = tokens.transpose(1, 2).reshape(-1, channels)
        items[part.item].index_copy_(0, part.rows.flatten(), rows)
    return out.reshape(*qkv.shape[:-1], channels)


def backward(
    grad: Tensor,
    qkv: Tensor,
    table: Tensor | None,
    padding: Tensor | None,
    *,
    request: Request,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of qkv, table and padding; empty where there is no such tensor."""
    if attend.refuses(qkv.device, qkv.dtype) is None:
        return in_place.backward(grad, qkv, table, padding, request=request)
    heads, n = request.heads, request.tokens
    packed, packed_grad = (x.detach().flatten(1, 3) for x in (qkv, grad))
    exact = torch.promote_types(qkv.dtype, torch.float32)
    slope, items = _buffer(packed, packed.shape[-1])
    grad_bias = None if table is None else qkv.new_zeros((heads, n, n), dtype=exact)
    grad_padding = qkv.new_zeros(0 if padding is None else len(padding), dtype=exact)
    for part in _parts(qkv, table, padding, request, elements=_elements(qkv, request)):
        groups = part.gather(packed, padding).unflatten(-1, (3, heads, -1)).to(exact)
        upstream = part.gather(packed_grad, None).unflatten(-1, (heads, -1)).to(exact)
        downstream = torch.empty_like(groups)
        query, key, value = groups.permute(2, 0, 3, 1, 4)
        attend.backward(
            query,
            key,
            value,
            None if part.bias is None else part.bias[None],
            upstream.transpose(1, 2),
            into=downstream.permute(2, 0, 3, 1, 4).unbind(0),
            of_bias=None if grad_bias is None else grad_bias[None],
        )
        rows = downstream.flatten(2)
        if padding is not None and part.hollow is not None:
            grad_padding += rows[part.hollow].sum(0, dtype=exact)
        items[part.item].index_copy_(0, part.rows.flatten(), rows.flatten(0, 1).to(qkv.dtype))
    if grad_bias is None:
        of_table = qkv.new_empty(0, dtype=exact)
    else:
        of_table = gradient(grad_bias, request.extents(table), request)
    return slope.reshape(qkv.shape), of_table, grad_padding


def _elements(qkv: Tensor, request: Request) -> int:
    """How many numbers of a group the backward holds at a time: its tokens, or their weights."""
    if attend.refuses(qkv.device, torch.promote_types(qkv.dtype, torch.float32)) is None:
        return 2 * qkv.shape[-1] * request.tokens
    return request.heads * request.tokens**2


@dataclass(frozen=True, eq=False)
class _Part:
    """Some groups of one kind in one item of the batch."""

    item: int
    rows: Tensor  # (g, n), all padding one past the end
    hollow: Tensor | None  # (g, n)
    bias: Tensor | None  # (heads, n, n)

    def gather(self, rows: Tensor, padding: Tensor | None) -> Tensor:
        """The tokens (g, n, c) of the groups; padding's row, or zero, where there is none."""
        read = self.rows if self.hollow is None else self.rows.masked_fill(self.hollow, 0)
        tokens = rows[self.item].index_select(0, read.flatten()).unflatten(0, read.shape)
        if self.hollow is not None:
            tokens[self.hollow] = 0 if padding is None else padding.to(tokens.dtype)
        return tokens


def _parts(
    qkv: Tensor, table: Tensor | None, padding: Tensor | None, request: Request, *, elements: int
) -> Iterator[_Part]:
    """All groups, item by item, so many at a time as fit when one group takes `elements`."""
    found, end = biased_kinds(qkv, table, request, masked=padding is None), qkv[0, ..., 0].numel()
    step = max(1, _budget(qkv) // elements)
    for item in range(len(qkv)):
        for kind, bias in found:
            for first in range(0, len(kind.rows), step):
                part = slice(first, first + step)
                hollow = None if kind.hollow is None else kind.hollow[part]
                yield _Part(item, kind.rows[part].clamp(max=end), hollow, bias)


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
