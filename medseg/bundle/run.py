"""A training run: a recipe and a data set in, a run folder with a bundle out.

The folder `<output>/<recipe>/fold_<n>/` holds the resolved recipe, split, plan, log, pictures,
checkpoints and the bundle. Here the sections of a recipe meet the parts they build.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from medseg.bundle.bundle import save_bundle
from medseg.bundle.held_out import RECIPE, SPLIT
from medseg.bundle.planned import Planned, settle
from medseg.data.cache import Prepared, cache_folder, prepare
from medseg.data.cases import Listing, open_listing
from medseg.data.loader import SegmentationData
from medseg.data.splits import Split, load_split
from medseg.fault import InputFault
from medseg.inference.walk import sliding_window
from medseg.io.atomic import write_json, write_text
from medseg.io.claim import alone_in
from medseg.progress import Listener, silent
from medseg.recipe.recipe import Recipe
from medseg.training import checkpoints
from medseg.training.fit import FitResult, fit
from medseg.training.module import SegmentationModule
from medseg.training.trainer import is_first_rank, refuse_absent_gpus


@dataclass(frozen=True)
class Run:
    """A finished run."""

    folder: Path
    bundle: Path
    split: Split
    best_score: float
    steps: int
    seconds: float


def run_folder(output: Path, recipe: Recipe) -> Path:
    """Where the run of `recipe` lies under `output`."""
    return output / recipe.name / f"fold_{recipe.data.fold}"


def train_run(
    recipe: Recipe, *, folder: Path, resume: bool = False, listener: Listener = silent
) -> Run:
    """Carry out the recipe in `folder`, or continue there.

    Raises:
        InputFault: what the user can mend, from a missing data set (E_NODATA) to a folder that
            holds another run, or one that another process carries out (E_RUN).
    """
    if not is_first_rank():
        return _train_run(recipe, folder=folder, resume=resume, listener=listener)
    _refuse_folder(folder, resume=resume)
    with alone_in(folder, "run"):
        return _train_run(recipe, folder=folder, resume=resume, listener=listener)


def _train_run(recipe: Recipe, *, folder: Path, resume: bool, listener: Listener) -> Run:
    refuse_absent_gpus(recipe.trainer.accelerator, recipe.trainer.devices)
    listing = open_listing(recipe.card, recipe.data.root)
    split = _split(recipe, listing, folder, resume=resume)
    cache = Path(recipe.data.cache) if recipe.data.cache else folder.parent / "cache"
    planned = settle(recipe, listing, cache=cache, listener=listener)
    torch.manual_seed(recipe.trainer.seed)
    model = recipe.build_network(planned.task)
    if not checkpoints.exist(folder / "checkpoints"):
        recipe.model.load_pretrained(model)
    prepared = prepare(
        listing,
        planned.preprocessing,
        cache_folder(cache, listing, planned.preprocessing),
        workers=recipe.trainer.workers,
        listener=listener,
    )
    if not resume:
        _keep(folder, recipe, split, planned)
    result = _fit(recipe, model, prepared, split, planned, folder, listener, resume=resume)
    model.load_state_dict(checkpoints.load_checkpoint(result.best_checkpoint)["model"])
    if is_first_rank():
        # What a resumed run may change (devices, paths, times) is kept as it was at the end.
        write_text(folder / RECIPE, recipe.to_yaml())
        _save(recipe, model, planned, folder, result)
    return Run(
        folder=folder,
        bundle=folder / "bundle",
        split=split,
        best_score=result.best_score,
        steps=result.steps,
        seconds=result.seconds,
    )


def _fit(
    recipe: Recipe,
    model: nn.Module,
    prepared: Prepared,
    split: Split,
    planned: Planned,
    folder: Path,
    listener: Listener,
    *,
    resume: bool,
) -> FitResult:
    trainer = recipe.trainer
    data = SegmentationData(
        prepared=prepared,
        split=split,
        task=planned.task,
        batch_size=planned.batch_size,
        total_steps=trainer.epochs * trainer.steps_per_epoch,
        foreground_share=trainer.foreground_share,
        augmentation=recipe.augment.build(),
        seed=trainer.seed,
        workers=trainer.workers,
    )
    module = SegmentationModule(
        model=model,
        loss=recipe.loss.build(),
        target=planned.task.target,
        optimizer=recipe.optimizer.build(),
        schedule=recipe.schedule.build(),
        gradient_clip=trainer.gradient_clip,
        seed=trainer.seed,
    )

    def infer(network: nn.Module, image: Tensor) -> Tensor:
        return sliding_window(
            network,
            image,
            patch_size=planned.task.patch_size,
            overlap=recipe.predict.overlap,
            batch_size=recipe.predict.batch_size,
        )

    return fit(
        module=module,
        data=data,
        settings=trainer.build(),
        folder=folder,
        infer=infer,
        identity=_identity(recipe, planned, split),
        listener=listener,
        resume=resume,
    )


def _identity(recipe: Recipe, planned: Planned, split: Split) -> dict[str, str]:
    """What a resumed run must share with the one it continues."""
    trainer = recipe.trainer
    return {
        "model": recipe.model.model_dump_json(),
        "optimizer": recipe.optimizer.model_dump_json(),
        "schedule": recipe.schedule.model_dump_json(),
        "loss": recipe.loss.model_dump_json(),
        "augment": recipe.augment.model_dump_json(),
        "preprocessing": planned.preprocessing.digest(),
        "patch and batch": f"{planned.task.patch_size} {planned.batch_size}",
        "seed": str(trainer.seed),
        "gradient_clip": str(trainer.gradient_clip),
        "average": str(trainer.average),
        "foreground_share": str(trainer.foreground_share),
        "ranks": str(trainer.devices),
        "steps": f"{trainer.epochs} x {trainer.steps_per_epoch}",
        "split": f"{len(split.train)} + {len(split.validation)} cases, {split.origin}",
    }


def _refuse_folder(folder: Path, *, resume: bool) -> None:
    if not resume and checkpoints.exist(folder / "checkpoints"):
        raise InputFault(
            f"{folder}: a run is there already; continue it with --resume, or choose another "
            "--output, name or fold.",
            code="E_RUN",
        )
    if resume and not (folder / "checkpoints").is_dir():
        raise InputFault(
            f"{folder}: there is no run to resume; start it without --resume.", code="E_RUN"
        )


def _split(recipe: Recipe, listing: Listing, folder: Path, *, resume: bool) -> Split:
    stored = folder / SPLIT
    if resume and stored.is_file():
        return load_split(stored, listing.cases)
    return recipe.data.split(listing)


def _keep(folder: Path, recipe: Recipe, split: Split, planned: Planned) -> None:
    write_text(folder / RECIPE, recipe.to_yaml())
    write_json(folder / SPLIT, split.to_json())
    write_json(folder / "plan.json", planned.to_json())


def _save(
    recipe: Recipe, model: nn.Module, planned: Planned, folder: Path, result: FitResult
) -> None:
    save_bundle(
        folder / "bundle",
        model=model,
        recipe=recipe,
        task=planned.task,
        preprocessing=planned.preprocessing,
        training={
            "fold": recipe.data.fold,
            "steps": result.steps,
            "seconds": round(result.seconds, 1),
            "validation_dice": round(result.best_score, 6),
        },
        channel_rules=recipe.card.channel_rules,
        postprocess=[rule.build() for rule in recipe.postprocess],
    )
