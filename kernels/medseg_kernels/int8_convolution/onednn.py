"""By torch's operators for eight bits, which call oneDNN; the map is rounded by a C source."""

import ctypes
import math
import struct
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from medseg_kernels.constant import constant
from medseg_kernels.int8_convolution.weight import LARGEST, Int8Weight
from medseg_kernels.native import address, in_threads, library, missing

SOURCE = Path(__file__).with_name("quantize.c")
# The operators take bytes without a sign: zero is in their middle.
_MIDDLE = 128
_INFINITY_BITS = 0x7F800000

# A weight as oneDNN lays it out for maps of one size, kept while the weight itself is.
_laid_out = WeakIdKeyDictionary()


def refuses(x: Tensor) -> str | None:
    """Why this backend cannot serve the call, or None."""
    if x.device.type != "cpu":
        return f"it runs on CPUs alone, and the map is on {x.device}"
    if x.numel() == 0:
        return "the map is empty"
    return _unready()


@constant
def _unready() -> str | None:
    if not all(hasattr(torch.ops.onednn, name) for name in ("qconv_prepack", "qconv3d_pointwise")):
        return f"torch {torch.__version__} lacks oneDNN's operators for eight bits"
    return missing(SOURCE)


def forward(
    x: Tensor,  # (b, c, i, j, k)
    weight: Int8Weight,
    bias: Tensor | None,
    *,
    stride: Sequence[int],
    padding: Sequence[int],
) -> Tensor:
    """The convolved map (b, o, i, j, k), float32, lying channels last."""
    x = x.float().contiguous(memory_format=torch.channels_last_3d)
    bias = None if bias is None else bias.float()
    made = [_convolved(item, weight, bias, list(stride), list(padding)) for item in x.split(1)]
    return made[0] if len(made) == 1 else torch.cat(made)


def _convolved(
    x: Tensor, weight: Int8Weight, bias: Tensor | None, stride: list[int], padding: list[int]
) -> Tensor:
    largest = _largest(x)
    # Bytes know nothing of what is not finite.
    x = x if largest < math.inf else torch.zeros_like(x)
    scale = largest / LARGEST if 0 < largest < math.inf else 1.0
    rounded = _rounded(x, scale)
    ones, nothing = [1, 1, 1], torch.zeros(len(weight.scale), dtype=torch.int32)
    made = torch.ops.onednn.qconv3d_pointwise(
        rounded, scale, _MIDDLE, _packed(weight, rounded.shape, stride, padding),
        weight.scale, nothing, bias, stride, padding, ones, 1,
        1.0, 0, torch.float32, "none", [], "",
    )  # fmt: skip
    return made if largest < math.inf else made.fill_(math.nan)


def _rounded(x: Tensor, step: float) -> Tensor:
    """The map in steps, as bytes about the middle one."""
    rounded = torch.empty_like(x, dtype=torch.uint8)

    def work(begin: int, end: int) -> None:
        library(SOURCE).quantize(
            address(x), ctypes.c_float(1 / step), address(rounded), *_range(begin, end)
        )

    in_threads(x.numel(), work)
    return rounded


def _largest(x: Tensor) -> float:
    """The largest absolute value; infinity where any is not finite."""
    found: list[int] = []
    function = library(SOURCE).largest
    function.restype = ctypes.c_uint32
    in_threads(x.numel(), lambda *part: found.append(function(address(x), *_range(*part))))
    bits = max(found)
    return struct.unpack("f", struct.pack("I", min(bits, _INFINITY_BITS)))[0]


def _range(begin: int, end: int) -> tuple[ctypes.c_int64, ctypes.c_int64]:
    return ctypes.c_int64(begin), ctypes.c_int64(end)


def _packed(
    weight: Int8Weight, shape: Sequence[int], stride: list[int], padding: list[int]
) -> Tensor:
    known: dict[tuple[int, ...], Tensor] = _laid_out.setdefault(weight.values, {})  # pyright: ignore[reportAssignmentType]
    key = (*shape, *stride, *padding)
    if key not in known:
        known[key] = torch.ops.onednn.qconv_prepack(
            weight.values, weight.scale, 1.0, _MIDDLE, stride, padding, [1, 1, 1], 1, list(shape)
        )
    return known[key]
