"""The whole of a prediction, command against command: nnU-Net's against `medseg predict`.

A small nnU-Net is trained by nnunetv2 itself and imported; then both label the same images, in
turn, one thread each, and one process of nnU-Net's for preprocessing and one for export. Measured
are the seconds and processor seconds of the command with all its processes, and the most memory
that they held together (proportional set size, looked at ten times a second).

Run: python -m tests.benchmarks.nnunet_predict [--labels 24] [--shape 192 192 120] [--mirror]
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel
import numpy as np

from tests.bundle.nnunet_peer import Peer, affine_of, phantom, train, write_case

NAMES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "nnUNet_def_n_proc")
PEER = "nnunetv2.inference.predict_from_raw_data"
MM = (0.8, 0.8, 1.5)


@dataclass(frozen=True)
class Cost:
    seconds: float
    cpu_seconds: float
    peak_mb: float


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--labels", type=int, default=24)
    parser.add_argument("--shape", type=int, nargs=3, default=(192, 192, 120))
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--images", type=int, default=1)
    parser.add_argument("--mirror", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        compare(Path(name), args)


def compare(root: Path, args: argparse.Namespace) -> None:
    from kernels.benchmarks.machine import machine

    peer = Peer(
        spacing=(1.5, 1.5, 1.5),
        patch=(32, 48, 48),
        labels={"background": 0, **{f"organ {n}": n for n in range(1, args.labels + 1)}},
        trainer="nnUNetTrainer" if args.mirror else "nnUNetTrainerNoMirroring",
        steps=args.steps,
    )
    environment = {
        **os.environ,  # noqa: TID251 (of the commands that are compared)
        **dict.fromkeys(NAMES, str(root)),
        **dict.fromkeys(THREADS, "1"),
    }
    os.environ.update({name: environment[name] for name in NAMES})  # noqa: TID251
    model = train(root / "results", [peer]) / peer.model_name
    for number in range(args.images):
        affine = affine_of("LPS", MM)
        image, _ = phantom(args.shape, affine, seed=number, kinds=args.labels)
        write_case(root / "in", f"case{number}", image, affine)
    medseg = [sys.executable, "-m", "medseg.cli"]
    imported = run([*medseg, "import", "nnunet", str(model), "-o", f"{root}/bundle"], environment)
    entry = f"from {PEER} import predict_entry_point_modelfolder as run; run()"
    theirs = run(
        [
            *(sys.executable, "-W", "ignore", "-c", entry),
            *("-i", f"{root}/in", "-o", f"{root}/theirs", "-m", str(model), "-f", "0"),
            *("-device", "cpu", "-npp", "1", "-nps", "1", "--disable_progress_bar"),
        ],
        environment,
    )
    files = [f"{root}/bundle", f"{root}/in", "-o", f"{root}/ours"]
    ours = run([*medseg, "predict", *files, "--device", "cpu", "--quiet"], environment)
    side, how = "x".join(map(str, args.shape)), "with" if args.mirror else "without"
    print(f"{machine()}; {args.images} image(s) of {side}, {args.labels} labels, {how} mirroring")
    print(f"imported in {imported.seconds:.1f} s")
    show(theirs, ours)
    told_apart(root, root / "ours", "voxels differ")
    rounded(root)
    told_apart(root, root / "rounded", "with nnU-Net's half-precision sums")


def run(command: Sequence[str], environment: dict[str, str]) -> Cost:
    """The cost of a command, which must end well."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began, peak = time.monotonic(), 0.0
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        while process.poll() is None:
            peak = max(peak, sum(held_mb(pid) for pid in family(process.pid)))
            time.sleep(0.1)
        if process.returncode:
            output.seek(0)
            raise SystemExit(f"{command}: {output.read().decode()[-3000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(time.monotonic() - began, cpu, peak)


def family(pid: int) -> list[int]:
    """A process and all that came of it."""
    found = [pid]
    for one in found:
        for file in Path(f"/proc/{one}/task").glob("*/children"):
            try:
                found += [int(child) for child in file.read_text().split()]
            except OSError:
                continue
    return found


def held_mb(pid: int) -> float:
    """What a process holds, shared memory shared out."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def show(theirs: Cost, ours: Cost) -> None:
    print("| | seconds | processor seconds | peak MB |")
    print("|---|---|---|---|")
    for name, cost in (("nnUNetv2_predict", theirs), ("medseg predict", ours)):
        print(f"| {name} | {cost.seconds:.1f} | {cost.cpu_seconds:.1f} | {cost.peak_mb:.0f} |")
    ratios = (
        theirs.seconds / ours.seconds,
        theirs.cpu_seconds / ours.cpu_seconds,
        theirs.peak_mb / ours.peak_mb,
    )
    print("| ratio | " + " | ".join(f"{ratio:.1f}" for ratio in ratios) + " |")


def rounded(root: Path) -> None:
    """Labels with sums over windows in float16, as nnU-Net has them; no command does that."""
    from medseg.bundle.bundle import load_bundle
    from medseg.io.nifti import read_volume, write_labels

    bundle = load_bundle(root / "bundle")
    settings = replace(
        bundle.walk_settings(), sums="float16", blended="logits", kernels="reference"
    )
    predictor = bundle.predictor(settings=settings)
    (root / "rounded").mkdir()
    for path in sorted((root / "in").glob("*.nii.gz")):
        labels = predictor.predict(read_volume([path], bundle.task.channels))
        write_labels(root / "rounded" / path.name.replace("_0000", ""), labels)


def told_apart(root: Path, folder: Path, what: str) -> None:
    for path in sorted((root / "theirs").glob("*.nii.gz")):
        theirs = np.asanyarray(nibabel.load(path).dataobj)
        ours = np.asanyarray(nibabel.load(folder / path.name).dataobj)
        differ = int((theirs != ours).sum())
        print(
            f"{path.name}: {differ} of {theirs.size} {what} ({differ / theirs.size:.1e}); "
            f"nnU-Net found {len(np.unique(theirs)) - 1} labels, {(theirs > 0).mean():.0%} of it"
        )


if __name__ == "__main__":
    main()
