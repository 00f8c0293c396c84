"""The mLSTM cell in plain torch, a chunk of tokens at a time, with its gradients.

For the backward pass inputs, results and sums of weights are kept; states and chunks are computed
again.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from medseg_kernels.mlstm.chunks import (
    Chunks,
    Read,
    State,
    borders,
    chunks_of,
    cut,
    empty,
    joined,
    last,
    parts,
    read,
    summed,
)
from medseg_kernels.mlstm.given import Given, Lanes
from medseg_kernels.mlstm.reference import EPSILON

# Numbers of a query that go together: what is made of them stays in a core's second-level cache.
_CPU_NUMBERS, _DEVICE_NUMBERS = 1 << 16, 1 << 24


class _Slopes(NamedTuple):
    """The gradients of what is made of `Read`."""

    quotient: Tensor  # (g, b, h, l, d): of the result before its division
    whole: Tensor  # (g, b, h, l)
    top: Tensor  # (g, b, h, l): of the exponent that all weights are divided by


def forward(given: Given, lanes: Lanes, *, chunk: int) -> tuple[Tensor, Tensor]:
    """What the lanes read (b, lane, n, d), and each token's sum of weights (b, lane, n)."""
    found, whole = _forward(given, lanes, chunk, _together(given.query, chunk))
    b, lane, n, d = found.shape
    result = given.query.new_empty((b, n, lane, d)).transpose(1, 2)
    return result.copy_(found), whole


def traced(given: Given, lanes: Lanes, *, chunk: int) -> Tensor:
    """What the lanes read, in few operations that autograd and other formats can take."""
    return _forward(given, lanes, chunk, given.query.shape[2])[0].to(given.query.dtype)


def backward(
    grad: Tensor, result: Tensor, whole: Tensor, given: Given, lanes: Lanes, *, chunk: int
) -> tuple[Tensor, ...]:
    """The gradients of all that is given, from `forward`'s results and that of the first."""
    together, found = _together(given.query, chunk), []
    of_lanes = zip(*(one.split(tuple(lanes), dim=1) for one in (grad, result, whole)), strict=True)
    for is_back, (slope, out, _) in enumerate(of_lanes):
        if lanes[is_back]:
            heads = given.heads(lanes, backward=bool(is_back))
            found.append(_walk_back(slope, out, heads, chunk, together, backward=bool(is_back)))
    both = sum(lanes) > given.query.shape[1]
    return tuple(
        torch.empty_like(one).copy_(of[0] + of[1] if both else torch.cat(of, dim=1))
        for one, of in zip(given, zip(*found, strict=True), strict=True)
    )


def _forward(given: Given, lanes: Lanes, chunk: int, together: int) -> tuple[Tensor, Tensor]:
    found = [
        _walk(given.heads(lanes, backward=bool(is_back)), chunk, together, backward=bool(is_back))
        for is_back in (0, 1)
        if lanes[is_back]
    ]
    result, whole = (torch.cat(one, dim=1) for one in zip(*found, strict=True))
    return result, whole


def _walk(given: Given, chunk: int, together: int, *, backward: bool) -> tuple[Tensor, Tensor]:
    state, results, wholes = empty(given.query), [], []
    for tokens in parts(given.query.shape[2], chunk, together, backward=backward):
        chunks = chunks_of(given, tokens, chunk, state.exponent, backward=backward)
        memory, normal = borders(chunks, state)
        seen = read(chunks, chunks.sides(normal)[0])
        past = seen.past[..., None] * (chunks.query @ chunks.sides(memory)[0])
        results.append(joined((seen.mixed @ chunks.value + past) / seen.divisor()[..., None]))
        wholes.append(joined(seen.whole))
        state = last(chunks, memory, normal)
    turn = -1 if backward else 1
    return torch.cat(results[::turn], dim=2), torch.cat(wholes[::turn], dim=2)


def _together(query: Tensor, chunk: int) -> int:
    """How many chunks go together."""
    most = _CPU_NUMBERS if query.device.type == "cpu" else _DEVICE_NUMBERS
    return max(1, most // (len(query) * query.shape[1] * chunk * query.shape[3]))


def _walk_back(
    grad: Tensor, result: Tensor, given: Given, chunk: int, together: int, *, backward: bool
) -> tuple[Tensor, ...]:
    """The gradients of all that is given, for lanes of one direction."""
    as_read = parts(given.query.shape[2], chunk, together, backward=backward)
    states = [empty(given.query)]
    for tokens in as_read[:-1]:
        chunks = chunks_of(given, tokens, chunk, states[-1].exponent, backward=backward)
        states.append(last(chunks, *borders(chunks, states[-1])))
    # The last state is read by nobody.
    of_state, found = State(*map(torch.zeros_like, states[0])), []
    for tokens, state in reversed(list(zip(as_read, states, strict=True))):
        chunks = chunks_of(given, tokens, chunk, state.exponent, backward=backward)
        slope, out, forget_gate = (
            cut(one, tokens, chunk, state.exponent.dtype)
            for one in (grad, result, given.forget_gate)
        )
        *of_part, of_forgotten, of_state = _part_backward(chunks, state, slope, out, of_state)
        of_part.append(of_forgotten * torch.sigmoid(-forget_gate))
        found.append(map(joined, of_part))
    turn = 1 if backward else -1
    return tuple(torch.cat(one[::turn], dim=2) for one in zip(*found, strict=True))


def _part_backward(
    chunks: Chunks, state: State, grad: Tensor, result: Tensor, of_state: State
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, State]:
    """The gradients of query, key, value, input gate, log sigmoid, and of the state before.

    The forgetting at t is part of every exponent whose column lies before t and whose row does not.
    So its gradient is what crosses the border behind the chunk, and rows less columns back to t.
    """
    memory, normal = borders(chunks, state)
    seen = read(chunks, chunks.sides(normal)[0])
    slopes = _slopes(seen, grad, result)
    of_memory, of_normal = _borders_backward(chunks, seen, slopes, of_state)
    (before, after), (normal_before, normal_after) = map(chunks.sides, (memory, normal))
    of_after, of_normal_after = chunks.sides(of_memory)[1], chunks.sides(of_normal)[1]
    of_query = _query_backward(chunks, seen, slopes, before, normal_before)
    of_key, of_value = _written_backward(chunks, seen, slopes, of_after, of_normal_after)
    columns, crossing, of_exponent = _tops_backward(chunks, seen, slopes.top, of_state.exponent)
    rows = (chunks.query * of_query).sum(-1) + slopes.top
    columns = (chunks.key * of_key).sum(-1) + columns
    crossing = (
        (of_after * after).sum((-1, -2)) + (of_normal_after * normal_after).sum(-1) + crossing
    )
    of_forgotten = summed(rows - columns, backward=not chunks.backward) + crossing[..., None]
    of_key = of_key / math.sqrt(of_key.shape[-1])
    of_before = last(chunks, of_memory.flip(0), of_normal.flip(0))._replace(exponent=of_exponent)
    return of_query, of_key, of_value, columns, of_forgotten, of_before


def _slopes(seen: Read, grad: Tensor, result: Tensor) -> _Slopes:
    """A result is invariant to its top but for the 1e-6 beside the divisor."""
    divisor = seen.divisor()
    dot = (grad * result).sum(-1) / divisor
    of_whole = torch.where(seen.whole.abs() >= seen.least, -seen.whole.sign() * dot, 0)
    return _Slopes(grad / divisor[..., None], of_whole, -EPSILON * dot)


def _borders_backward(
    chunks: Chunks, seen: Read, slopes: _Slopes, of_state: State
) -> tuple[Tensor, Tensor]:
    """The gradients of memory and normalizer at all borders."""
    shared, kept = seen.past[..., None] * chunks.query, chunks.kept()[..., None]
    memory, normal = shared.mT @ slopes.quotient, (shared * slopes.whole[..., None]).sum(-2)
    memories, normals = [of_state.memory], [of_state.normal]
    for c in reversed(chunks.order()):
        memories.append(torch.addcmul(memory[c], kept[c][..., None], memories[-1]))
        normals.append(torch.addcmul(normal[c], kept[c], normals[-1]))
    return chunks.bordering(memories[::-1]), chunks.bordering(normals[::-1])


def _query_backward(
    chunks: Chunks, seen: Read, slopes: _Slopes, memory: Tensor, normal: Tensor
) -> Tensor:
    of_past = slopes.quotient @ memory.mT + slopes.whole[..., None] * normal[..., None, :]
    return _of_pair(chunks, seen, slopes) @ chunks.key + seen.past[..., None] * of_past


def _written_backward(
    chunks: Chunks, seen: Read, slopes: _Slopes, of_memory: Tensor, of_normal: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients of key and value; those of the state are those behind each chunk."""
    gain = chunks.gain()[..., None]
    of_gained = chunks.value @ of_memory.mT + of_normal[..., None, :]
    of_key = _of_pair(chunks, seen, slopes).mT @ chunks.query + gain * of_gained
    return of_key, seen.mixed.mT @ slopes.quotient + gain * (chunks.key @ of_memory)


def _of_pair(chunks: Chunks, seen: Read, slopes: _Slopes) -> Tensor:
    """The gradient of the similarities."""
    return (slopes.quotient @ chunks.value.mT + slopes.whole[..., None]) * seen.pair


def _tops_backward(
    chunks: Chunks, seen: Read, of_top: Tensor, of_exponent: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """What reaches a token's exponent, what crosses a chunk's border, the state's exponent before.

    A largest exponent hands its gradient to the exponents equal to it, whose weights are 1.
    """
    tops, gained, kept = seen.pair == 1, chunks.gain() == 1, chunks.kept() == 1
    past = seen.past == 1
    share = of_top / (tops.sum(-1) + past)
    columns = (share[..., None, :] @ tops.to(share.dtype))[..., 0, :]
    to_state, count = (share * past).sum(-1), gained.sum(-1) + kept
    crossing = []
    for c in reversed(chunks.order()):
        crossing.append(of_exponent)
        of_exponent = kept[c] * of_exponent / count[c] + to_state[c]
    behind = torch.stack(crossing[:: 1 if chunks.backward else -1])
    return columns + gained * (behind / count)[..., None], behind, of_exponent
