"""Train a network: the settings of a run, and the one function that carries it out."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl

from medseg.fault import InputFault
from medseg.progress import Listener, Progress, silent
from medseg.training import checkpoints
from medseg.training.conductor import Conductor
from medseg.training.examiner import Examiner
from medseg.training.module import SegmentationModule
from medseg.training.rhythm import Rhythm
from medseg.training.trainer import Precision, run_trainer
from medseg.training.validation import Infer


@dataclass(frozen=True)
class Settings:
    """How long and how a run trains.

    Attributes:
        epochs: epochs of `steps_per_epoch` steps.
        max_time_s: the run ends after so many seconds over all its sessions, its schedule done.
        precision: of the network; the loss is always in float32.
        validate_every: epochs between validations; the last step is always followed by one.
            Where no case is held out there is none, and the last weights are the best.
        checkpoint_every: steps between checkpoints, within an epoch too.
        picture_every: epochs between validation pictures; the last step is followed by one.
        strategy: `ddp` for several devices, which `auto` chooses too.
        average: decay of a running average of the weights, which is validated and kept; None
            keeps the weights themselves.
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
    average: float | None = None

    def __post_init__(self) -> None:
        if self.strategy not in ("auto", "ddp"):
            raise InputFault(
                f"trainer.strategy: {self.strategy} is not supported: checkpoints and gradient "
                "clipping hold for whole networks only. Write auto or ddp.",
                code="E_STRATEGY",
            )

    @property
    def rhythm(self) -> Rhythm:
        """The settings in steps."""
        return Rhythm(
            total_steps=self.epochs * self.steps_per_epoch,
            epoch_steps=self.steps_per_epoch,
            validate_steps=self.validate_every * self.steps_per_epoch,
            checkpoint_steps=self.checkpoint_every,
            picture_steps=self.picture_every * self.steps_per_epoch,
            max_seconds=self.max_time_s,
        )


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
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
    listener: Listener = silent,
    resume: bool = False,
) -> FitResult:
    """Train `module` on `data` into `folder`, or continue there.

    `data` has `start_step` (set here) and `validation_cases()`; its training batches follow from
    the step alone. `infer` gives logits (out, i, j, k) of a preprocessed image (c, i, j, k).
    `identity` names model and data set, so that no other run is continued by mistake.

    Raises:
        InputFault: a folder with another run, or none to resume (E_CHECKPOINT); a loss, gradient
            or weight that is not finite (E_LOSS); a reading process that died (E_WORKER).
        KeyboardInterrupt: stopped from outside; the run can be continued.
    """
    content = _content(folder / "checkpoints", resume=resume, listener=listener)
    if content is not None:
        checkpoints.refuse_other_run(content, identity, folder)
        checkpoints.refuse_other_model(content, module.model.state_dict(), folder)
    conductor = Conductor(
        folder=folder,
        rhythm=settings.rhythm,
        identity=identity,
        examiner=Examiner(infer=infer, spacing_mm=spacing_mm, listener=listener),
        listener=listener,
        average=settings.average,
        content=content,
    )
    if conductor.progress < 1.0:
        data.start_step = conductor.state.step  # type: ignore[attr-defined]
        run_trainer(
            module,
            data,
            conductor,
            folder=folder,
            precision=settings.precision,
            accelerator=settings.accelerator,
            devices=settings.devices,
            strategy=settings.strategy,
        )
    return FitResult(
        best_checkpoint=folder / "checkpoints" / checkpoints.BEST,
        last_checkpoint=folder / "checkpoints" / checkpoints.LAST,
        best_score=conductor.state.best_score,
        steps=conductor.state.step,
        seconds=conductor.state.seconds,
    )


def _content(folder: Path, *, resume: bool, listener: Listener) -> dict[str, Any] | None:
    """The checkpoint to continue from; None where the run begins."""
    if not checkpoints.exist(folder):
        if resume:
            text = f"{folder}: no step was kept before the run stopped; it begins anew."
            listener(Progress("training", 0, 0, text=text))
        return None
    if not resume:
        raise InputFault(
            f"{folder}: there are checkpoints of a run already; continue it with --resume, or "
            "choose another --output.",
            code="E_CHECKPOINT",
        )
    content = checkpoints.load_last(folder)
    text = f"Continuing after step {content['state']['step']}."
    listener(Progress("training", 0, 0, text=text))
    return content
