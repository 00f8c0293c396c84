"""The demo of a recipe: train on synthetic subjects, score on others, against no training."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from medseg.bundle.bundle import load_bundle
from medseg.bundle.inputs import NiftiCase
from medseg.bundle.outputs import Outputs
from medseg.bundle.predict import predict_case
from medseg.bundle.run import Run, run_folder, train_run
from medseg.data.cases import Case, Listing, open_listing
from medseg.data.phantom.dataset import make_phantom
from medseg.evaluation.evaluate import Evaluation, evaluate
from medseg.evaluation.report import write_report
from medseg.inference.predictor import Predictor
from medseg.inference.settings import WalkSettings
from medseg.io.nifti import read_labels, read_volume
from medseg.progress import Listener, silent
from medseg.recipe.demo import demo_recipe
from medseg.recipe.recipe import Recipe
from medseg.training import checkpoints
from medseg.training.picture import write_picture
from medseg.volume import Task

SUBJECTS = 24
UNSEEN = 3
SEED, UNSEEN_SEED = 1, 2


@dataclass(frozen=True)
class DemoScores:
    """Dice on unseen subjects by name, without and with training, and where things lie."""

    subjects: int
    untrained: dict[str, float]
    trained: dict[str, float]
    bundle: Path
    unseen: Path
    report: Path
    picture: Path

    @property
    def untrained_mean(self) -> float:
        """Mean Dice of the network before training."""
        return float(np.mean(list(self.untrained.values())))

    @property
    def trained_mean(self) -> float:
        """Mean Dice of the network after training."""
        return float(np.mean(list(self.trained.values())))


def run_demo(recipe: Recipe, *, output: Path, listener: Listener = silent) -> DemoScores:
    """Make a synthetic set, train on it in `output`, and score unseen subjects.

    The unseen subjects are of another seed: no network or best checkpoint was chosen on them. A
    demo that was interrupted continues.
    """
    folder = output / f"{recipe.name}_demo"
    card = recipe.card
    spacing = None if isinstance(recipe.plan.spacing_mm, str) else recipe.plan.spacing_mm
    root, unseen = (
        make_phantom(
            card,
            folder / name,
            subjects=subjects,
            seed=seed,
            spacing_mm=spacing,
            listener=listener,
        )
        for name, subjects, seed in (("data", SUBJECTS, SEED), ("unseen", UNSEEN, UNSEEN_SEED))
    )
    small = demo_recipe(recipe, root=str(root))
    place = run_folder(output, small)
    began = checkpoints.exist(place / "checkpoints")
    run = train_run(small, folder=place, resume=began, listener=listener)
    listing = open_listing(card, unseen)
    trained = load_bundle(run.bundle, trust_code=True).predictor(device="cpu")
    before = _evaluation(_untrained(small, trained), listing, run.folder / "untrained", listener)
    after = _evaluation(trained, listing, run.folder / "trained", listener)
    report = write_report(
        after, run.folder / "evaluation", title=f"Demo of {recipe.name} (synthetic)"
    )
    return DemoScores(
        subjects=len(listing.cases),
        untrained=_dice(before),
        trained=_dice(after),
        bundle=run.bundle,
        unseen=unseen,
        report=report.page,
        picture=_picture(run, listing.cases[0], trained.task),
    )


def _untrained(recipe: Recipe, trained: Predictor) -> Predictor:
    torch.manual_seed(recipe.trainer.seed)
    return Predictor(
        models=(recipe.build_network(trained.task),),
        task=trained.task,
        preprocessing=trained.preprocessing,
        settings=WalkSettings(overlap=recipe.predict.overlap),
    )


def _evaluation(
    predictor: Predictor, listing: Listing, folder: Path, listener: Listener
) -> Evaluation:
    for case in listing.cases:
        predict_case(predictor, NiftiCase(case.images), Outputs(folder), case.id, listener=listener)
    return evaluate(folder, listing, predictor.task.target, listener=listener)


def _dice(evaluation: Evaluation) -> dict[str, float]:
    return {name: float(np.mean(evaluation.values(name, "dice"))) for name in evaluation.headline}


def _picture(run: Run, case: Case, task: Task) -> Path:
    path = run.folder / "demo.png"
    assert case.label is not None
    table = task.target.labels
    write_picture(
        path,
        image=read_volume(case.images, task.channels).array,
        truth=read_labels(case.label, table).array,
        prediction=read_labels(run.folder / "trained" / f"{case.id}.nii.gz", table).array,
        target=task.target,
        title=f"{case.id}: synthetic subject, not seen in training",
    )
    return path
