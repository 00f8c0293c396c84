"""The steps of an instance norm over rows (voxels, channels) in torch, a block at a time."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

# Bytes of a block on a CPU: a fourth of a core's second-level cache; a device takes all at once.
_CPU_BYTES = 1 << 19


def _blocks(rows: Tensor) -> Iterator[slice]:
    size = len(rows)
    if rows.device.type == "cpu":
        size = max(2, _CPU_BYTES // (rows.shape[1] * 4))
    return (slice(first, first + size) for first in range(0, len(rows), size))


def _exact(rows: Tensor) -> torch.dtype:
    return torch.promote_types(rows.dtype, torch.float32)


def statistics(rows: Tensor, eps: float) -> tuple[Tensor, Tensor]:
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


def normalize(
    rows: Tensor,
    mean: Tensor,
    scale: Tensor,
    added: Tensor | None,
    slope: float | None,
    out: Tensor,
) -> None:
    """Fill `out` with leaky_relu((rows - mean) * scale + added)."""
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


def differentiate(
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
