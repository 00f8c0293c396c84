"""What it saves a prediction to keep freed memory from window to window, and what it costs.

A residual-encoder UNet labels a volume of noise by `Predictor.label`, in processes of their own, in
turn: as a command of medseg does, and with memory given back at once. Prints processor seconds and
the largest memory above what was held before.

Run: python -m tests.benchmarks.kept_memory [--patch 96] [--side 160] [--repeats 2]
"""

import argparse
import json
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from statistics import median

from medseg.nn.memory import prepare

ROOT = Path(__file__).resolve().parents[2]
FORMS = {"given back at once": False, "kept, in large pages": True}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patch", type=int, default=96)
    parser.add_argument("--side", type=int, default=160)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--child", choices=FORMS)
    asked = parser.parse_args()
    if asked.child:
        sys.stdout.write(json.dumps(_labeled(asked.patch, asked.side, keeps=FORMS[asked.child])))
        return
    told: dict[str, list[dict]] = {name: [] for name in FORMS}
    for _ in range(asked.repeats):
        for name in FORMS:
            told[name].append(_in_child(name, asked.patch, asked.side))
    machine = told["given back at once"][0]["machine"]
    print(f"{machine}; {asked.side}^3 voxels, patch {asked.patch}")
    print("| memory | processor seconds | MB above |\n|---|---|---|")
    for name, runs in told.items():
        seconds, above = (median(run[key] for run in runs) for key in ("seconds", "above"))
        print(f"| {name} | {seconds:.1f} | {above / 1e6:.0f} |")


def _in_child(name: str, patch: int, side: int) -> dict:
    module = "tests.benchmarks.kept_memory"
    numbers = ["--patch", str(patch), "--side", str(side)]
    command = [sys.executable, "-m", module, *numbers, "--child", name]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def _labeled(patch: int, side: int, *, keeps: bool) -> dict:
    """Of the second of two runs."""
    if keeps:
        prepare()
    import numpy as np
    import torch

    from medseg.inference.predictor import Predictor
    from medseg.inference.walk import Walk
    from medseg.models.nnunet import residual_unet
    from medseg.preprocess.normalise import Normalisation
    from medseg.preprocess.record import Preprocessing
    from medseg.volume import Grid, LabelTable, Target, Task, Volume
    from tests.benchmarks.measured import machine, measured

    torch.set_num_threads(1)
    if not keeps:
        Walk.memory = lambda _: nullcontext()
    size, shape = (patch, patch, patch), (side, side, side)
    network = residual_unet(
        in_channels=1, out_channels=4, patch_size=size, spacing_mm=(1, 1, 1), deep_supervision=False
    )
    table = LabelTable.from_names({1: "a", 2: "b", 3: "c"})
    predictor = Predictor(
        models=(network,),
        task=Task(("CT",), Target(table), (1.0, 1.0, 1.0), size),
        preprocessing=Preprocessing((1.0, 1.0, 1.0), (Normalisation("none"),)),
    )
    noise = np.random.default_rng(0).standard_normal((1, *shape)).astype(np.float32)
    prepared = predictor.prepare(Volume(noise, Grid.from_spacing(shape), ("CT",)))
    predictor.label(prepared)
    found = measured(lambda: predictor.label(prepared))
    return {"seconds": found.seconds, "above": found.above, "machine": machine()}


if __name__ == "__main__":
    main()
