"""Train a network: the settings of a run, and the one function that carries it out."""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytorch_lightning as pl

from medseg.fault import InputFault
from medseg.progress import Listener, silent
from medseg.training import checkpoints
from medseg.training.conductor import Conductor, Rhythm
from medseg.training.module import SegmentationModule
from medseg.training.validation import Infer

Precision = Literal["32-true", "bf16-mixed", "bf16-true"]


@dataclass(frozen=True)
class Settings:
    """How long and how a run trains.

    Attributes:
        epochs: epochs of `steps_per_epoch` steps.
        max_time_s: the run ends after so many seconds over all its sessions, its schedule done.
        precision: of the network; the loss is always in float32.
        validate_every: epochs between validations; the last step is always followed by one.
        checkpoint_every: steps between checkpoints, within an epoch too.
        picture_every: epochs between validation pictures.
    """

    epochs: int = 100
    steps_per_epoch: int = 100
    max_time_s: float | None = None
    precision: Precision = "32-true"
    validate_every: int = 5
    checkpoint_every: int = 100
    picture_every: int = 25
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int = 1
    strategy: str = "auto"


@dataclass(frozen=True)
class FitResult:
    """Where the checkpoints of a finished run lie, and how it went."""

    best_checkpoint: Path
    last_checkpoint: Path
    best_score: float
    steps: int
    seconds: float


def fit(
    *,
    module: SegmentationModule,
    data: pl.LightningDataModule,
    settings: Settings,
    folder: Path,
    infer: Infer,
    identity: Mapping[str, str],
    listener: Listener = silent,
    resume: bool = False,
) -> FitResult:
    """Train `module` on `data` into `folder`, or continue there.

    `data` has `start_step` (set here) and `validation_cases()`; its training batches follow from
    the step alone. `infer` gives logits (out, i, j, k) of a preprocessed image (c, i, j, k).
    `identity` names model and data set, so that no other run is continued by mistake.

    Raises:
        InputFault: nothing to resume, a checkpoint of another run (E_CHECKPOINT), or a loss or
            gradient that is not finite (E_LOSS).
    """
    content = checkpoints.load_last(folder / "checkpoints") if resume else None
    if content is not None:
        checkpoints.refuse_other_run(content, dict(identity), folder)
        refuse_other_model(content["model"], module)
    conductor = Conductor(
        folder=folder,
        rhythm=_rhythm(settings),
        infer=infer,
        identity=identity,
        listener=listener,
        content=content,
    )
    if conductor.progress < 1.0:
        data.start_step = conductor.state.step  # type: ignore[attr-defined]
        with _quiet_lightning():
            trainer = _trainer(settings, conductor, folder)
            trainer.fit(module, datamodule=data)
    return FitResult(
        best_checkpoint=folder / "checkpoints" / checkpoints.BEST,
        last_checkpoint=folder / "checkpoints" / checkpoints.LAST,
        best_score=conductor.state.best_score,
        steps=conductor.state.step,
        seconds=conductor.state.seconds,
    )


def refuse_other_model(weights: Mapping[str, object], module: SegmentationModule) -> None:
    """Raise InputFault where checkpoint and network differ in names or shapes of weights."""
    ours = {name: tuple(value.shape) for name, value in module.model.state_dict().items()}
    theirs = {name: tuple(value.shape) for name, value in weights.items()}  # type: ignore[attr-defined]
    different = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
    if different:
        shown = ", ".join(
            f"{name} {theirs.get(name, 'absent')} not {ours.get(name, 'absent')}"
            for name in different[:3]
        )
        raise InputFault(
            f"the checkpoint is of another network: {len(different)} weights differ ({shown}). "
            "Resume with the model section it was trained with.",
            code="E_CHECKPOINT",
        )


def _rhythm(settings: Settings) -> Rhythm:
    steps = settings.steps_per_epoch
    return Rhythm(
        total_steps=settings.epochs * steps,
        epoch_steps=steps,
        validate_steps=settings.validate_every * steps,
        checkpoint_steps=settings.checkpoint_every,
        picture_steps=settings.picture_every * steps,
        max_seconds=settings.max_time_s,
    )


def _trainer(settings: Settings, conductor: Conductor, folder: Path) -> pl.Trainer:
    return pl.Trainer(
        accelerator=settings.accelerator,
        devices=settings.devices,
        strategy=settings.strategy,
        precision=settings.precision,
        max_epochs=1,
        callbacks=[conductor],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        default_root_dir=folder,
    )


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Lightning's advice and notices are for its own users; ours see progress events."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning.pytorch")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        for message in (
            ".*does not have many workers.*",
            ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",
            ".*GPU available but not used.*",
            ".*defined a `validation_step`.*",
        ):
            warnings.filterwarnings("ignore", message=message)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
