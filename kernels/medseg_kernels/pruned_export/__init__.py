"""From logits to labels on another grid, without the logits there."""

import logging
from collections.abc import Sequence
from types import ModuleType
from typing import Literal

import torch
from torch import Tensor

from medseg_kernels.pruned_export import compiled, pruned, reference
from medseg_kernels.pruned_export.places import Places, linear_places, nearest_places

__all__ = [
    "Backend",
    "Places",
    "linear_places",
    "nearest_places",
    "pruned_argmax",
    "pruned_regions",
]

Backend = Literal["compiled", "pruned", "reference"]

FORMS = {"compiled": compiled, "pruned": pruned, "reference": reference}

log = logging.getLogger(__name__)


def pruned_argmax(
    logits: Tensor,  # (c, i, j, k)
    places: tuple[Places, Places, Places],
    *,
    backend: Backend | None = None,
) -> Tensor:  # (a, b, c) uint8; int16 above 256 classes
    """The class of the largest logit at each target voxel, linearly interpolated.

    Of equal ones it is the first. Logits are float32, bfloat16 or float16, of any strides, and
    finite; they are interpolated in float32. The result does not depend on how the volume is cut,
    nor on the `backend`: by default the first of compiled (C, one thread, where there is a
    compiler) and pruned (torch, any device) that does not refuse.

    Raises:
        ValueError: `logits` or `places` have another form, or a forced backend refuses.
    """
    _check(logits, places)
    return _form(backend, logits).argmax(logits, places)


def pruned_regions(
    logits: Tensor,  # (r, i, j, k)
    places: tuple[Places, Places, Places],
    values: Sequence[int],
    *,
    backend: Backend | None = None,
) -> Tensor:  # (a, b, c) uint8; int16 where a value is above 255
    """The value of the last region whose logit, linearly interpolated, is above 0; else 0.

    See `pruned_argmax`.

    Raises:
        ValueError: `logits`, `places` or `values` have another form.
    """
    _check(logits, places)
    if len(values) != len(logits):
        raise ValueError(f"{len(values)} values for {len(logits)} regions; one each is needed")
    return _form(backend, logits, values).regions(logits, places, values)


def _form(backend: Backend | None, logits: Tensor, values: Sequence[int] = ()) -> ModuleType:
    """The backend that was asked for, or the first that does not refuse."""
    if backend in FORMS and backend != "compiled":
        return FORMS[backend]
    refusal = compiled.refuses(logits, values)
    if refusal is None:
        return compiled
    if backend == "compiled":
        raise ValueError(f"pruned_export: backend 'compiled' refuses: {refusal}")
    log.debug("pruned_export: in torch, since compiled refuses: %s", refusal)
    return pruned


def _check(logits: Tensor, places: Sequence[Places]) -> None:
    if logits.ndim != 4 or not logits.is_floating_point() or 0 in logits.shape:
        raise ValueError(f"logits {tuple(logits.shape)} {logits.dtype} must be (c, i, j, k), float")
    for side, place in zip(logits.shape[1:], places, strict=True):
        if len(place.left) == 0 or len(place.left) != len(place.beyond):
            raise ValueError("places need as many `left` as `beyond`, and at least one")
        if int(place.left.min()) < 0 or int(place.left.max()) >= side:
            raise ValueError(f"places reach beyond the {side} source voxels of their axis")
        if bool((torch.diff(place.left) < 0).any()):
            raise ValueError("the `left` of places must never fall")
