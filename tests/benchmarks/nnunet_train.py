"""Dice for minutes of one thread: nnU-Net's training against a recipe's, on the same cases.

Both train on the recipe's fold, predict its validation cases, and are scored by `medseg evaluate`.
nnU-Net plans, preprocesses, trains and predicts by its own code: its own plan (3d_fullres), batch
and schedule, drawn to as many steps as fit into the minutes at the pace of a few that it takes
first. Of its validation between epochs one batch is left. Both are to its advantage. The recipe
trains with `trainer.max_time`. What comes before the first step counts for neither.

Run: python -m tests.benchmarks.nnunet_train RECIPE [OVERRIDE ...] -o FOLDER --minutes 25
     [--sides nnunet medseg] [--name "16 features"] [--picture curve.png]

Every run stays in FOLDER, and the table and the picture show all that stand there. `--name` tells
runs of other settings of the recipe apart.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from medseg.data.card import load_card
from medseg.data.cases import Listing, open_listing
from medseg.data.splits import Split
from medseg.recipe import load_recipe
from tests.benchmarks.measured import machine

DATASET, NUMBER = "Dataset999_Peer", 999
EPOCHS = 20  # nnU-Net lowers its rate from epoch to epoch
TIMED_STEPS = 5
LOWEST_DRAWN = 0.8


@dataclass(frozen=True)
class Fold:
    """The cases of the recipe's data set, and which of them are trained on."""

    card: str
    listing: Listing
    split: Split

    @classmethod
    def of(cls, recipe: str, overrides: list[str]) -> "Fold":
        data = load_recipe(recipe, overrides).data
        listing = open_listing(load_card(data.card), data.root)
        if any(len(case.images) != len(listing.channels) for case in listing.cases):
            raise SystemExit(f"{data.root}: nnU-Net takes a file a channel, and these are 4D.")
        return cls(data.card, listing, data.split(listing))

    def score(self, run: Path) -> None:
        """Score `run`/labels into `run`/report."""
        names = ",".join(self.split.validation)
        truth = (self.listing.root, "--card", self.card, "--cases", names)
        call("medseg", "evaluate", run / "labels", *truth, "-o", run / "report")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("-o", "--folder", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument("--sides", nargs="*", choices=list(SIDES), default=list(SIDES))
    parser.add_argument("--name", help="of the recipe's run, in the table: medseg")
    parser.add_argument("--picture", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    fold = Fold.of(args.recipe, args.overrides)
    for side in args.sides:
        name = args.name if side == "medseg" and args.name else side
        run = args.folder.resolve() / f"{name} {args.minutes:g}".replace(" ", "_")
        run.mkdir(parents=True)
        os.environ.update(environment(run))  # noqa: TID251 (nnU-Net reads its folders there)
        steps = SIDES[side](args, fold, run)
        note = {"name": name, "minutes": args.minutes, "steps": steps, "machine": machine()}
        (run / "note.json").write_text(json.dumps(note))
    show(args.folder, args.picture)


def environment(run: Path) -> dict[str, str]:
    """nnU-Net's three folders, and one thread for everything."""
    threads = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    folders = ("raw", "preprocessed", "results")
    return {
        **{f"nnUNet_{name}": str(run / name) for name in folders},
        **dict.fromkeys(threads, "1"),
        "nnUNet_def_n_proc": "1",
        "nnUNet_n_proc_DA": "1",
        "nnUNet_compile": "f",
    }


def nnunet(args: argparse.Namespace, fold: Fold, run: Path) -> int:
    """Train nnU-Net, predict and score; the number of its steps."""
    prepare(fold, run)
    os.environ.update(nnUNet_n_proc_DA="0")  # noqa: TID251 (batches are made in this process)
    from nnunetv2.run.run_training import get_trainer_from_args

    trainer = get_trainer_from_args(DATASET, "3d_fullres", 0, device=torch.device("cpu"))
    steps = fitting_steps(trainer, args.minutes * 60)
    trainer.num_epochs = EPOCHS
    trainer.num_iterations_per_epoch = max(steps // EPOCHS, 1)
    trainer.num_val_iterations_per_epoch = 1
    trainer.run_training()
    images = run / "images"
    for name in fold.split.validation:
        link_images(fold, name, images)
    call(
        "nnUNetv2_predict_from_modelfolder",
        *("-i", images, "-o", run / "labels", "-m", trainer.output_folder_base),
        *("-f", 0, "-device", "cpu", "-npp", 1, "-nps", 1, "--disable_progress_bar"),
    )
    fold.score(run)
    return trainer.num_epochs * trainer.num_iterations_per_epoch


def prepare(fold: Fold, run: Path) -> None:
    """The data set in nnU-Net's layout with the split, planned and preprocessed by nnU-Net."""
    raw, listing = run / "raw" / DATASET, fold.listing
    for case in listing.cases:
        link_images(fold, case.id, raw / "imagesTr")
        link(case.label, raw / "labelsTr" / f"{case.id}.nii.gz")
    about = {
        "channel_names": {str(n): name for n, name in enumerate(listing.channels)},
        "labels": {"background": 0, **{label.name: label.value for label in listing.labels.labels}},
        "numTraining": len(listing.cases),
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(about))
    call("nnUNetv2_plan_and_preprocess", "-d", NUMBER, "-c", "3d_fullres", "-npfp", 1, "-np", 1)
    split = {"train": list(fold.split.train), "val": list(fold.split.validation)}
    (run / "preprocessed" / DATASET / "splits_final.json").write_text(json.dumps([split]))


def fitting_steps(trainer: Any, seconds: float) -> int:
    """How many of nnU-Net's steps the time allows, by the median of a few after the first."""
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    taken = []
    for _ in range(TIMED_STEPS + 1):
        began = time.monotonic()
        trainer.train_step(next(trainer.dataloader_train))
        taken.append(time.monotonic() - began)
    step = sorted(taken[1:])[TIMED_STEPS // 2]
    print(f"nnU-Net: {step:.2f} s a step")
    return int(seconds / step)


def medseg(args: argparse.Namespace, fold: Fold, run: Path) -> int:
    """Train the recipe, predict and score; the number of its steps."""
    most = f"trainer.max_time={args.minutes}"
    call("medseg", "train", args.recipe, *args.overrides, most, "-o", run / "results")
    trained = next(run.glob("results/*/fold_*"))
    call("medseg", "predict", trained / "bundle", trained, "-o", run / "labels")
    fold.score(run)
    with (trained / "log.csv").open(encoding="utf-8") as file:
        return max(int(row["step"]) for row in csv.DictReader(file))


SIDES = {"nnunet": nnunet, "medseg": medseg}


def show(folder: Path, picture: Path | None) -> None:
    """All runs that stand in `folder`, as a table, and their Dice as a picture."""
    print("| minutes | | steps | Dice (95 % interval) | NSD 1 mm | HD95 mm | machine |")
    print("|---|---|---|---|---|---|---|")
    notes = [(json.loads(path.read_text()), path.parent) for path in folder.glob("*/note.json")]
    curves = []
    for note, run in sorted(notes, key=lambda pair: (pair[0]["minutes"], pair[0]["name"])):
        with (run / "report" / "summary.csv").open(encoding="utf-8") as file:
            rows = {row["metric"]: row for row in csv.DictReader(file) if row["name"] == "mean"}
        dice, nsd, away = (rows[name] for name in ("dice", "nsd", "hd95_mm"))
        interval = f"{float(dice['low']):.3f} to {float(dice['high']):.3f}"
        print(
            f"| {note['minutes']:g} | {note['name']} | {note['steps']} "
            f"| {float(dice['mean']):.4f} ({interval}) | {float(nsd['mean']):.3f} "
            f"| {float(away['mean'] or 'nan'):.2f} | {note['machine']} |"
        )
        end = (note["minutes"], float(dice["mean"]))
        curves.append((note["name"], [*validations(run)[:-1], end]))
    if picture:
        draw(curves, picture)


def validations(run: Path) -> list[tuple[float, float]]:
    """Minutes and mean Dice of each validation that a run of medseg logged."""
    found = []
    for log in run.glob("results/*/fold_*/log.csv"):
        with log.open(encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["dice"]]
        found += [(float(row["seconds"]) / 60, float(row["dice"])) for row in rows]
    return found


def draw(curves: list[tuple[str, list[tuple[float, float]]]], path: Path) -> None:
    """A line a run, with a dot where it ended and was scored."""
    figure = Figure(figsize=(6.4, 3.2), dpi=130, layout="constrained")
    axes = figure.subplots()
    names = list(dict.fromkeys(name for name, _ in curves))
    for name, curve in curves:
        color = f"C{names.index(name)}"
        axes.plot(*zip(*curve, strict=True), color=color, linewidth=1)
        axes.plot(*curve[-1], "o", color=color, markersize=5)
    for number, name in enumerate(names):
        axes.plot([], [], "o-", color=f"C{number}", label=name)
    axes.set(
        xlabel="minutes of training, one thread",
        ylabel="validation Dice",
        xlim=(0, None),
        ylim=(LOWEST_DRAWN, None),
    )
    axes.grid(visible=True, alpha=0.3)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(path)


def link_images(fold: Fold, name: str, folder: Path) -> None:
    """The files of a case, one a channel, named as nnU-Net reads them."""
    for number, image in enumerate(fold.listing.case(name).images):
        link(image, folder / f"{name}_{number:04d}.nii.gz")


def link(file: Path | None, place: Path) -> None:
    assert file is not None
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(file.resolve())


def call(command: str, *arguments: Any) -> None:
    """A command of this environment, which must end well."""
    program = Path(sys.executable).parent / command
    words = [str(program), *map(str, arguments)]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise SystemExit(f"{command}: {done.stdout.decode()[-3000:]}")


if __name__ == "__main__":
    main()
