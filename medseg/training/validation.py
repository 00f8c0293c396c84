"""Dice on whole validation cases, on the network's grid."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor, nn

from medseg.volume import Target

Infer = Callable[[nn.Module, Tensor], Tensor]


def case_dice(
    logits: Float[Tensor, "out i j k"], truth: Integer[Tensor, "t i j k"], target: Target
) -> list[float]:
    """Dice of each foreground name of one case; 1 where neither has a voxel of it."""
    return [_dice(found, true) for found, true in zip(*_masks(logits, truth, target), strict=True)]


def mean_dice(
    model: nn.Module, cases: Sequence[Mapping[str, Any]], *, target: Target, infer: Infer
) -> Float[Tensor, "n names"]:
    """Dice of each case and foreground name, (cases, names), the model in eval mode meanwhile."""
    was_training = model.training
    model.eval()
    rows = []
    with torch.no_grad():
        for case in cases:
            logits = infer(model, case["image"])
            rows.append(case_dice(logits, case["target"].to(logits.device), target))
    model.train(was_training)
    return torch.tensor(rows).reshape(len(rows), len(target.foreground_names))


def decoded(logits: Float[Tensor, "out i j k"], target: Target) -> Tensor:
    """Class indices (1, i, j, k) or region masks (r, i, j, k), uint8."""
    if target.is_regions:
        return (logits > 0).to(torch.uint8)
    return logits.argmax(0, keepdim=True).to(torch.uint8)


def _masks(
    logits: Tensor, truth: Tensor, target: Target
) -> tuple[list[Bool[Tensor, "i j k"]], list[Bool[Tensor, "i j k"]]]:
    found = decoded(logits, target)
    if target.is_regions:
        return [mask > 0 for mask in found], [mask > 0 for mask in truth]
    indices = range(1, target.output_channels)
    return [found[0] == n for n in indices], [truth[0] == n for n in indices]


def _dice(found: Tensor, true: Tensor) -> float:
    total = int(found.sum()) + int(true.sum())
    if total == 0:
        return 1.0
    return 2.0 * int((found & true).sum()) / total
