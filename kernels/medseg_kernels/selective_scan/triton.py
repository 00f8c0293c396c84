"""The selective scan as Triton kernels: a program holds some channels of a block of tokens.

All blocks are worked on at once. What a block adds to the state is found first; one kernel then
goes from block to block and leaves the state before each; from it each block makes its tokens'
states, one state of all its channels after the other, and forgets them again. Backward it is the
same from the last token on. Where channels, items or blocks share a gradient, each program writes
its own share, and the shares are added, always in the same order.
"""

# Capitals mark what a kernel is compiled for; Triton gives its arguments their types.
# ruff: noqa: ANN001, ANN201, ANN202, N803

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from medseg_kernels.selective_scan.chunked import Given

# How many numbers of each kind a program holds.
_NUMBERS = 2048
_JOINED = 128
_LOG2_E = tl.constexpr(1.4426950408889634)


def forward(given: Given, *, block: int) -> tuple[Tensor, Tensor]:
    """The result (b, d, n), and the state (b, blocks, d, s) before each block."""
    x, step, decay, write, read, skip = given
    result, states = torch.empty_like(x), _borders(given, block)
    grid, cut = _grid(given, block), _cut(given, block)
    with torch.cuda.device_of(x):
        _walk(given, x, write, states, block, backward=False)
        scan[grid](
            x, step, decay, write, read, skip, states, result,
            *_strides(x, step, write, read, result), *_sizes(given, block), **cut,
        )  # fmt: skip
    return result, states


def backward(grad: Tensor, states: Tensor, given: Given, *, block: int) -> tuple[Tensor, ...]:
    """The gradients of all that is given."""
    x, step, decay, write, read, skip = given
    of_x, of_step = torch.empty_like(x), torch.empty_like(step)
    later, of_decay = _borders(given, block), torch.empty_like(states)
    grid, cut = _grid(given, block), _cut(given, block)
    b, blocks, d, size = states.shape
    of_skip = states.new_empty((b, blocks, d))
    of_write, of_read = (states.new_empty((b, grid[1], size, x.shape[2])) for _ in range(2))
    with torch.cuda.device_of(x):
        _walk(given, grad, read, later, block, backward=True)
        down[grid](
            x, step, decay, write, read, skip, states, grad, later,
            of_x, of_step, of_decay, of_write, of_read, of_skip,
            *_strides(x, step, write, read, grad, of_x, of_step), *_sizes(given, block), **cut,
        )  # fmt: skip
    shares = (of_decay.sum((0, 1)), of_write.sum(1), of_read.sum(1), of_skip.sum((0, 1)))
    rest = (torch.empty_like(one).copy_(of) for one, of in zip(given[2:], shares, strict=True))
    return of_x, of_step, *rest


def _walk(
    given: Given, value: Tensor, rows: Tensor, states: Tensor, block: int, *, backward: bool
) -> None:
    """Fill `states` with the state before each block, or backward the gradient behind each."""
    b, blocks, d, size = states.shape
    totals = states.new_empty((b, blocks, d))
    which = {"BACKWARD": backward}
    gather[_grid(given, block)](
        value, given.step, given.decay, rows, states, totals,
        *_strides(value, given.step, rows), *_sizes(given, block), **_cut(given, block), **which,
    )  # fmt: skip
    sizes: list[Any] = [*_strides(given.decay), d * size, blocks]
    join[(triton.cdiv(d * size, _JOINED), b)](
        given.decay, states, totals, *sizes, **join_shape(size), **which
    )


def _borders(given: Given, block: int) -> Tensor:
    b, d, n = given.x.shape
    size = (b, triton.cdiv(n, block), d, given.decay.shape[1])
    return given.x.new_empty(size, dtype=torch.float32)


def _cut(given: Given, block: int) -> dict[str, Any]:
    return shape(*given.decay.shape, block=block)


def _grid(given: Given, block: int) -> tuple[int, int, int]:
    b, d, n = given.x.shape
    return triton.cdiv(n, block), triton.cdiv(d, _cut(given, block)["CHANNELS"]), b


def _strides(*tensors: Tensor) -> list[Any]:
    return [stride for tensor in tensors for stride in tensor.stride()]


def _sizes(given: Given, block: int) -> tuple[Any, ...]:
    """The strides of the decay, and how many channels, tokens and blocks there are."""
    _, d, n = given.x.shape
    return *_strides(given.decay), d, n, triton.cdiv(n, block)


def shape(channels: int, states: int, *, block: int) -> dict[str, Any]:
    """How the kernels of blocks are cut."""
    most = min(_NUMBERS // block, triton.next_power_of_2(channels))
    return {"S": states, "TOKENS": block, "CHANNELS": most, "num_warps": 4}


def join_shape(states: int) -> dict[str, Any]:
    """How the kernel that goes from block to block is cut."""
    return {"S": states, "JOINED": _JOINED, "num_warps": 4}


@triton.jit
def gather(
    value,  # (b, d, n): x, or the gradient of the result
    step,  # (b, d, n)
    decay,  # (d, S)
    rows,  # (b, S, n): what writes, or what reads
    states,  # (b, blocks, d, S), written
    totals,  # (b, blocks, d), written: all steps of a block
    value_b,
    value_d,
    value_n,
    step_b,
    step_d,
    step_n,
    rows_b,
    rows_s,
    rows_n,
    decay_d,
    decay_s,
    d,
    n,
    blocks,
    S: tl.constexpr,
    TOKENS: tl.constexpr,
    CHANNELS: tl.constexpr,
    BACKWARD: tl.constexpr,
):
    """The state that a block leaves behind if it finds none, or the gradient before it."""
    block, item, channel, token = _place(TOKENS, CHANNELS)
    there = (channel < d)[:, None] & (token < n)[None, :]
    steps = _load(step + item * step_b, channel, step_d, token, step_n, there)
    values = _load(value + item * value_b, channel, value_d, token, value_n, there)
    total = tl.sum(steps, 1)
    if BACKWARD:
        span = tl.cumsum(steps, 1)
    else:
        values *= steps
        later = there & (token + 1 < n)[None, :] & (tl.arange(0, TOKENS) + 1 < TOKENS)[None, :]
        after = _load(step + item * step_b, channel, step_d, token + 1, step_n, later)
        span = tl.cumsum(after, 1, reverse=True)
    border = (item * blocks + block) * d
    tl.store(totals + border + channel, total, channel < d)
    for s in range(S):
        rate = _rate(decay + s * decay_s, channel, decay_d, d)
        row = tl.load(rows + item * rows_b + s * rows_s + token * rows_n, token < n, other=0.0)
        shares = tl.exp2(span * (rate * _LOG2_E)) * values * row.to(tl.float32)[None, :]
        tl.store(states + (border + channel) * S + s, tl.sum(shares, 1), channel < d)


@triton.jit
def join(
    decay,  # (d, S)
    states,  # (b, blocks, d, S): what each block adds; written: what was there before it
    totals,  # (b, blocks, d)
    decay_d,
    decay_s,
    size,  # d S
    blocks,
    S: tl.constexpr,
    JOINED: tl.constexpr,
    BACKWARD: tl.constexpr,
):
    """From block to block; backward from the last, where what was there before comes after it."""
    item = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0) * JOINED + tl.arange(0, JOINED)
    channel, there = place // S, place < size
    rate = tl.load(decay + channel * decay_d + place % S * decay_s, there, other=0.0)
    rate = rate.to(tl.float32) * _LOG2_E
    state = tl.zeros([JOINED], tl.float32)
    for number in range(blocks):
        block = item * blocks + (blocks - 1 - number if BACKWARD else number)
        at = states + block * size + place
        added = tl.load(at, there, other=0.0)
        total = tl.load(totals + block * (size // S) + channel, there, other=0.0)
        tl.store(at, state, there)
        state = tl.exp2(total * rate) * state + added


@triton.jit
def scan(
    x,  # (b, d, n)
    step,  # (b, d, n)
    decay,  # (d, S)
    write,  # (b, S, n)
    read,  # (b, S, n)
    skip,  # (d,)
    states,  # (b, blocks, d, S)
    result,  # (b, d, n), written
    x_b,
    x_d,
    x_n,
    step_b,
    step_d,
    step_n,
    write_b,
    write_s,
    write_n,
    read_b,
    read_s,
    read_n,
    result_b,
    result_d,
    result_n,
    decay_d,
    decay_s,
    d,
    n,
    blocks,
    S: tl.constexpr,
    TOKENS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """What the tokens of a block read."""
    block, item, channel, token = _place(TOKENS, CHANNELS)
    there = (channel < d)[:, None] & (token < n)[None, :]
    steps = _load(step + item * step_b, channel, step_d, token, step_n, there)
    values = _load(x + item * x_b, channel, x_d, token, x_n, there)
    gain = steps * values
    begins = (tl.arange(0, TOKENS) == 0)[None, :]
    border = states + ((item * blocks + block) * d + channel) * S
    out = values * tl.load(skip + channel, channel < d, other=0.0).to(tl.float32)[:, None]
    for s in range(S):
        rate = _rate(decay + s * decay_s, channel, decay_d, d)
        writes = tl.load(write + item * write_b + s * write_s + token * write_n, token < n, other=0)
        reads = tl.load(read + item * read_b + s * read_s + token * read_n, token < n, other=0)
        kept = tl.exp2(steps * (rate * _LOG2_E))
        state = tl.load(border + s, channel < d, other=0.0)[:, None]
        written = gain * writes.to(tl.float32)[None, :] + tl.where(begins, kept * state, 0.0)
        _, within = tl.associative_scan((kept, written), 1, _then)
        out += within * reads.to(tl.float32)[None, :]
    _store(result + item * result_b, channel, result_d, token, result_n, there, out)


@triton.jit
def down(
    x,  # (b, d, n)
    step,  # (b, d, n)
    decay,  # (d, S)
    write,  # (b, S, n)
    read,  # (b, S, n)
    skip,  # (d,)
    states,  # (b, blocks, d, S)
    grad,  # (b, d, n)
    later,  # (b, blocks, d, S), gradients of the states behind blocks
    of_x,  # (b, d, n), written
    of_step,  # (b, d, n), written
    of_decay,  # (b, blocks, d, S), written
    of_write,  # (b, groups of channels, S, n), written
    of_read,  # (b, groups of channels, S, n), written
    of_skip,  # (b, blocks, d), written
    x_b,
    x_d,
    x_n,
    step_b,
    step_d,
    step_n,
    write_b,
    write_s,
    write_n,
    read_b,
    read_s,
    read_n,
    grad_b,
    grad_d,
    grad_n,
    of_x_b,
    of_x_d,
    of_x_n,
    of_step_b,
    of_step_d,
    of_step_n,
    decay_d,
    decay_s,
    d,
    n,
    blocks,
    S: tl.constexpr,
    TOKENS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """The gradients of a block: its states again, and their gradients from its last token on."""
    block, item, channel, token = _place(TOKENS, CHANNELS)
    there = (channel < d)[:, None] & (token < n)[None, :]
    place = tl.arange(0, TOKENS)[None, :]
    later_there = there & (token + 1 < n)[None, :] & (place + 1 < TOKENS)
    steps = _load(step + item * step_b, channel, step_d, token, step_n, there)
    next_steps = _load(step + item * step_b, channel, step_d, token + 1, step_n, later_there)
    values = _load(x + item * x_b, channel, x_d, token, x_n, there)
    slope = _load(grad + item * grad_b, channel, grad_d, token, grad_n, there)
    gain = steps * values
    of_gain = tl.zeros([CHANNELS, TOKENS], tl.float32)
    of_steps = tl.zeros([CHANNELS, TOKENS], tl.float32)
    border = ((item * blocks + block) * d + channel) * S
    group = (item * tl.num_programs(1) + tl.program_id(1)) * S * n
    for s in range(S):
        rate = _rate(decay + s * decay_s, channel, decay_d, d)
        writes = tl.load(write + item * write_b + s * write_s + token * write_n, token < n, other=0)
        reads = tl.load(read + item * read_b + s * read_s + token * read_n, token < n, other=0)
        writes, reads = writes.to(tl.float32)[None, :], reads.to(tl.float32)[None, :]
        state = tl.load(states + border + s, channel < d, other=0.0)[:, None]
        behind = tl.load(later + border + s, channel < d, other=0.0)[:, None]
        kept = tl.exp2(steps * (rate * _LOG2_E))
        written = gain * writes
        begun = written + tl.where(place == 0, kept * state, 0.0)
        _, within = tl.associative_scan((kept, begun), 1, _then)
        reached = slope * reads + tl.where(place == TOKENS - 1, behind, 0.0)
        kept_next = tl.exp2(next_steps * (rate * _LOG2_E))
        _, of_within = tl.associative_scan((kept_next, reached), 1, _then, reverse=True)
        tl.store(of_read + group + s * n + token, tl.sum(slope * within, 0), token < n)
        tl.store(of_write + group + s * n + token, tl.sum(of_within * gain, 0), token < n)
        of_gain += of_within * writes
        of_exponent = of_within * (within - written)
        of_steps += of_exponent * rate
        tl.store(of_decay + border + s, tl.sum(of_exponent * steps, 1), channel < d)
    skips = tl.load(skip + channel, channel < d, other=0.0).to(tl.float32)[:, None]
    of_values = of_gain * steps + slope * skips
    of_steps += of_gain * values
    _store(of_x + item * of_x_b, channel, of_x_d, token, of_x_n, there, of_values)
    _store(of_step + item * of_step_b, channel, of_step_d, token, of_step_n, there, of_steps)
    dots = tl.sum(slope * values, 1)
    tl.store(of_skip + (item * blocks + block) * d + channel, dots, channel < d)


@triton.jit
def _place(TOKENS: tl.constexpr, CHANNELS: tl.constexpr):
    """A program's block, item, channels and tokens."""
    block, item = tl.program_id(0), tl.program_id(2).to(tl.int64)
    channel = tl.program_id(1).to(tl.int64) * CHANNELS + tl.arange(0, CHANNELS)
    return block, item, channel, block.to(tl.int64) * TOKENS + tl.arange(0, TOKENS)


@triton.jit
def _rate(at, channel, decay_d, d):
    """The decay of each channel, as a column."""
    return tl.load(at + channel * decay_d, channel < d, other=0.0).to(tl.float32)[:, None]


@triton.jit
def _load(at, channel, channel_step, token, token_step, there):
    places = (channel * channel_step)[:, None] + (token * token_step)[None, :]
    return tl.load(at + places, there, other=0.0).to(tl.float32)


@triton.jit
def _store(at, channel, channel_step, token, token_step, there, values):
    places = (channel * channel_step)[:, None] + (token * token_step)[None, :]
    tl.store(at + places, values.to(at.dtype.element_ty), there)


@triton.jit
def _then(kept, written, kept_next, written_next):
    """Two steps of the recurrence as one."""
    return kept * kept_next, kept_next * written + written_next
