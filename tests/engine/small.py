"""Small cases, and a network that does what its intensity says: by itself, slowly, or not at all.

Run as a program it is a run of its own: OUT, inputs, seconds a window.
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from medseg.bundle.inputs import Case, NiftiCase
from medseg.bundle.outputs import Outputs
from medseg.engine.job import Job, Outcome, Terms
from medseg.engine.local import run_local
from medseg.inference.predictor import Predictor
from medseg.inference.settings import WalkSettings
from medseg.io.formats import Origin
from medseg.io.nifti import stem, write_volume
from medseg.preprocess.normalise import Normalisation
from medseg.preprocess.record import Preprocessing
from medseg.volume import Grid, LabelTable, Target, Task, Volume

TABLE = LabelTable.from_names({1: "dim", 2: "bright"})
POISON = 77.0


class Levels(nn.Module):
    """Label n where the image is near n; a window with POISON in it raises, as a fault of ours."""

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__()
        self.levels = nn.Parameter(torch.tensor([0.0, 1.0, 2.0]))
        self.seconds = seconds

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        time.sleep(self.seconds)
        if bool((image == POISON).any()):
            raise RuntimeError("PatientName was here")
        return -((image[:, :1] - self.levels.reshape(1, -1, 1, 1, 1)) ** 2)


def predictor(seconds: float = 0.0, **settings: object) -> Predictor:
    return Predictor(
        models=(Levels(seconds),),
        task=Task(("MR",), Target(TABLE), (1.0, 1.0, 1.0), (8, 8, 8)),
        preprocessing=Preprocessing(None, (Normalisation("none"),)),
        settings=WalkSettings(**settings),  # pyright: ignore[reportArgumentType]
    )


def image(path: Path, *, seed: int = 0, poisoned: bool = False) -> Path:
    array = np.random.default_rng(seed).integers(0, 3, (10, 9, 8)).astype(np.float32)
    if poisoned:
        array[3, 3, 3] = POISON
    path.parent.mkdir(parents=True, exist_ok=True)
    grid = Grid.from_spacing((10, 9, 8), (1.0, 1.0, 2.0))
    write_volume(path, Volume(array[None], grid, ("MR",)))
    return path


def images(folder: Path, count: int) -> list[Path]:
    return [image(folder / f"c{n:02d}.nii.gz", seed=n) for n in range(count)]


def job(out: Path, name: str, case: Case, **terms: object) -> Job:
    given: dict = {
        "origin": Origin("small", "1"),
        "bundle_sha256": "b" * 64,
        "pictures": False,
        **terms,
    }
    return Job(name=name, case=case, outputs=Outputs(out), terms=Terms(**given))


def jobs(out: Path, files: list[Path], **terms: object) -> list[Job]:
    return [job(out, stem(file), NiftiCase((file,)), **terms) for file in files]


def states(outcomes: list[Outcome]) -> dict[str, str]:
    return {one.case: one.state for one in outcomes}


if __name__ == "__main__":
    place, source, pause = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])

    def told(outcome: Outcome) -> None:
        print(outcome.case, outcome.state, flush=True)  # noqa: T201

    walker = predictor(pause)
    print("ready", flush=True)  # noqa: T201
    sys.stdin.readline()
    run_local(walker, jobs(place, sorted(source.glob("*.nii.gz"))), settle=told)
