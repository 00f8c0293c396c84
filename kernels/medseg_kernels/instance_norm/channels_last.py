"""Instance norm of maps that lie channels last, in one read and one write, keeping the layout.

torch's instance norm copies such a map to channels first and back; its batch and group norm keep
the layout but sum in a way that is wrong by 1e-3 at 96^3 voxels (measured with torch 2.15 on a
CPU). Here statistics are taken from blocks that fit a cache and joined in double precision (Chan,
Golub, LeVeque 1983). The backward needs no more than the output, which the next layer keeps
anyway: norm and leaky ReLU are undone from it.
"""

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Steps(Protocol):
    """What is done with the rows (voxels, channels) of an item: `blocks` or `compiled`."""

    def statistics(self, rows: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """The mean and 1 / sqrt(variance + eps) of each channel, (c)."""
        ...

    def normalize(
        self,
        rows: Tensor,
        mean: Tensor,
        scale: Tensor,
        added: Tensor | None,
        slope: float | None,
        out: Tensor,
    ) -> None:
        """Fill `out` with leaky_relu((rows - mean) * scale + added)."""
        ...

    def differentiate(
        self,
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
        ...


def refuses(x: Tensor, residual: Tensor | None, *, slope: float | None) -> str | None:
    """Why this backend cannot serve the call, or None."""
    if torch.compiler.is_compiling():
        return "under torch.compile the compiler fuses the reference"
    if x.device.type not in ("cpu", "cuda"):
        return f"it is not meant for {x.device.type}"
    for tensor in (x, residual):
        if tensor is not None and not tensor.is_contiguous(memory_format=torch.channels_last_3d):
            return "the map does not lie channels last in memory"
    if residual is not None and (x.dtype != residual.dtype or x.dtype.itemsize < 4):
        return "undoing the sum with the residual loses digits below single precision"
    if slope is not None and slope <= 0:
        return f"slope {slope} cannot be undone"
    return None


def forward(
    x: Tensor,
    residual: Tensor | None,
    *,
    slope: float | None,
    eps: float,
    overwrite: bool,
    steps: Steps,
) -> Tensor:
    """leaky_relu(norm(x) + residual), lying channels last."""
    return _Norm.apply(x, residual, slope, eps, overwrite, steps)


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        residual: Tensor | None,
        slope: float | None,
        eps: float,
        overwrite: bool,
        steps: Steps,
    ) -> Tensor:
        y = x if overwrite else torch.empty_like(x)
        scales = []
        for item, (rows, out) in enumerate(zip(_rows(x), _rows(y), strict=True)):
            mean, scale = steps.statistics(rows, eps)
            added = None if residual is None else _rows(residual)[item]
            steps.normalize(rows, mean, scale, added, slope, out)
            scales.append(scale)
        if overwrite:
            ctx.mark_dirty(x)
        ctx.slope, ctx.steps = slope, steps
        ctx.save_for_backward(y, torch.stack(scales), residual)
        return y

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor | None, ...]:
        y, scales, residual = ctx.saved_tensors
        grad = grads[0] if _has_rows(grads[0]) else _channels_last(grads[0])
        grad_x = torch.empty_like(y)
        # The gradient behind leaky ReLU is the residual's.
        grad_residual = None if residual is None else torch.empty_like(y)
        for item, scale in enumerate(scales):
            added, behind = (
                None if m is None else _rows(m)[item] for m in (residual, grad_residual)
            )
            maps = (_rows(m)[item] for m in (y, grad, grad_x))
            ctx.steps.differentiate(*maps, added=added, behind=behind, scale=scale, slope=ctx.slope)
        return grad_x, grad_residual, None, None, None, None


def _rows(x: Tensor) -> Tensor:
    """The same memory as (b, voxels, c)."""
    return x.permute(0, 2, 3, 4, 1).view(len(x), -1, x.shape[1])


def _has_rows(x: Tensor) -> bool:
    """Whether `_rows` works: channels side by side and voxels evenly apart."""
    _, _, j, k, _ = x.permute(0, 2, 3, 4, 1).shape
    _, along_c, along_i, along_j, along_k = x.stride()
    return along_c == 1 and along_j == k * along_k and along_i == j * along_j


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last_3d)
