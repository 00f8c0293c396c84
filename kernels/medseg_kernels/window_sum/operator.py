"""All backends as one operator, which writes to the sums and counts it is given, and chooses.

It is defined by hand: a custom_op loads torch's compiler when it is called first.
"""

import logging
from typing import Literal

import torch
from torch import Tensor

from medseg_kernels import gpu
from medseg_kernels.window_sum import compiled, reference

Backend = Literal["compiled", "triton", "reference"]
BACKENDS: tuple[Backend, ...] = ("compiled", "triton", "reference")

log = logging.getLogger(__name__)


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
    name = _chosen(sums, features, backend)
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


def _chosen(sums: Tensor, features: Tensor, backend: str | None) -> Backend:
    if backend is not None and backend not in BACKENDS:
        raise ValueError(f"window_sum: there is no backend {backend!r}")
    for name in BACKENDS if backend is None else (backend,):
        refusal = refuses(name, sums, features)
        if refusal is None and backend is None and name == "triton" and gpu.interprets():
            refusal = "its interpreter is for tests, which ask for it by name"
        if refusal is None:
            return name
        if backend is not None:
            raise ValueError(f"window_sum: backend {name!r} refuses: {refusal}")
        log.debug("window_sum: backend %r refuses: %s", name, refusal)
    raise AssertionError("the reference refuses nothing")


_NAME = "medseg::add_window"
torch.library.define(
    _NAME, torch.library.infer_schema(_add_window, mutates_args=("sums", "counts"))
)
torch.library.impl(_NAME, "default", _add_window)
torch.library.register_fake(_NAME, _add_window_fake)
