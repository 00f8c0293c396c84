"""Which form serves a call."""

import logging
from collections.abc import Sequence
from typing import Literal

from medseg_kernels import gpu
from medseg_kernels.pruned_export import compiled
from medseg_kernels.pruned_export.source import Source

Backend = Literal["compiled", "triton", "pruned", "reference"]
BACKENDS: tuple[Backend, ...] = ("compiled", "triton", "pruned", "reference")

log = logging.getLogger(__name__)


def refuses(backend: Backend, source: Source, values: Sequence[int] = ()) -> str | None:
    """Why a backend cannot serve a call, or None."""
    if backend == "compiled":
        return compiled.refuses(source, values)
    return gpu.refuses(source.values) if backend == "triton" else None


def chosen(source: Source, values: Sequence[int], backend: str | None) -> Backend:
    """The backend that was asked for, or the first that does not refuse."""
    if backend is not None and backend not in BACKENDS:
        raise ValueError(f"pruned_export: there is no backend {backend!r}")
    for name in BACKENDS if backend is None else (backend,):
        refusal = refuses(name, source, values)
        if refusal is None and backend is None and name == "triton" and gpu.interprets():
            refusal = "its interpreter is for tests, which ask for it by name"
        if refusal is None:
            return name
        if backend is not None:
            raise ValueError(f"pruned_export: backend {name!r} refuses: {refusal}")
        log.debug("pruned_export: backend %r refuses: %s", name, refusal)
    raise AssertionError("the reference refuses nothing")
