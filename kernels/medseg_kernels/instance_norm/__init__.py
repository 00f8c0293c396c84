"""Instance norm without parameters, with what follows it in a residual network."""

import logging
from typing import Literal

from torch import Tensor

from medseg_kernels.instance_norm import channels_last, reference

__all__ = ["Backend", "instance_norm"]

Backend = Literal["channels_last", "reference"]

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
    refusal = channels_last.refuses(x, residual, slope=slope)
    if backend == "channels_last" and refusal is not None:
        raise ValueError(f"instance_norm: backend 'channels_last' refuses: {refusal}")
    if backend == "reference" or refusal is not None:
        log.debug("instance_norm: reference, since channels_last refuses: %s", refusal)
        return reference.forward(x, residual, slope=slope, eps=eps)
    return channels_last.forward(x, residual, slope=slope, eps=eps, overwrite=overwrite)
