"""Instance norm of maps that lie channels last, in C: float32, on a CPU.

The backward undoes the norm from the output, as in `channels_last`. Where a gain is so small, or a
shift so large, that too many digits would be lost, and where the output may be written over, the
map before the norm is kept instead.
"""

import ctypes
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from medseg_kernels.instance_norm import channels_last
from medseg_kernels.instance_norm.channels_last import as_rows, joined, laid, rows_of
from medseg_kernels.native import address, in_threads, library, missing

SOURCE = Path(__file__).with_name("norm.c")
# Floats of a block: half of a core's first-level cache.
_BLOCK = 1 << 12
# The least gain, and the largest shift in gains, that are undone: six bits are lost at most.
_LEAST_GAIN, _LARGEST_SHIFT = 2**-6, 2**6


class _Given(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("result", "rows", "gradient", "added")),
        *((name, ctypes.c_void_p) for name in ("mean", "scale", "gain", "shift", "undo")),
        *((name, ctypes.c_longlong) for name in ("pitch", "channels")),
        ("slope", ctypes.c_float),
    ]


def refuses(x: Tensor, residual: Tensor | None, *, slope: float | None) -> str | None:
    """Why this backend cannot serve the call, or None."""
    refusal = channels_last.refuses(x, residual, slope=slope)
    if refusal is not None:
        return refusal
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return f"it is for float32 on CPUs, and the map is {x.dtype} on {x.device}"
    return missing(SOURCE)


def forward(
    x: Tensor,
    residual: Tensor | None,
    gain: Tensor | None,
    shift: Tensor | None,
    *,
    slope: float | None,
    eps: float,
    overwrite: bool,
) -> Tensor:
    """leaky_relu(norm(x) * gain + shift + residual), lying channels last."""
    learns = torch.is_grad_enabled() and any(
        one is not None and one.requires_grad for one in (x, residual, gain, shift)
    )
    undone = learns and _is_undone(gain, shift, is_last=overwrite or slope is not None)
    # Autograd would write what is put into a view back into its base, at the price of a copy.
    is_view = x._is_view()  # noqa: SLF001  # torch has no public name for it
    overwrite = overwrite and not (learns and (is_view or not undone))
    slope = 1.0 if slope is None else slope
    return _Norm.apply(x, laid(residual), gain, shift, slope, eps, overwrite, undone)


def _is_undone(gain: Tensor | None, shift: Tensor | None, *, is_last: bool) -> bool:
    """Whether the backward can do with the output; `is_last`: nobody writes over that."""
    if gain is None and shift is None:
        return True
    least = 1.0 if gain is None else float(gain.detach().abs().min())
    most = 0.0 if shift is None else float(shift.detach().abs().max())
    return is_last and least >= _LEAST_GAIN and most <= _LARGEST_SHIFT * least


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        residual: Tensor | None,
        gain: Tensor | None,
        shift: Tensor | None,
        slope: float,
        eps: float,
        overwrite: bool,
        undone: bool,
    ) -> Tensor:
        y = x if overwrite else torch.empty_like(x)
        gains, shifts = _affine(x, gain, shift)
        means, scales = [], []
        for item, (rows, out) in enumerate(zip(rows_of(x), rows_of(y), strict=True)):
            mean, scale = _statistics(rows, eps)
            added = None if residual is None else rows_of(residual)[item]
            _normalize(rows, added, mean, scale * gains, shifts, slope, out)
            means.append(mean)
            scales.append(scale)
        if overwrite:
            ctx.mark_dirty(x)
        ctx.slope = slope
        kept = (y, None) if undone else (None, x)
        ctx.save_for_backward(
            *kept, residual, gains, shifts, torch.stack(means), torch.stack(scales)
        )
        return y

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor | None, ...]:
        y, x, residual, gains, shifts, means, scales = ctx.saved_tensors
        grad = as_rows(grads[0])
        grad_x = torch.empty_like(y if x is None else x)
        # The gradient behind leaky ReLU is the residual's.
        grad_residual = None if residual is None else torch.empty_like(grad_x)
        totals = grad_x.new_zeros((2, grad_x.shape[1]), dtype=torch.float64)
        for item, (mean, scale) in enumerate(zip(means, scales, strict=True)):
            gradient, slopes = rows_of(grad)[item], rows_of(grad_x)[item]
            result, rows, added, behind = (
                None if one is None else rows_of(one)[item]
                for one in (y, x, residual, grad_residual)
            )
            channels = (mean, scale, gains, shifts, 1 / gains)
            pointers = map(address, (result, rows, gradient, added, *channels))
            given = _Given(*pointers, gradient.stride(0), grad_x.shape[1], ctx.slope)
            totals += _differentiate(given, slopes, behind, scale * gains)
        of_shift, of_gain = totals.float()
        _, _, learns_gain, learns_shift, *_ = ctx.needs_input_grad
        affine = (of_gain if learns_gain else None, of_shift if learns_shift else None)
        return grad_x, grad_residual, *affine, None, None, None, None


def _affine(x: Tensor, gain: Tensor | None, shift: Tensor | None) -> tuple[Tensor, Tensor]:
    size = x.shape[1]
    return (
        x.new_ones(size) if gain is None else gain.detach().contiguous(),
        x.new_zeros(size) if shift is None else shift.detach().contiguous(),
    )


def _statistics(rows: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The mean and 1 / sqrt(variance + eps) of each channel, (c)."""
    count, channels = rows.shape
    size, blocks = _blocks(count, channels)
    sums, squares = rows.new_zeros((2, blocks, channels))

    def work(begin: int, end: int) -> None:
        numbers = _numbers(count, channels, size, begin, end)
        library(SOURCE).statistics(address(rows), *numbers, address(sums), address(squares))

    in_threads(blocks, work)
    counts = [min(size, count - first) for first in range(0, count, size)]
    mean, scale = joined(counts, sums, squares, eps)
    return mean.float(), scale.float()


def _normalize(
    rows: Tensor,
    added: Tensor | None,
    mean: Tensor,
    scale: Tensor,
    shift: Tensor,
    slope: float,
    out: Tensor,
) -> None:
    count, channels = rows.shape

    def work(begin: int, end: int) -> None:
        library(SOURCE).normalize(
            address(rows), address(added), *_numbers(channels), address(mean), address(scale),
            address(shift), ctypes.c_float(slope), address(out), *_numbers(begin, end),
        )  # fmt: skip

    in_threads(count, work)


def _differentiate(given: _Given, slopes: Tensor, behind: Tensor | None, factor: Tensor) -> Tensor:
    """Fill `slopes`, and `behind` with the gradient g before leaky ReLU.

    With n = norm(x): slopes = (g - mean(g) - n mean(g n)) * factor. Returns the sums of g and of
    g n, (2, c).
    """
    count, channels = slopes.shape
    size, blocks = _blocks(count, channels)
    sums = slopes.new_zeros((blocks, 2, channels))

    def add(begin: int, end: int) -> None:
        numbers = _numbers(count, size, begin, end)
        library(SOURCE).gradient_sums(ctypes.byref(given), *numbers, address(sums), address(behind))

    in_threads(blocks, add)
    totals = sums.double().sum(0)
    of_sum, of_norm = (totals / count).float()

    def work(begin: int, end: int) -> None:
        library(SOURCE).differentiate(
            ctypes.byref(given), address(of_sum), address(of_norm), address(factor),
            address(slopes), *_numbers(begin, end),
        )  # fmt: skip

    in_threads(count, work)
    return totals


def _blocks(count: int, channels: int) -> tuple[int, int]:
    """Rows of a block, and how many blocks there are."""
    size = max(2, _BLOCK // channels)
    return size, -(-count // size)


def _numbers(*numbers: int) -> list[ctypes.c_longlong]:
    return [ctypes.c_longlong(number) for number in numbers]
