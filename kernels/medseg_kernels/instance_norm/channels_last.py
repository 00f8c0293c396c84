"""Instance norm of maps that lie channels last, in one read and one write, keeping the layout.

torch's instance norm copies such a map to channels first and back; its batch and group norm keep
the layout but sum in a way that is wrong by 1e-3 at 96^3 voxels (measured with torch 2.15 on a
CPU). Here statistics are taken from blocks that fit a cache and joined in double precision (Chan,
Golub, LeVeque 1983). The backward needs no more than the output, which the next layer keeps
anyway: norm and leaky ReLU are undone from it.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

# Bytes of a block on a CPU: a fourth of a core's second-level cache; a device takes all at once.
_CPU_BYTES = 1 << 19


def refuses(x: Tensor, residual: Tensor | None, *, slope: float | None) -> str | None:
    """Why this backend cannot serve the call, or None."""
    if torch.compiler.is_compiling():
        return "under torch.compile the compiler fuses the reference"
    if x.device.type not in ("cpu", "cuda"):
        return f"it is not meant for {x.device.type}"
    if not x.is_contiguous(memory_format=torch.channels_last_3d):
        return "the map does not lie channels last in memory"
    if residual is not None and (x.dtype != residual.dtype or x.dtype.itemsize < 4):
        return "undoing the sum with the residual loses digits below single precision"
    if slope is not None and slope <= 0:
        return f"slope {slope} cannot be undone"
    return None


def forward(
    x: Tensor, residual: Tensor | None, *, slope: float | None, eps: float, overwrite: bool
) -> Tensor:
    """leaky_relu(norm(x) + residual), lying channels last."""
    return _Norm.apply(x, laid(residual), slope, eps, overwrite)


def laid(residual: Tensor | None) -> Tensor | None:
    """The residual lying channels last."""
    return None if residual is None else residual.contiguous(memory_format=torch.channels_last_3d)


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        residual: Tensor | None,
        slope: float | None,
        eps: float,
        overwrite: bool,
    ) -> Tensor:
        y = x if overwrite else torch.empty_like(x)
        scales = []
        for item, (rows, out) in enumerate(zip(rows_of(x), rows_of(y), strict=True)):
            mean, scale = _statistics(rows, eps)
            added = None if residual is None else rows_of(residual)[item]
            _normalize(rows, mean, scale, added, slope, out)
            scales.append(scale)
        if overwrite:
            ctx.mark_dirty(x)
        ctx.slope = slope
        ctx.save_for_backward(y, torch.stack(scales), residual)
        return y

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor | None, ...]:
        y, scales, residual = ctx.saved_tensors
        grad = as_rows(grads[0])
        grad_x = torch.empty_like(y)
        # The gradient behind leaky ReLU is the residual's.
        grad_residual = None if residual is None else torch.empty_like(y)
        for item, scale in enumerate(scales):
            added, behind = (
                None if m is None else rows_of(m)[item] for m in (residual, grad_residual)
            )
            maps = (rows_of(m)[item] for m in (y, grad, grad_x))
            _differentiate(*maps, added=added, behind=behind, scale=scale, slope=ctx.slope)
        return grad_x, grad_residual, None, None, None


def rows_of(x: Tensor) -> Tensor:
    """The same memory as (b, voxels, c)."""
    return x.permute(0, 2, 3, 4, 1).view(len(x), -1, x.shape[1])


def as_rows(x: Tensor) -> Tensor:
    """The map where `rows_of` works: channels side by side and voxels evenly apart."""
    _, _, j, k, _ = x.permute(0, 2, 3, 4, 1).shape
    _, along_c, along_i, along_j, along_k = x.stride()
    if along_c == 1 and along_j == k * along_k and along_i == j * along_j:
        return x
    return x.contiguous(memory_format=torch.channels_last_3d)


def _blocks(rows: Tensor) -> Iterator[slice]:
    size = len(rows)
    if rows.device.type == "cpu":
        size = max(2, _CPU_BYTES // (rows.shape[1] * 4))
    return (slice(first, first + size) for first in range(0, len(rows), size))


def _exact(rows: Tensor) -> torch.dtype:
    return torch.promote_types(rows.dtype, torch.float32)


def _statistics(rows: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The mean and 1 / sqrt(variance + eps) of each channel, (c)."""
    counts, sums, squares = [], [], []
    for block in _blocks(rows):
        part = rows[block].to(_exact(rows))
        total = part.sum(0)
        counts.append(len(part))
        sums.append(total)
        squares.append((part - total / len(part)).square_().sum(0))
    mean, scale = joined(counts, torch.stack(sums), torch.stack(squares), eps)
    return mean.to(_exact(rows)), scale.to(_exact(rows))


def joined(
    counts: Sequence[int], sums: Tensor, squares: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Mean and 1 / sqrt(variance + eps), double, from what blocks of `counts` rows gave, (n, c).

    `squares` are about each block's own mean.
    """
    count = torch.tensor(counts, dtype=torch.float64, device=sums.device)[:, None]
    total = sums.double()
    mean = total.sum(0) / count.sum()
    between = (count * (total / count - mean).square()).sum(0)
    return mean, ((squares.double().sum(0) + between) / count.sum() + eps).rsqrt()


def _normalize(
    rows: Tensor,
    mean: Tensor,
    scale: Tensor,
    added: Tensor | None,
    slope: float | None,
    out: Tensor,
) -> None:
    for block in _blocks(rows):
        target = out[block]
        part = target if target.dtype == mean.dtype else torch.empty_like(target, dtype=mean.dtype)
        torch.sub(rows[block], mean, out=part).mul_(scale)
        if added is not None:
            part += added[block]
        if slope is not None:
            functional.leaky_relu_(part, slope)
        if part is not target:
            target.copy_(part)


def _differentiate(
    y: Tensor,
    grad: Tensor,
    grad_x: Tensor,
    *,
    added: Tensor | None,
    behind: Tensor | None,
    scale: Tensor,
    slope: float | None,
) -> None:
    """Fill `grad_x`, and `behind` with the gradient g of norm(x) + residual.

    With n = norm(x): grad_x = (g - mean(g) - n mean(g n)) * scale.
    """
    total = y.new_zeros((2, y.shape[1]), dtype=torch.float64)
    for block in _blocks(y):
        part = _behind(y[block], grad[block], slope)
        total[0] += part.sum(0)
        total[1] += _normalized(y[block], added, slope, block).mul_(part).sum(0)
        if behind is not None:
            behind[block] = part
    shift, along = (total / len(y)).to(_exact(y))
    for block in _blocks(y):
        part = _normalized(y[block], added, slope, block).mul_(along).add_(shift)
        given = _behind(y[block], grad[block], slope) if behind is None else behind[block]
        if grad_x.dtype == part.dtype:
            torch.sub(given, part, out=grad_x[block]).mul_(scale)
        else:
            grad_x[block] = torch.sub(given, part, out=part).mul_(scale)


def _behind(y: Tensor, grad: Tensor, slope: float | None) -> Tensor:
    """The gradient before leaky ReLU, told by the sign of its output."""
    if slope is None:
        return grad.to(_exact(y))
    given, result = grad.to(_exact(y)), y.to(_exact(y))
    return torch.ops.aten.leaky_relu_backward(given, result, slope, self_is_result=True)


def _normalized(y: Tensor, added: Tensor | None, slope: float | None, block: slice) -> Tensor:
    """norm(x), undone from the output into memory of its own."""
    part = (
        y.to(_exact(y), copy=True)
        if slope is None
        else functional.leaky_relu(y.to(_exact(y)), 1 / slope)
    )
    return part if added is None else part.sub_(added[block])
