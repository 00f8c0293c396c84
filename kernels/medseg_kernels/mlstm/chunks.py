"""Some chunks of an mLSTM's tokens, the states between them, and what their tokens read.

The state is (C, n, m): memory (b, h, d, d) and normalizer (b, h, d), both divided by exp(m), and
the exponent m (b, h). Axes are g chunks, b, h, l tokens of a chunk, d.

With F_t the forgetting of a chunk up to t and u_s = i_s - F_s, token t reads token s with the
weight exp(u_s - top_t), and the state before the chunk with exp(m - top_t); top_t is the largest
of these exponents.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from medseg_kernels.mlstm.given import Given
from medseg_kernels.mlstm.reference import EPSILON, MOST


class State(NamedTuple):
    """What has been written so far."""

    memory: Tensor
    normal: Tensor
    exponent: Tensor


class Chunks(NamedTuple):
    """Some chunks, and the exponents of what is read and written."""

    query: Tensor  # (g, b, h, l, d)
    key: Tensor  # (g, b, h, l, d), divided by sqrt(d)
    value: Tensor  # (g, b, h, l, d)
    forgotten: Tensor  # (g, b, h, l): F
    written: Tensor  # (g, b, h, l): u
    total: Tensor  # (g, b, h): F behind the chunk
    before: Tensor  # (g, b, h): m before the chunk
    after: Tensor  # (g, b, h): m behind it
    backward: bool  # whether the tokens are read from the last to the first

    def gain(self) -> Tensor:
        """The weight of a token in the state behind its chunk, (g, b, h, l)."""
        return (self.total[..., None] + self.written - self.after[..., None]).exp()

    def kept(self) -> Tensor:
        """The weight of the state before a chunk in that behind it, (g, b, h)."""
        return (self.total + self.before - self.after).exp()

    def order(self) -> range:
        """The chunks as they are read."""
        return _order(self.total, backward=self.backward)

    def bordering(self, as_read: list[Tensor]) -> Tensor:
        """Something at all borders, listed as they are read, as (g + 1, ...)."""
        return torch.stack(as_read[:: -1 if self.backward else 1])

    def sides(self, borders: Tensor) -> tuple[Tensor, Tensor]:
        """Of something at all borders that before the chunks, and that behind them."""
        return (borders[1:], borders[:-1]) if self.backward else (borders[:-1], borders[1:])


class Read(NamedTuple):
    """What the tokens of some chunks read."""

    pair: Tensor  # (g, b, h, l, l): the weight of a token for one that reads it
    past: Tensor  # (g, b, h, l): the weight of the state before
    mixed: Tensor  # (g, b, h, l, l): weight times similarity
    whole: Tensor  # (g, b, h, l): the sum of mixed, and of what is read of the state
    least: Tensor  # (g, b, h, l): the least that the result is divided by

    def divisor(self) -> Tensor:
        """What the result is divided by, (g, b, h, l)."""
        return torch.maximum(self.whole.abs(), self.least) + EPSILON


def empty(query: Tensor) -> State:
    """The state before the first token."""
    b, h, _, d = query.shape
    exact = torch.promote_types(query.dtype, torch.float32)
    memory = query.new_zeros((b, h, d, d), dtype=exact)
    return State(memory, memory[..., 0], query.new_full((b, h), -math.inf, dtype=exact))


def parts(count: int, chunk: int, together: int, *, backward: bool) -> list[slice]:
    """`count` tokens in parts of some chunks, or of one shorter chunk, as they are read."""
    whole = count - count % chunk
    borders = [*range(0, whole, together * chunk), whole]
    found = [slice(a, b) for a, b in zip(borders, [*borders[1:], count], strict=True) if a < b]
    return found[::-1] if backward else found


def cut(tensor: Tensor, tokens: slice, chunk: int, dtype: torch.dtype) -> Tensor:
    """Tokens of (b, h, n, ...) as chunks (g, b, h, l, ...)."""
    length = min(chunk, tokens.stop - tokens.start)
    part = tensor[:, :, tokens].to(dtype)
    return part.unflatten(2, (-1, length)).movedim(2, 0).contiguous()


def joined(chunks: Tensor) -> Tensor:
    """Chunks (g, b, h, l, ...) as tokens (b, h, n, ...)."""
    return chunks.movedim(0, 2).flatten(2, 3)


def chunks_of(
    given: Given, tokens: slice, chunk: int, exponent: Tensor, *, backward: bool
) -> Chunks:
    """The chunks of some tokens, whose first one read finds a state with this exponent."""
    query, key, value, input_gate, forget_gate = (
        cut(one, tokens, chunk, exponent.dtype) for one in given
    )
    forgotten = summed(functional.logsigmoid(forget_gate), backward=backward)
    written, total = input_gate - forgotten, forgotten[..., 0 if backward else -1]
    peak, exponents = written.amax(-1), [exponent]
    for c in _order(total, backward=backward):
        exponents.append(total[c] + torch.maximum(exponents[-1], peak[c]))
    turn = -1 if backward else 1
    before, after = torch.stack(exponents[:-1][::turn]), torch.stack(exponents[1:][::turn])
    key = key / math.sqrt(query.shape[-1])
    return Chunks(query, key, value, forgotten, written, total, before, after, backward)


def borders(chunks: Chunks, state: State) -> tuple[Tensor, Tensor]:
    """Memory and normalizer at all borders of chunks, (g + 1, b, h, d, d) and (g + 1, b, h, d)."""
    gained, kept = chunks.gain()[..., None] * chunks.key, chunks.kept()[..., None]
    memory, normal = gained.mT @ chunks.value, gained.sum(-2)
    memories, normals = [state.memory], [state.normal]
    for c in chunks.order():
        memories.append(torch.addcmul(memory[c], kept[c][..., None], memories[-1]))
        normals.append(torch.addcmul(normal[c], kept[c], normals[-1]))
    return chunks.bordering(memories), chunks.bordering(normals)


def last(chunks: Chunks, memory: Tensor, normal: Tensor) -> State:
    """Of the states at all borders that behind the chunk that is read last."""
    at = 0 if chunks.backward else -1
    return State(memory[at], normal[at], chunks.after[at])


def read(chunks: Chunks, normal: Tensor) -> Read:
    """What the tokens read; `normal` (g, b, h, d) is that before each chunk."""
    length = chunks.written.shape[-1]
    later = torch.ones(length, length, dtype=torch.bool, device=normal.device)
    later = later.tril(-1) if chunks.backward else later.triu(1)
    written = chunks.written[..., None, :].masked_fill(later, -math.inf)
    top = torch.maximum(written.amax(-1), chunks.before[..., None])
    pair, past = (written - top[..., None]).exp(), (chunks.before[..., None] - top).exp()
    mixed = chunks.query @ chunks.key.mT * pair
    whole = mixed.sum(-1) + past * (chunks.query @ normal[..., None])[..., 0]
    least = (-(chunks.forgotten + top)).clamp(max=MOST).exp()
    return Read(pair, past, mixed, whole, least)


def summed(steps: Tensor, *, backward: bool) -> Tensor:
    """Sums up to each token, itself included, in the order of reading."""
    return steps.flip(-1).cumsum(-1).flip(-1) if backward else steps.cumsum(-1)


def _order(chunks: Tensor, *, backward: bool) -> range:
    return range(len(chunks))[:: -1 if backward else 1]
