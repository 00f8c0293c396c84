"""What every Triton form asks before it serves a call."""

import importlib.util

import torch
from torch import Tensor

from medseg_kernels.constant import constant

_INSTALLED = importlib.util.find_spec("triton") is not None
HALF = (torch.float16, torch.bfloat16)


def refuses(*tensors: Tensor | None) -> str | None:
    """Why Triton cannot work on these tensors, or None.

    Under TRITON_INTERPRET=1 it runs on the CPU, which is for tests; there its product of bfloat16
    matrices is wrong (Triton 3.9), so that type is refused.
    """
    given = [tensor for tensor in tensors if tensor is not None]
    if not _INSTALLED:
        return "triton is not installed"
    for tensor in given:
        if tensor.dtype not in (torch.float32, *HALF):
            return f"it has no {str(tensor.dtype).removeprefix('torch.')}"
        if tensor.device.type == "cuda":
            continue
        if tensor.device.type != "cpu" or not interprets():
            return f"it runs on CUDA devices alone, and the tensors are on {tensor.device}"
        if tensor.dtype == torch.bfloat16:
            return "triton's interpreter multiplies bfloat16 matrices wrongly"
    return None


@constant
def interprets() -> bool:
    """Whether Triton runs its programs in Python (TRITON_INTERPRET=1)."""
    from triton import knobs  # noqa: PLC0415

    return knobs.runtime.interpret
