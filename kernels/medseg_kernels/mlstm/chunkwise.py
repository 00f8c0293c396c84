"""The mLSTM cell a chunk of tokens at a time: quadratic inside a chunk, a state between chunks.

The state is (C, n, m): memory (b, h, d, d), normalizer (b, h, d), both divided by exp(m), and the
exponent m (b, h). Only inputs and the states at the borders are kept for the backward pass, which
computes each chunk again.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from medseg_kernels.mlstm.reference import EPSILON, MOST

State = tuple[Tensor, Tensor, Tensor]


def forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    input_gate: Tensor,
    forget_gate: Tensor,
    *,
    chunk: int,
) -> Tensor:
    """Shapes as in `reference.parallel`."""
    given = (query, key, value, input_gate, forget_gate)
    learns = torch.is_grad_enabled() and any(one.requires_grad for one in given)
    if learns and not torch.compiler.is_compiling():
        return _Chunkwise.apply(chunk, *given)
    outputs, _ = _walk(given, chunk)
    return torch.cat(outputs, dim=2)


def _walk(given: tuple[Tensor, ...], chunk: int) -> tuple[list[Tensor], list[State]]:
    """The outputs of all chunks, and the state before each of them."""
    outputs: list[Tensor] = []
    states = [_empty(given[0])]
    for part in _chunks(given, chunk):
        output, after = _one_chunk(part, states[-1])
        outputs.append(output)
        states.append(after)
    return outputs, states[:-1]


def _empty(query: Tensor) -> State:
    b, h, _, d = query.shape
    return query.new_zeros(b, h, d, d), query.new_zeros(b, h, d), query.new_full((b, h), -math.inf)


def _chunks(given: tuple[Tensor, ...], chunk: int) -> list[tuple[Tensor, ...]]:
    return list(zip(*(one.split(chunk, dim=2) for one in given), strict=True))


def _one_chunk(part: tuple[Tensor, ...], state: State) -> tuple[Tensor, State]:
    query, key, value, input_gate, forget_gate = part
    memory, normal, exponent = state
    key = key / math.sqrt(query.shape[-1])
    forgotten = functional.logsigmoid(forget_gate).cumsum(-1)
    written = input_gate - forgotten
    # log of the weight with which token t reads token s of its chunk; -inf for the later ones
    weight = forgotten[..., :, None] + written[..., None, :]
    later = torch.ones(weight.shape[-2:], dtype=torch.bool, device=weight.device).triu(1)
    weight = weight.masked_fill(later, -math.inf)
    past = forgotten + exponent[..., None]
    largest = torch.maximum(weight.amax(-1), past)
    share = (past - largest).exp()[..., None]
    mixed = (query @ key.transpose(-1, -2)) * (weight - largest[..., None]).exp()
    read = mixed @ value + share * (query @ memory)
    total = mixed.sum(-1) + (share * (query @ normal[..., None]))[..., 0]
    least = (-largest).clamp(max=MOST).exp()
    output = read / (torch.maximum(total.abs(), least) + EPSILON)[..., None]
    return output, _after(key, value, forgotten[..., -1:], written, state)


def _after(key: Tensor, value: Tensor, forgotten: Tensor, written: Tensor, state: State) -> State:
    """The state behind a chunk; `key` is scaled, `forgotten` (b, h, 1) all of its forgetting."""
    memory, normal, before = state
    weight, past = forgotten + written, forgotten[..., 0] + before
    exponent = torch.maximum(weight.amax(-1), past)
    gained = (weight - exponent[..., None]).exp()[..., None] * key
    kept = (past - exponent).exp()[..., None]
    return (
        gained.transpose(-1, -2) @ value + kept[..., None] * memory,
        gained.sum(-2) + kept * normal,
        exponent,
    )


class _Chunkwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, chunk: int, *given: Tensor) -> Tensor:
        outputs, states = _walk(given, chunk)
        ctx.chunk = chunk
        ctx.save_for_backward(*given, *(one for state in states for one in state))
        return torch.cat(outputs, dim=2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        given, flat = ctx.saved_tensors[:5], ctx.saved_tensors[5:]
        states = [(flat[n], flat[n + 1], flat[n + 2]) for n in range(0, len(flat), 3)]
        parts = _chunks(given, ctx.chunk)
        found: list[tuple[Tensor, ...]] = []
        # The last state is read by nobody.
        of_state: tuple[Tensor, ...] | None = None
        for part, state, gradient in reversed(
            list(zip(parts, states, gradients[0].split(ctx.chunk, dim=2), strict=True))
        ):
            of_part, of_state = _backward(part, state, gradient, of_state)
            found.append(of_part)
        joined = (torch.cat(one, dim=2) for one in zip(*reversed(found), strict=True))
        return None, *joined


def _backward(
    part: tuple[Tensor, ...], state: State, of_output: Tensor, of_after: tuple[Tensor, ...] | None
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The gradients of a chunk's inputs, and of the state before it."""
    leaves = [one.detach().requires_grad_() for one in (*part, *state)]
    memory, normal, exponent = leaves[5:]
    with torch.enable_grad():
        output, after = _one_chunk(tuple(leaves[:5]), (memory, normal, exponent))
        outputs, gradients = [output], [of_output]
        if of_after is not None:
            outputs += after
            gradients += of_after
        found = torch.autograd.grad(outputs, leaves, gradients)
    return found[:5], found[5:]
