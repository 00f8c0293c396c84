"""Neighborhood attention, written to be read: the truth of the other backends."""

import torch
from torch import Tensor

from medseg_kernels.neighborhood_attention.request import Request, window_start


def forward(
    qkv: Tensor,  # (b, i, j, k, 3 c), the last axis ordered (q k v, head, channel of the head)
    table: Tensor | None,  # (2 w_i - 1, 2 w_j - 1, 2 w_k - 1, heads)
    *,
    request: Request,
) -> Tensor:
    """The attended tokens (b, i, j, k, c): every query's keys are gathered, then softmax.

    The keys and values of every neighborhood lie in memory at once, and autograd keeps them.
    """
    if qkv.numel() == 0:
        return qkv[..., : qkv.shape[-1] // 3].clone()
    exact = torch.promote_types(qkv.dtype, torch.float32)
    query, key, value = qkv.unflatten(-1, (3, request.heads, -1)).unbind(-3)
    places = [
        neighbors(length, window, dilation).to(qkv.device)
        for length, window, dilation in zip(
            qkv.shape[1:4], request.window, request.dilation, strict=True
        )
    ]
    key, value = _gather(key, places), _gather(value, places)  # (b, i, j, k, n, heads, e)
    scores = torch.einsum("bijkhe,bijknhe->bijknh", query, key).to(exact) * request.scale
    if table is not None:
        scores = scores + _bias(table, places, request)
    weights = scores.softmax(-2).to(value.dtype)
    return torch.einsum("bijknh,bijknhe->bijkhe", weights, value).flatten(-2)


def neighbors(length: int, window: int, dilation: int) -> Tensor:
    """The places (length, window) along one axis that the token at each place attends to.

    Tokens that lie `dilation` apart form a row of their own, and the rule holds inside that row.
    """
    rows = []
    for place in range(length):
        rest = place % dilation
        own_row = range(rest, length, dilation)
        start = window_start(place // dilation, len(own_row), window)
        rows.append(list(own_row[start : start + window]))
    return torch.tensor(rows)


def _gather(tokens: Tensor, places: list[Tensor]) -> Tensor:
    i, j, k = places
    gathered = tokens[
        :,
        i[:, None, None, :, None, None],
        j[None, :, None, None, :, None],
        k[None, None, :, None, None, :],
    ]
    return gathered.flatten(4, 6)


def _bias(table: Tensor, places: list[Tensor], request: Request) -> Tensor:
    """The table's entry (i, j, k, n, heads) of every query and each of its keys."""
    steps = []
    for place, window, dilation in zip(places, request.window, request.dilation, strict=True):
        query = torch.arange(len(place), device=place.device)[:, None]
        steps.append((query - place) // dilation + window - 1)
    i, j, k = steps
    entries = table[
        i[:, None, None, :, None, None],
        j[None, :, None, None, :, None],
        k[None, None, :, None, None, :],
    ]
    return entries.flatten(3, 5)
