"""All backends as one operator, which writes to the sums and counts it is given, and chooses.

It is defined by hand: a custom_op loads torch's compiler when it is called first.
"""

from functools import partial
from typing import Literal

import torch
from torch import Tensor

from medseg_kernels import gpu
from medseg_kernels.choice import chosen
from medseg_kernels.window_sum import compiled, reference

Backend = Literal["compiled", "triton", "reference"]
BACKENDS: tuple[Backend, ...] = ("compiled", "triton", "reference")


def refuses(backend: Backend, sums: Tensor, features: Tensor) -> str | None:
    """Why a backend cannot serve a call, or None."""
    if backend == "compiled":
        return compiled.refuses(sums, features)
    if backend == "triton" and max(sums[0].numel(), features[0].numel()) >= 2**31:
        return "it counts voxels in 32 bits, and there are more"
    return gpu.refuses(sums, features) if backend == "triton" else None


def _add_window(
    sums: Tensor, counts: Tensor, features: Tensor, weight: Tensor, backend: str | None
) -> None:
    refused = partial(refuses, sums=sums, features=features)
    name = chosen("window_sum", BACKENDS, backend, refused)
    if sums.numel() == 0:
        return
    if name == "triton":
        from medseg_kernels.window_sum import triton as form  # noqa: PLC0415
    else:
        form = compiled if name == "compiled" else reference
    form.add_window(sums, counts, features, weight)


def _add_window_fake(
    sums: Tensor, counts: Tensor, features: Tensor, weight: Tensor, backend: str | None
) -> None:
    """Nothing is returned, and nothing else is made."""


_NAME = "medseg::add_window"
torch.library.define(
    _NAME, torch.library.infer_schema(_add_window, mutates_args=("sums", "counts"))
)
torch.library.impl(_NAME, "default", _add_window)
torch.library.register_fake(_NAME, _add_window_fake)
