"""The selective scan in plain torch, a block of tokens at a time.

A block is cut into rows of equal length. All rows are scanned at once from an empty state, token
by token; then the states between rows are joined, and what each row inherits is added. So a block
of n tokens takes about 2 sqrt(n) steps instead of n. The states before the blocks are kept for the
backward pass, which computes each block again and scans its gradients from the last token on.
"""

from math import isqrt
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

# On a CPU, what a block works on stays in a core's second-level cache (measured: blocks of 2^18
# states and rows of 8 are two to five times as fast as whole sequences in rows of 64).
_CPU_STATES, _CPU_ROW = 1 << 18, 8
_DEVICE_STATES, _DEVICE_ROW = 1 << 25, 32


class Given(NamedTuple):
    """What `selective_scan` is given, as it calls it."""

    x: Tensor  # (b, d, n)
    step: Tensor  # (b, d, n)
    decay: Tensor  # (d, s)
    write: Tensor  # (b, s, n)
    read: Tensor  # (b, s, n)
    skip: Tensor  # (d,)


class _Rows(NamedTuple):
    """A block cut into rows: (b, c, r, length) each."""

    x: Tensor
    step: Tensor
    write: Tensor
    read: Tensor


def block_of(x: Tensor, states: int) -> int:
    """How many tokens the device's caches like at a time."""
    most = _CPU_STATES if x.device.type == "cpu" else _DEVICE_STATES
    return max(_CPU_ROW, most // max(1, len(x) * x.shape[1] * states) // _CPU_ROW * _CPU_ROW)


def forward(given: Given, *, block: int) -> tuple[Tensor, Tensor]:
    """The result (b, d, n), and the state (b, blocks, d, s) before each block."""
    decay, skip = _exact(given)
    result = torch.empty_like(given.x)
    state = decay.new_zeros(*given.x.shape[:2], decay.shape[1])
    states = []
    for begin in range(0, given.x.shape[2], block):
        states.append(state)
        tokens = slice(begin, begin + block)
        rows = _rows(given, tokens, decay.dtype, _row(given.x))
        within, state = _scan(rows.step, decay, _written(rows), state)
        out = torch.einsum("bdrls,bsrl->bdrl", within, rows.read)
        _put(out.addcmul_(rows.x, skip[:, None, None]), result[:, :, tokens])
    return result, torch.stack(states, dim=1)


def traced(given: Given) -> Tensor:
    """The result, in as few operations as can be, for autograd and for other formats."""
    decay, skip = _exact(given)
    count = given.x.shape[2]
    rows = _rows(given, slice(None), decay.dtype, isqrt(count) + 1)
    state = decay.new_zeros(*given.x.shape[:2], decay.shape[1])
    within, _ = _scan(rows.step, decay, _written(rows), state)
    out = torch.einsum("bdrls,bsrl->bdrl", within, rows.read) + rows.x * skip[:, None, None]
    return out.flatten(2)[:, :, :count].to(given.x.dtype)


def backward(grad: Tensor, states: Tensor, given: Given, *, block: int) -> tuple[Tensor, ...]:
    """The gradients of all that is given."""
    decay, skip = _exact(given)
    found = Given(*(torch.empty_like(one) for one in given))
    of_decay, of_skip = torch.zeros_like(decay), torch.zeros_like(skip)
    # The last state is read by nobody.
    of_state = torch.zeros_like(states[:, 0])
    for number in reversed(range(states.shape[1])):
        tokens = slice(number * block, (number + 1) * block)
        rows = _rows(given, tokens, decay.dtype, _row(given.x))
        slope = _cut(grad[:, :, tokens].to(decay.dtype), rows.x.shape[3])
        of_rows, decayed, of_state = _block_backward(
            rows, decay, states[:, number], slope, of_state
        )
        of_decay += decayed
        of_skip += torch.einsum("bdrl,bdrl->d", slope, rows.x)
        of_rows.x.addcmul_(slope, skip[:, None, None])
        for name, one in of_rows._asdict().items():
            _put(one, getattr(found, name)[:, :, tokens])
    found.decay.copy_(of_decay)
    found.skip.copy_(of_skip)
    return tuple(found)


def _block_backward(
    rows: _Rows, decay: Tensor, state: Tensor, slope: Tensor, of_state: Tensor
) -> tuple[_Rows, Tensor, Tensor]:
    """The gradients of rows without what skips the scan, of the decay, and of the state before."""
    within, _ = _scan(rows.step, decay, _written(rows), state)
    of_read = torch.einsum("bdrl,bdrls->bsrl", slope, within)
    # A gradient flows to the token before it through what that token's state is multiplied by.
    next_step = functional.pad(rows.step.flatten(2)[:, :, 1:], (0, 1)).view_as(rows.step)
    reached = slope[..., None] * rows.read.movedim(1, -1)[:, None]
    turned, _ = _scan(next_step.flip(2, 3), decay, reached.flip(2, 3), of_state)
    of_within = turned.flip(2, 3)
    of_gain = torch.einsum("bdrls,bsrl->bdrl", of_within, rows.write)
    of_write = torch.einsum("bdrls,bdrl->bsrl", of_within, rows.step * rows.x)
    passed = of_within.mul_(_kept(rows.step, decay))
    before = torch.cat([state[:, :, None], within.flatten(2, 3)[:, :, :-1]], dim=2)
    of_exponent = passed * before.view_as(within)
    of_step = torch.einsum("bdrls,ds->bdrl", of_exponent, decay).addcmul_(of_gain, rows.x)
    of_decay = torch.einsum("bdrls,bdrl->ds", of_exponent, rows.step)
    return _Rows(of_gain * rows.step, of_step, of_write, of_read), of_decay, passed[:, :, 0, 0]


def _exact(given: Given) -> tuple[Tensor, Tensor]:
    """Decay and skip as sums are made, in float32 at least."""
    dtype = torch.promote_types(given.x.dtype, torch.float32)
    return given.decay.to(dtype), given.skip.to(dtype)


def _row(x: Tensor) -> int:
    return _CPU_ROW if x.device.type == "cpu" else _DEVICE_ROW


def _rows(given: Given, tokens: slice, dtype: torch.dtype, row: int) -> _Rows:
    """A block cut into rows; padding has a step of 0: it keeps the state and writes nothing."""
    parts = [one[:, :, tokens].to(dtype) for one in (given.x, given.step, given.write, given.read)]
    return _Rows(*(_cut(part, min(row, part.shape[2])) for part in parts))


def _cut(tensor: Tensor, length: int) -> Tensor:
    """(b, c, n) as rows (b, c, r, length), padded by zeros at the end."""
    padded = functional.pad(tensor, (0, -tensor.shape[2] % length))
    return padded.unflatten(2, (-1, length))


def _put(rows: Tensor, into: Tensor) -> None:
    """Rows without their padding, into the tokens (b, c, n) that they are of."""
    into.copy_(rows.flatten(2)[:, :, : into.shape[2]])


def _written(rows: _Rows) -> Tensor:
    return (rows.step * rows.x)[..., None] * rows.write.movedim(1, -1)[:, None]


def _kept(step: Tensor, decay: Tensor) -> Tensor:
    return (step[..., None] * decay[:, None, None]).exp_()


def _scan(step: Tensor, decay: Tensor, written: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """The states (b, d, r, length, s) of all tokens, and the last of them."""
    within = _scan_rows(_kept(step, decay), written)
    passed = _kept(step.cumsum(-1), decay)
    starts, after = _join(passed[:, :, :, -1], within[:, :, :, -1], state)
    return within.addcmul_(passed, starts[:, :, :, None]), after


def _scan_rows(kept: Tensor, written: Tensor) -> Tensor:
    """The states of rows that each begin empty."""
    state = written[:, :, :, 0]
    states = [state]
    for n in range(1, kept.shape[3]):
        state = torch.addcmul(written[:, :, :, n], kept[:, :, :, n], state)
        states.append(state)
    return torch.stack(states, dim=3)


def _join(passed: Tensor, ends: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """The state before each row (b, d, r, s), and that behind the last."""
    starts = []
    for n in range(ends.shape[2]):
        starts.append(state)
        state = torch.addcmul(ends[:, :, n], passed[:, :, n], state)
    return torch.stack(starts, dim=2), state
