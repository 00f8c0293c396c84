"""The selective scan in plain torch, a block of tokens at a time.

A block is cut into rows of equal length. All rows are scanned at once from an empty state, token
by token; then the states between rows are joined, and what each row inherits is added. So a block
of n tokens takes about 2 sqrt(n) steps instead of n. Only inputs and the states between blocks are
kept for the backward pass, which computes each block again.
"""

from math import isqrt
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

# On a CPU, what a block works on stays in a core's second-level cache (measured: blocks of 2^18
# states and rows of 8 are two to five times as fast as whole sequences in rows of 64).
_CPU_STATES, _CPU_ROW = 1 << 18, 8
_DEVICE_STATES, _DEVICE_ROW = 1 << 25, 32
Parts = tuple[Tensor, Tensor, Tensor, Tensor]


def forward(
    x: Tensor, step: Tensor, decay: Tensor, write: Tensor, read: Tensor, *, block: int | None
) -> Tensor:
    """Shapes as in `reference.forward`; without what skips the scan."""
    given = (x, step, write, read)
    block = block or _fitting(x, decay)
    learns = torch.is_grad_enabled() and any(one.requires_grad for one in (*given, decay))
    if learns and not torch.compiler.is_compiling():
        return _Scan.apply(block, decay, *given)
    outputs, _ = _walk(given, decay, block)
    return torch.cat(outputs, dim=2)


def _fitting(x: Tensor, decay: Tensor) -> int:
    if torch.compiler.is_compiling():
        return max(1, x.shape[2])
    most = _CPU_STATES if x.device.type == "cpu" else _DEVICE_STATES
    states = max(1, len(x) * decay.numel())
    return max(_CPU_ROW, most // states // _CPU_ROW * _CPU_ROW)


def _row(x: Tensor) -> int:
    """The length of a row: a graph that is traced holds each step, so there shall be few."""
    if torch.compiler.is_compiling():
        return isqrt(x.shape[2]) + 1
    return _CPU_ROW if x.device.type == "cpu" else _DEVICE_ROW


def _walk(given: Parts, decay: Tensor, block: int) -> tuple[list[Tensor], list[Tensor]]:
    """The outputs of all blocks, and the state (b, d, s) before each of them."""
    outputs: list[Tensor] = []
    states = [given[0].new_zeros(*given[0].shape[:2], decay.shape[1])]
    for part in _blocks(given, block):
        output, after = _one_block(part, decay, states[-1])
        outputs.append(output)
        states.append(after)
    return outputs, states[:-1]


def _blocks(given: Parts, block: int) -> list[Parts]:
    return list(zip(*(one.split(block, dim=2) for one in given), strict=True))


def _one_block(part: Parts, decay: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    tokens = part[0].shape[2]
    length = min(_row(part[0]), tokens)
    # Padding has a step of 0: it keeps the state and writes nothing.
    x, step, write, read = (_rows(one, length) for one in part)
    kept = (step[..., None] * decay[:, None, None]).exp()
    written = (step * x)[..., None] * write.movedim(1, -1)[:, None]
    local = _scan_rows(kept, written)
    passed = (step.cumsum(-1)[..., None] * decay[:, None, None]).exp()
    starts, after = _join(passed[:, :, :, -1], local[:, :, :, -1], state)
    states = local + passed * starts[:, :, :, None]
    output = torch.einsum("bdrls,bsrl->bdrl", states, read)
    return output.flatten(2)[:, :, :tokens], after


def _rows(tensor: Tensor, length: int) -> Tensor:
    """(b, c, n) as rows (b, c, r, length), padded by zeros at the end."""
    padded = functional.pad(tensor, (0, -tensor.shape[2] % length))
    return padded.unflatten(2, (-1, length))


def _scan_rows(kept: Tensor, written: Tensor) -> Tensor:
    """The states (b, d, r, length, s) of rows that each begin empty."""
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


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, block: int, decay: Tensor, *given: Tensor) -> Tensor:
        x, step, write, read = given
        outputs, states = _walk((x, step, write, read), decay, block)
        ctx.block = block
        ctx.save_for_backward(decay, *given, *states)
        return torch.cat(outputs, dim=2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        decay, x, step, write, read, *states = ctx.saved_tensors
        parts = _blocks((x, step, write, read), ctx.block)
        of_decay = torch.zeros_like(decay)
        # The last state is read by nobody.
        of_state = torch.zeros_like(states[0])
        found: list[tuple[Tensor, ...]] = []
        for part, state, gradient in reversed(
            list(zip(parts, states, gradients[0].split(ctx.block, dim=2), strict=True))
        ):
            leaves = [one.detach().requires_grad_() for one in (*part, decay, state)]
            with torch.enable_grad():
                outputs = _one_block((leaves[0], leaves[1], leaves[2], leaves[3]), *leaves[4:])
                of = torch.autograd.grad(outputs, leaves, (gradient, of_state))
            found.append(of[:4])
            of_decay += of[4]
            of_state = of[5]
        joined = (torch.cat(one, dim=2) for one in zip(*reversed(found), strict=True))
        return None, of_decay, *joined
