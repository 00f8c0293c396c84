"""What a network computes for one seeded input: told when it is saved, asked when it is loaded.

It tells whether this installation computes what the one that trained the network computed.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medseg.bundle.manifest import MANIFEST, versions
from medseg.fault import InputFault
from medseg.models.shape import ShapePolicy
from medseg.volume import Task

SEED = 20_260_101
VALUES = 64
TOLERANCE = 1e-4


def run_self_test(model: nn.Module, task: Task) -> dict[str, Any]:
    """Shape of the input, and 64 logits from all over the output with their mean and spread.

    `model` lies on the CPU, in evaluation mode. The input is of the smallest size it takes.
    """
    shape = (1, task.in_channels, *_size(model, task))
    with torch.no_grad():
        logits = model(seeded_input(shape)).float()
    assert logits.shape[:2] == (1, task.out_channels), logits.shape
    flat = logits.flatten().double()
    return {
        "seed": SEED,
        "shape": list(shape),
        "values": [float(value) for value in flat[_places(flat.numel())]],
        "mean": float(flat.mean()),
        "sd": float(flat.std(correction=0)),
    }


def refuse_other_logits(
    model: nn.Module, task: Task, manifest: Mapping[str, Any], folder: Path
) -> None:
    """Raise InputFault (E_SELFTEST) where `model` computes other logits than were stored.

    Each value may differ by 1e-4 and by 1e-4 of the largest stored value.
    """
    stored = manifest["self_test"]
    found = run_self_test(model, task)
    keys = ("mean", "sd")
    ours = np.array([*found["values"], *(found[key] for key in keys)])
    theirs = np.array([*stored["values"], *(stored[key] for key in keys)])
    same_input = found["shape"] == stored["shape"] and stored["seed"] == SEED
    allowed = TOLERANCE * (1 + float(np.abs(theirs).max()))
    apart = float(np.abs(ours - theirs).max()) if ours.shape == theirs.shape else math.inf
    if same_input and apart <= allowed:
        return
    raise InputFault(
        f"{folder}: its network computes other logits here than where it was saved "
        f"({apart:.2g} apart; {allowed:.2g} is rounding). {_version_difference(manifest)}",
        code="E_SELFTEST",
    )


def shape_policy_of(model: nn.Module) -> ShapePolicy | None:
    """The sizes of input `model` takes; None where a network of the user's own does not say."""
    policy = getattr(model, "shape_policy", None)
    return policy if isinstance(policy, ShapePolicy) else None


def seeded_input(shape: tuple[int, ...]) -> Tensor:
    """Numbers spread evenly over -1.7..1.7 (variance 1), the same in every version of numpy."""
    # Only the raw bits of a generator are promised to stay; distributions are not.
    bits = np.random.PCG64(SEED).random_raw(math.prod(shape))
    share = (bits >> np.uint64(40)).astype(np.float32) / np.float32(1 << 24)
    return torch.from_numpy((share * 2 - 1) * np.float32(math.sqrt(3))).reshape(shape)


def _size(model: nn.Module, task: Task) -> tuple[int, int, int]:
    policy = shape_policy_of(model)
    return task.patch_size if policy is None else policy.nearest(policy.minimum)


def _places(count: int) -> Tensor:
    # An odd stride near the golden section visits all channels and corners of the output.
    return (torch.arange(VALUES) * round(0.618034 * count)) % count


def _version_difference(manifest: Mapping[str, Any]) -> str:
    here = versions()
    other = [
        f"{name} {theirs} there and {here.get(name, 'absent')} here"
        for name, theirs in manifest["versions"].items()
        if here.get(name) != theirs
    ]
    if other:
        return f"Versions differ: {', '.join(other)}; install those of {MANIFEST}."
    return "The versions are the same, so the file or this machine's arithmetic is at fault."
