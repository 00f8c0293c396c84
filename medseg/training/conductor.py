"""What happens around each step of a run: schedule, validation, log, checkpoints, progress.

Lightning runs the steps, devices and precision. One Lightning epoch is the whole rest of a run;
the epochs of a recipe are counted here. So a resume begins at the very step it stopped before:
the data module draws sample n from (seed, n) alone, the network's random numbers come of
(seed, step, rank), and all else is in the checkpoint.
"""

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import Tensor

from medseg.progress import Listener, Progress
from medseg.training import checkpoints
from medseg.training.average import WeightAverage
from medseg.training.examiner import Examiner, over_ranks
from medseg.training.log import RunLog
from medseg.training.module import SegmentationModule
from medseg.training.rhythm import Rhythm
from medseg.training.state import RunState


class Conductor(Callback):
    """Conducts a run in `folder`; `content` is a checkpoint to continue from.

    With `average`, a decay, the running average of the weights is validated and kept as the best;
    the steps go on from the weights themselves.
    """

    def __init__(
        self,
        *,
        folder: Path,
        rhythm: Rhythm,
        identity: Mapping[str, str],
        examiner: Examiner,
        listener: Listener,
        average: float | None,
        content: Mapping[str, Any] | None,
    ) -> None:
        self.state = RunState() if content is None else RunState.from_plain(content["state"])
        self._folder = folder
        self._rhythm = rhythm
        self._identity = dict(identity)
        self._examiner = examiner
        self._listener = listener
        self._decay = average
        self._average: WeightAverage | None = None
        self._content = content
        self._log: RunLog | None = None
        self._session_step = self.state.step
        self._session_start = time.monotonic()
        self._seconds_before = self.state.seconds

    @property
    def progress(self) -> float:
        """How far the run is, 0 to 1."""
        state = self.state
        return self._rhythm.progress(
            state.step, state.seconds, closing_seconds=state.closing_seconds
        )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the checkpoint's weights and optimizer in place, or write the first checkpoint."""
        module = _module(pl_module)
        self._session_start = time.monotonic()
        if trainer.is_global_zero:
            checkpoints.tidy(self._folder / "checkpoints")
            self._log = RunLog(self._folder, step=self.state.step)
        if self._content is None:
            self._begin_average(module.model.state_dict())
            self._save(trainer, module)
            return
        module.model.load_state_dict(self._content["model"])
        trainer.optimizers[0].load_state_dict(self._content["optimizer"])
        self._begin_average(self._content.get("average") or self._content["model"])
        self._content = None

    def on_train_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: Any,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Set the step's random numbers and learning rate."""
        _module(pl_module).begin_step(
            step=self.state.step, rank=trainer.global_rank, progress=self.progress
        )

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Count the step, and do what is due after it."""
        module, state, rhythm = _module(pl_module), self.state, self._rhythm
        loss = float(outputs["loss"] if isinstance(outputs, Mapping) else outputs)
        state.step += 1
        state.add_loss(loss)
        if self._average is not None:
            self._average.add(module.model.state_dict(), step=state.step)
        self._read_clock(trainer)
        trainer.should_stop = is_over = self.progress >= 1.0
        is_best = False
        if is_over or rhythm.ends_epoch(state.step):
            is_best = self._end_epoch(trainer, module, is_over=is_over)
        if is_over or is_best or rhythm.saves(state.step):
            self._save(trainer, module, is_best=is_best)
        if is_over or rhythm.draws(state.step):
            self._draw(trainer, module)
        self._tell(trainer, loss)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Close the log; no process goes on before the checkpoints of the first are written."""
        self._close_log()
        trainer.strategy.barrier()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Close the log. A SIGTERM comes between two steps, so that no step of it is lost."""
        if isinstance(exception, SIGTERMException):
            self._save(trainer, _module(pl_module))
        self._close_log()

    def _begin_average(self, weights: Mapping[str, Tensor]) -> None:
        if self._decay is not None:
            self._average = WeightAverage(weights, decay=self._decay)

    def _averaged(self, module: SegmentationModule) -> AbstractContextManager[None]:
        return nullcontext() if self._average is None else self._average.in_place_of(module.model)

    def _close_log(self) -> None:
        if self._log is not None:
            self._log.close()

    def _read_clock(self, trainer: pl.Trainer) -> None:
        """Set the seconds spent; with a time limit all ranks go by the clock of the first."""
        seconds = self._seconds_before + time.monotonic() - self._session_start
        if trainer.world_size > 1 and self._rhythm.max_seconds is not None:
            seconds = trainer.strategy.broadcast(seconds)
        self.state.seconds = seconds

    def _end_epoch(self, trainer: pl.Trainer, module: SegmentationModule, *, is_over: bool) -> bool:
        state, rhythm = self.state, self._rhythm
        row: dict[str, float | int] = {
            "epoch": rhythm.epoch(state.step),
            "step": state.step,
            "loss": over_ranks(trainer, torch.tensor(state.take_epoch_loss()), how="mean").item(),
            "lr": float(trainer.optimizers[0].param_groups[0]["lr"]),
            "seconds": state.seconds,
        }
        is_scored = self._examiner.has_cases(trainer)
        # Where none is held out, the weights at the end are those to keep.
        is_best = is_over and not is_scored
        if is_scored and (is_over or rhythm.validates(state.step)):
            dice = self._validate(trainer, module)
            is_best = state.add_score(float(dice.mean()))
            names = module.target.foreground_names
            row |= {f"dice {name}": float(value) for name, value in zip(names, dice, strict=True)}
            row |= {"dice": state.score, "dice ema": state.ema, "seconds": state.seconds}
        if self._log is not None:
            self._log.add(row)
        return is_best

    def _draw(self, trainer: pl.Trainer, module: SegmentationModule) -> None:
        if self._examiner.has_cases(trainer) and trainer.is_global_zero:
            picture = self._folder / "pictures" / f"step_{self.state.step:06d}.png"
            with self._averaged(module):
                self._examiner.draw(trainer, module, picture, self.state.step)

    def _validate(self, trainer: pl.Trainer, module: SegmentationModule) -> Tensor:
        """Mean Dice of each foreground name; how long it took is kept for the end of the run."""
        before = self.state.seconds
        with self._averaged(module):
            dice = self._examiner.score(trainer, module)
        self._read_clock(trainer)
        self.state.closing_seconds = self.state.seconds - before
        return dice

    def _save(
        self, trainer: pl.Trainer, module: SegmentationModule, *, is_best: bool = False
    ) -> None:
        if not trainer.is_global_zero:
            return
        weights = module.model.state_dict()
        average = {} if self._average is None else self._average.state()
        content = {"state": self.state.to_plain(), "identity": self._identity}
        folder = self._folder / "checkpoints"
        if is_best:
            checkpoints.save_best(folder, {**content, "model": average or weights})
        own = {"model": weights, "average": average}
        optimizer = trainer.optimizers[0].state_dict()
        checkpoints.save_last(folder, {**content, **own, "optimizer": optimizer})

    def _tell(self, trainer: pl.Trainer, loss: float) -> None:
        if not trainer.is_global_zero:
            return
        state = self.state
        seconds = time.monotonic() - self._session_start
        rate = (state.step - self._session_step) / max(seconds, 1e-9)
        left = self._rhythm.seconds_left(state.step, state.seconds, steps_per_second=rate)
        detail = {"loss": loss, "rate": rate, "seconds_left": left, "dice": state.score}
        self._listener(Progress("training", state.step, self._rhythm.total_steps, detail=detail))


def _module(module: pl.LightningModule) -> SegmentationModule:
    assert isinstance(module, SegmentationModule)
    return module
