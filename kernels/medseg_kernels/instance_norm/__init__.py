"""Instance norm with what follows it in a residual network."""

import logging
from typing import Literal

from torch import Tensor

from medseg_kernels.instance_norm import channels_last, compiled, reference

__all__ = ["Backend", "instance_norm", "refuses"]

Backend = Literal["compiled", "channels_last", "reference"]

log = logging.getLogger(__name__)


def instance_norm(
    x: Tensor,  # (b, c, i, j, k)
    *,
    gain: Tensor | None = None,  # (c,)
    shift: Tensor | None = None,  # (c,)
    residual: Tensor | None = None,  # (b, c, i, j, k)
    slope: float | None = None,
    eps: float = 1e-5,
    overwrite: bool = False,
    backend: Backend | None = None,
) -> Tensor:
    """leaky_relu(norm(x) * gain + shift + residual), norm(x) with mean 0 and variance 1.

    The norm is of each channel of each item. Without `gain` nothing is multiplied, without `shift`
    and `residual` nothing added, without `slope` nothing rectified. With `overwrite` the result
    may take the place of `x` in memory: only for an `x` that nobody reads again, such as the
    output of a convolution. `backend` forces one; by default the first that does not refuse is
    taken, and refusals are logged at debug level.

    Raises:
        ValueError: one voxel a channel, which has no variance; shapes that differ; a forced
            backend that refuses.
    """
    if x.ndim != 5 or x[0, 0].numel() < 2:
        raise ValueError(f"x {tuple(x.shape)} must be (b, c, i, j, k) with two voxels or more")
    if residual is not None and residual.shape != x.shape:
        raise ValueError(f"residual {tuple(residual.shape)} must have x's shape {tuple(x.shape)}")
    for name, one in (("gain", gain), ("shift", shift)):
        if one is not None and one.shape != x.shape[1:2]:
            raise ValueError(f"{name} {tuple(one.shape)} must be ({x.shape[1]},)")
    affine = gain is not None or shift is not None
    for name in ("compiled", "channels_last"):
        if backend not in (None, name):
            continue
        refusal = refuses(x, residual, slope=slope, affine=affine, backend=name)
        if refusal is not None and backend == name:
            raise ValueError(f"instance_norm: backend {name!r} refuses: {refusal}")
        if refusal is not None:
            log.debug("instance_norm: backend %r refuses: %s", name, refusal)
        elif name == "compiled":
            return compiled.forward(
                x, residual, gain, shift, slope=slope, eps=eps, overwrite=overwrite
            )
        else:
            return channels_last.forward(x, residual, slope=slope, eps=eps, overwrite=overwrite)
    return reference.forward(x, residual, gain, shift, slope=slope, eps=eps)


def refuses(
    x: Tensor,
    residual: Tensor | None,
    *,
    slope: float | None,
    affine: bool = False,
    backend: Backend,
) -> str | None:
    """Why `backend` cannot serve the call, or None; `affine`: there is a gain or a shift."""
    if backend == "compiled":
        return compiled.refuses(x, residual, slope=slope)
    if backend == "channels_last":
        if affine:
            return "it has no gain and no shift"
        return channels_last.refuses(x, residual, slope=slope)
    return None
