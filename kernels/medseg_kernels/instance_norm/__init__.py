"""Instance norm without parameters, with what follows it in a residual network."""

import logging
from typing import Literal

from torch import Tensor

from medseg_kernels.instance_norm import blocks, channels_last, compiled, reference

__all__ = ["Backend", "instance_norm", "refuses"]

Backend = Literal["compiled", "channels_last", "reference"]

log = logging.getLogger(__name__)


def instance_norm(
    x: Tensor,  # (b, c, i, j, k)
    *,
    residual: Tensor | None = None,  # (b, c, i, j, k)
    slope: float | None = None,
    eps: float = 1e-5,
    overwrite: bool = False,
    backend: Backend | None = None,
) -> Tensor:
    """leaky_relu(norm(x) + residual): each channel of each item with mean 0 and variance 1.

    Without `residual` nothing is added, without `slope` nothing is rectified. With `overwrite`
    the result may take the place of `x` in memory: only for an `x` that nobody reads again, such
    as the output of a convolution. `backend` forces one; by default the first that does not
    refuse is taken, and refusals are logged at debug level.

    Raises:
        ValueError: one voxel a channel, which has no variance; shapes that differ; a forced
            backend that refuses.
    """
    if x.ndim != 5 or x[0, 0].numel() < 2:
        raise ValueError(f"x {tuple(x.shape)} must be (b, c, i, j, k) with two voxels or more")
    if residual is not None and residual.shape != x.shape:
        raise ValueError(f"residual {tuple(residual.shape)} must have x's shape {tuple(x.shape)}")
    options = {"slope": slope, "eps": eps}
    for name in ("compiled", "channels_last"):
        if backend not in (None, name):
            continue
        refusal = refuses(x, residual, slope=slope, backend=name)
        if refusal is None:
            steps = compiled if name == "compiled" else blocks
            return channels_last.forward(x, residual, overwrite=overwrite, steps=steps, **options)
        if backend == name:
            raise ValueError(f"instance_norm: backend {name!r} refuses: {refusal}")
        log.debug("instance_norm: backend %r refuses: %s", name, refusal)
    return reference.forward(x, residual, **options)


def refuses(
    x: Tensor, residual: Tensor | None, *, slope: float | None, backend: Backend
) -> str | None:
    """Why `backend` cannot serve the call, or None."""
    if backend == "reference":
        return None
    refusal = channels_last.refuses(x, residual, slope=slope)
    if refusal is not None or backend == "channels_last":
        return refusal
    return compiled.refuses(x)
