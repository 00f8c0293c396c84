"""The forms, and which calls they refuse."""

from collections.abc import Sequence
from typing import Literal

from medseg_kernels import gpu
from medseg_kernels.pruned_export import compiled
from medseg_kernels.pruned_export.source import Source

Backend = Literal["compiled", "triton", "pruned", "reference"]
BACKENDS: tuple[Backend, ...] = ("compiled", "triton", "pruned", "reference")


def refuses(backend: Backend, source: Source, values: Sequence[int] = ()) -> str | None:
    """Why a backend cannot serve a call, or None."""
    if backend == "compiled":
        return compiled.refuses(source, values)
    return gpu.refuses(source.values) if backend == "triton" else None
