"""The peak memory of `medseg predict` on a large case, under a budget.

A network of one layer and a head stands in for a trained one, so that what is measured surrounds
it: reading, windows, export, writing. Prints seconds, and the most that all processes held.

Run: python -m tests.benchmarks.large_case [--shape 512 512 600] [--classes 117] [--max-ram 4GB]
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import nibabel
import numpy as np
import torch

from medseg.bundle.bundle import save_bundle
from medseg.bundle.rebuilt import build_model
from medseg.models.shape import ShapePolicy
from medseg.preprocess.normalise import Normalisation
from medseg.preprocess.record import Preprocessing
from medseg.volume import LabelTable, Target, Task
from tests.benchmarks.measured import machine
from tests.benchmarks.nnunet_predict import run
from tests.benchmarks.window_walk import Cheap, image_of

TARGET = "tests.benchmarks.large_case:StandIn"
RECIPE = {"name": "stand_in", "model": {"name": "custom", "target": TARGET}}
ROOT = Path(__file__).resolve().parents[2]


class StandIn(Cheap):
    """A network that costs next to nothing."""

    shape_policy = ShapePolicy()

    def __init__(self, *, in_channels: int, out_channels: int) -> None:
        assert in_channels == 1
        super().__init__(out_channels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", type=int, nargs=3, default=(512, 512, 600))
    parser.add_argument("--classes", type=int, default=117)
    parser.add_argument("--patch", type=int, default=128)
    parser.add_argument("--max-ram", default="4GB")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        _write_case(root / "case.nii", asked.shape)
        _write_bundle(root / "bundle", asked.classes, asked.patch)
        files = [str(root / "bundle"), str(root / "case.nii"), "-o", str(root / "out")]
        asks = ["--max-ram", asked.max_ram, "--trust-code", "--no-pictures", "--device", "cpu"]
        environment = {
            **os.environ,  # noqa: TID251 (of the command that is measured)
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}",
        }
        command = [sys.executable, "-m", "medseg.cli", "predict", *files, *asks, "--quiet"]
        cost = run(command, environment)
        assert nibabel.nifti1.load(root / "out" / "case.nii.gz").shape == tuple(asked.shape)
        size = "x".join(map(str, asked.shape))
        print(f"{machine()}; {size} voxels, {asked.classes} classes, --max-ram {asked.max_ram}")
        print(
            f"{cost.seconds:.0f} s, {cost.cpu_seconds:.0f} processor seconds, {cost.peak_mb:.0f} MB"
        )


def _write_case(path: Path, shape: tuple[int, int, int]) -> None:
    image = image_of(shape)[0].numpy()
    nibabel.nifti1.save(nibabel.nifti1.Nifti1Image(image, np.eye(4)), path)


def _write_bundle(folder: Path, classes: int, patch: int) -> None:
    table = LabelTable.from_names({n: f"organ {n}" for n in range(1, classes)})
    task = Task(("CT",), Target(table), (1.0, 1.0, 1.0), (patch, patch, patch))
    torch.manual_seed(0)
    save_bundle(
        folder,
        model=build_model(RECIPE, task),
        recipe=RECIPE,
        task=task,
        preprocessing=Preprocessing(None, (Normalisation("none"),)),
        training={},
    )


if __name__ == "__main__":
    main()
