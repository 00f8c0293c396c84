"""Dice on whole validation cases, on the network's grid."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from medseg.volume import Target

Infer = Callable[[nn.Module, Tensor], Tensor]


def dice_of_cases(
    model: nn.Module, cases: Iterable[Mapping[str, Any]], *, target: Target, infer: Infer
) -> Float[Tensor, "n names"]:
    """Dice of each case and foreground name; a case is let go before the next one is read."""
    with evaluating(model):
        rows = [
            case_dice(infer(model, case["image"]), case["target"], target=target) for case in cases
        ]
    return torch.tensor(rows).reshape(len(rows), len(target.foreground_names))


def case_dice(
    logits: Float[Tensor, "out i j k"], truth: Integer[Tensor, "t i j k"], *, target: Target
) -> list[float]:
    """Dice of each foreground name of one case; 1 where neither has a voxel of it."""
    truth = truth.to(logits.device)
    if target.is_regions:
        overlap, total = _region_voxels(logits > 0, truth > 0)
    else:
        overlap, total = _label_voxels(logits.argmax(0), truth[0].long(), len(logits))
    return torch.where(total > 0, 2 * overlap / total.clamp(min=1), 1.0).tolist()


def decoded(logits: Float[Tensor, "out i j k"], target: Target) -> Integer[Tensor, "t i j k"]:
    """Class indices (1, i, j, k) or region masks (r, i, j, k)."""
    if target.is_regions:
        return (logits > 0).to(torch.uint8)
    return logits.argmax(0, keepdim=True)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in eval mode and without gradients, and as it was afterwards."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def _region_voxels(found: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
    axes = (1, 2, 3)
    return (found & true).sum(axes), found.sum(axes) + true.sum(axes)


def _label_voxels(found: Tensor, true: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Of each foreground class: the voxels of the overlap, and of both together."""
    pairs = torch.bincount((true * classes + found).flatten(), minlength=classes**2)
    pairs = pairs.reshape(classes, classes)
    return pairs.diagonal()[1:], (pairs.sum(0) + pairs.sum(1))[1:]
