"""Labels a long volume in a process of its own and tells, as JSON, what that took."""

import argparse
import hashlib
import json
import resource
import sys

import numpy as np
import torch
from torch import nn

from medseg.fault import InputFault
from medseg.inference import memory
from medseg.inference.predictor import Predictor
from medseg.inference.settings import WalkSettings
from medseg.preprocess.normalise import Normalisation
from medseg.preprocess.record import Preprocessing
from medseg.volume import Grid, LabelTable, Target, Task, Volume

CLASSES, PATCH, SIDE = 60, 32, 64


class Levels(nn.Module):
    """A class an intensity, without a linear last layer: its logits are what is summed."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.Parameter(torch.linspace(-2, 2, CLASSES).reshape(1, -1, 1, 1, 1))
        self.forwards = 0

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        # The meta device is where the walk looks for a last layer, without arithmetic.
        self.forwards += image.device.type == "cpu"
        return (image - self.levels).square_().neg_()


def volume(length: int) -> Volume:
    coarse = np.random.default_rng(0).standard_normal((1, 1, 20, 6, 6)).astype(np.float32)
    shape = (length, SIDE, SIDE)
    smooth = torch.nn.functional.interpolate(torch.from_numpy(coarse), shape, mode="trilinear")
    return Volume(smooth[0].numpy(), Grid.from_spacing(shape), ("CT",))


def predictor(max_ram: int | None) -> Predictor:
    table = LabelTable.from_names({n: f"organ {n}" for n in range(1, CLASSES)})
    return Predictor(
        models=(Levels(),),
        task=Task(("CT",), Target(table), (1.0, 1.0, 1.0), (PATCH, PATCH, PATCH)),
        preprocessing=Preprocessing((1.0, 1.0, 1.0), (Normalisation("none"),)),
        settings=WalkSettings(max_ram=max_ram),
    )


def address_space() -> int:
    line = next(s for s in memory.STATUS.read_text().splitlines() if s.startswith("VmSize"))
    return int(line.split()[1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("length", type=int)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--max-ram", type=int)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    predictor(None).predict(volume(40))
    given = volume(asked.length)
    max_ram = asked.max_ram
    if asked.limit:
        max_ram = memory.resident() + asked.limit
        resource.setrlimit(resource.RLIMIT_AS, (address_space() + asked.limit,) * 2)
    made = predictor(max_ram)
    prepared = made.prepare(given)
    before = memory.resident()
    assert memory.reset_peak()
    told: dict = {"logits": 4 * CLASSES * prepared.image[0].size}
    try:
        labels = made.label(prepared).array
        told["labels"] = hashlib.sha256(labels.tobytes()).hexdigest()
    except InputFault as fault:
        told |= {"code": fault.code, "message": str(fault)}
    network = made.models[0]
    assert isinstance(network, Levels)
    told |= {"above": memory.peak() - before, "forwards": network.forwards}
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main()
