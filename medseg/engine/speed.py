"""How fast this machine is with a bundle: measured while it works, kept, and used to forecast."""

import hashlib
import json
import math
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from medseg.engine.job import Outcome
from medseg.fault import InputFault
from medseg.inference.predictor import Predictor
from medseg.io.atomic import write_json

# Reading, preprocessing and writing of a voxel where nothing was measured yet, on a 2020s core.
USUAL_VOXEL_S = 2e-7
# How much the newest run counts.
NEWEST = 0.5


@dataclass(frozen=True)
class Speed:
    """Seconds of one forward of a network (with its share of the export), and around a voxel."""

    forward_s: float
    voxel_s: float


def kept_speed(folder: Path, predictor: Predictor, bundle_sha256: str) -> Speed | None:
    """What earlier runs measured on this machine; None where there is nothing."""
    try:
        data = json.loads(_path(folder, predictor, bundle_sha256).read_text("utf-8"))
        speed = Speed(float(data["forward_s"]), float(data["voxel_s"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    usable = all(
        math.isfinite(number) and number > 0 for number in (speed.forward_s, speed.voxel_s)
    )
    return speed if usable else None


def measured_speed(predictor: Predictor) -> Speed:
    """That of one window, run now: for the first forecast of a bundle."""
    window = torch.zeros((predictor.task.in_channels, *predictor.task.patch_size))
    predictor.logits(window)
    began = time.monotonic()
    predictor.logits(window)
    forwards = len(predictor.models) * 2 ** len(predictor.settings.mirror_axes)
    return Speed(max(time.monotonic() - began, 1e-6) / forwards, USUAL_VOXEL_S)


def speed_of(outcomes: Sequence[Outcome]) -> Speed | None:
    """What a run measured; the first case, in which things warm up, counts only if it is alone."""
    done = [one for one in outcomes if one.state == "done" and one.forwards and one.image_voxels]
    if not done:
        return None
    counted = done[1:] or done
    network_s = sum(one.network_s for one in counted)
    around_s = sum(one.read_s + one.write_s for one in counted)
    return Speed(
        network_s / sum(one.forwards for one in counted),
        around_s / sum(one.image_voxels for one in counted),
    )


def keep_speed(folder: Path, predictor: Predictor, bundle_sha256: str, now: Speed) -> bool:
    """Note what was measured, for forecasts to come; False where it cannot be noted."""
    before = kept_speed(folder, predictor, bundle_sha256) or now
    new = Speed(
        NEWEST * now.forward_s + (1 - NEWEST) * before.forward_s,
        NEWEST * now.voxel_s + (1 - NEWEST) * before.voxel_s,
    )
    try:
        write_json(_path(folder, predictor, bundle_sha256), asdict(new))
    except InputFault:
        # A home that cannot be written only makes the next forecast measure again.
        return False
    return True


def _path(folder: Path, predictor: Predictor, bundle_sha256: str) -> Path:
    key = [
        platform.node(),
        platform.machine(),
        platform.processor(),
        os.cpu_count(),
        torch.get_num_threads(),
        _device_name(torch.device(predictor.device)),
        predictor.settings.precision,
        bundle_sha256,
    ]
    return folder / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]}.json"


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
