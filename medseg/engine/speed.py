"""How fast this machine is with a bundle: measured while it works, kept, and used to forecast."""

import hashlib
import json
import math
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch

from medseg.engine.job import Outcome
from medseg.fault import InputFault
from medseg.inference.predictor import Predictor
from medseg.io.atomic import write_json

# Where nothing was measured yet: reading, preprocessing and writing of a voxel, and what each case
# takes whatever its size (its picture, its receipt), on a core of the 2020s.
USUAL_VOXEL_S, USUAL_CASE_S = 2e-7, 0.1
# Sizes that differ so much tell what is of a voxel and what of a case.
APART = 2.0
# The first case warms up, so a run of one tells nothing.
FEWEST = 2
# How much the newest run counts.
NEWEST = 0.5


@dataclass(frozen=True)
class Speed:
    """Seconds of one forward of a network (with its share of the export), and beside it.

    `voxel_s` is for each voxel of the source, `case_s` for each case.
    """

    forward_s: float
    voxel_s: float
    case_s: float

    def around_s(self, voxels: int) -> float:
        """What an image of so many voxels takes beside the network."""
        return self.case_s + voxels * self.voxel_s


def kept_speed(folder: Path, predictor: Predictor, bundle_sha256: str) -> Speed | None:
    """What earlier runs measured on this machine; None where there is nothing."""
    try:
        data = json.loads(_path(folder, predictor, bundle_sha256).read_text("utf-8"))
        numbers = [float(data[field.name]) for field in fields(Speed)]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    usable = all(math.isfinite(number) and number >= 0 for number in numbers) and numbers[0] > 0
    return Speed(*numbers) if usable else None


def measured_speed(predictor: Predictor) -> Speed:
    """That of one window, run now: for the first forecast of a bundle."""
    window = torch.zeros((predictor.task.in_channels, *predictor.task.patch_size))
    predictor.logits(window)
    began = time.monotonic()
    predictor.logits(window)
    forwards = len(predictor.models) * 2 ** len(predictor.settings.mirror_axes)
    return Speed(max(time.monotonic() - began, 1e-6) / forwards, USUAL_VOXEL_S, USUAL_CASE_S)


def speed_of(outcomes: Sequence[Outcome]) -> Speed | None:
    """What a run measured after its first case, in which things warm up; None of a run of one."""
    done = [one for one in outcomes if one.state == "done" and one.forwards and one.image_voxels]
    if len(done) < FEWEST:
        return None
    counted = done[1:]
    forward_s = sum(one.network_s for one in counted) / sum(one.forwards for one in counted)
    return Speed(forward_s, *_around(counted))


def _around(outcomes: Sequence[Outcome]) -> tuple[float, float]:
    """Seconds of a voxel and of a case, beside the network."""
    voxels = np.array([one.image_voxels for one in outcomes], dtype=float)
    seconds = np.array([one.read_s + one.write_s for one in outcomes])
    if voxels.max() >= APART * voxels.min():
        voxel_s, case_s = np.polyfit(voxels, seconds, 1)
        if voxel_s > 0 and case_s >= 0:
            return float(voxel_s), float(case_s)
    voxel_s = min(USUAL_VOXEL_S, float((seconds / voxels).mean()))
    return voxel_s, max(float((seconds - voxel_s * voxels).mean()), 0.0)


def keep_speed(folder: Path, predictor: Predictor, bundle_sha256: str, now: Speed) -> bool:
    """Note what was measured, for forecasts to come; False where it cannot be noted."""
    before = kept_speed(folder, predictor, bundle_sha256) or now
    new = Speed(
        *(
            NEWEST * getattr(now, field.name) + (1 - NEWEST) * getattr(before, field.name)
            for field in fields(Speed)
        )
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
