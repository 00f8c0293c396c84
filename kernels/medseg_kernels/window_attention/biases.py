"""What is added to the scores of groups: position biases, and -inf between what is kept apart."""

import math
from functools import lru_cache

import torch
from torch import Tensor

from medseg_kernels.window_attention.groups import Kind, kinds
from medseg_kernels.window_attention.reference import position_bias
from medseg_kernels.window_attention.request import Request


def biased_kinds(
    qkv: Tensor, table: Tensor | None, request: Request, *, masked: bool
) -> list[tuple[Kind, Tensor | None]]:
    """Each kind of groups of a grid, and its bias (heads, n, n), or None for none."""
    i, j, k = qkv.shape[1:4]
    base = None if table is None else _bias(table, request)
    found = kinds((i, j, k), request, masked=masked, device=qkv.device)
    return [(kind, _masked(base, kind, request, like=qkv)) for kind in found]


def _bias(table: Tensor, request: Request) -> Tensor:
    """`reference.position_bias` with its index kept, (heads, n, n)."""
    entries, n = _entries(tuple(table.shape[:3]), request, table.device), request.tokens
    columns = table.detach().flatten(0, 2).t().contiguous()
    return columns.index_select(1, entries).view(-1, n, n)


@lru_cache(maxsize=64)
def _entries(extents: tuple[int, ...], request: Request, device: torch.device) -> Tensor:
    """The row of the flattened table that each pair of tokens reads."""
    with torch.inference_mode(mode=False), torch.no_grad():
        numbers = torch.arange(math.prod(extents), dtype=torch.float64).view(*extents, 1)
        return position_bias(numbers, request).flatten().long().to(device)


def _masked(bias: Tensor | None, kind: Kind, request: Request, *, like: Tensor) -> Tensor | None:
    """What is added to the scores of every group of this kind, (heads, n, n) or None."""
    exact = torch.promote_types(like.dtype, torch.float32)
    if kind.apart is None:
        return None if bias is None else bias.to(exact)
    if bias is None:
        bias = like.new_zeros((request.heads, *kind.apart.shape), dtype=exact)
    return bias.to(exact).masked_fill(kind.apart, -torch.inf)
