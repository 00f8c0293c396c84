"""What happens around each step of a run: schedule, validation, log, checkpoints, progress.

Lightning runs the steps, devices and precision. One Lightning epoch is the whole rest of a run;
the epochs of a recipe are counted here. So a resume begins at the very step it stopped before:
the data module draws sample n from (seed, n) alone, the network's random numbers come of
(seed, step, rank), and all else is in the checkpoint.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback
from torch import Tensor

from medseg.progress import Listener, Progress
from medseg.training import checkpoints
from medseg.training.log import RunLog
from medseg.training.module import SegmentationModule
from medseg.training.picture import write_picture
from medseg.training.state import RunState
from medseg.training.validation import Infer, decoded, mean_dice


@dataclass(frozen=True)
class Rhythm:
    """How long the run is, and what happens how often (in steps)."""

    total_steps: int
    epoch_steps: int
    validate_steps: int
    checkpoint_steps: int
    picture_steps: int
    max_seconds: float | None


class Conductor(Callback):
    """Conducts a run in `folder`; `content` is a checkpoint to continue from."""

    def __init__(
        self,
        *,
        folder: Path,
        rhythm: Rhythm,
        infer: Infer,
        identity: Mapping[str, str],
        listener: Listener,
        content: Mapping[str, Any] | None,
    ) -> None:
        self.state = RunState()
        self._folder = folder
        self._rhythm = rhythm
        self._infer = infer
        self._identity = dict(identity)
        self._listener = listener
        self._content = content
        self._log: RunLog | None = None
        self._session_step = 0
        self._session_start = time.monotonic()
        self._seconds_before = 0.0
        if content is not None:
            names = {field.name for field in fields(RunState)}
            self.state = RunState(**{k: v for k, v in content["state"].items() if k in names})

    @property
    def progress(self) -> float:
        """How far the run is, 0 to 1: by steps, or by time where that is further."""
        progress = self.state.step / self._rhythm.total_steps
        if self._rhythm.max_seconds is not None:
            progress = max(progress, self.state.seconds / self._rhythm.max_seconds)
        return progress

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the checkpoint's weights and optimizer in place."""
        if self._content is not None:
            _module(pl_module).model.load_state_dict(self._content["model"])
            trainer.optimizers[0].load_state_dict(self._content["optimizer"])
            self._content = None
        self._session_step = self.state.step
        self._session_start = time.monotonic()
        self._seconds_before = self.state.seconds
        if trainer.is_global_zero:
            self._log = RunLog(self._folder, step=self.state.step)

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
        module = _module(pl_module)
        loss = float(outputs["loss"] if isinstance(outputs, Mapping) else outputs)
        self.state.step += 1
        self.state.add_loss(loss)
        self.state.seconds = self._seconds_before + time.monotonic() - self._session_start
        self._agree_on_time(trainer)
        over = self.progress >= 1.0
        if over:
            trainer.should_stop = True
        is_best = False
        if over or self.state.step % self._rhythm.epoch_steps == 0:
            is_best = self._end_epoch(trainer, module, validate=over or self._due("validate"))
        if over or is_best or self._due("checkpoint"):
            self._save(trainer, module, is_best=is_best)
        self._tell(trainer, loss)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Close the log."""
        if self._log is not None:
            self._log.close()

    def _due(self, what: str) -> bool:
        return self.state.step % getattr(self._rhythm, f"{what}_steps") == 0

    def _agree_on_time(self, trainer: pl.Trainer) -> None:
        """All ranks go by the clock of the first: they must stop at the same step."""
        if trainer.world_size > 1 and self._rhythm.max_seconds is not None:
            self.state.seconds = trainer.strategy.broadcast(self.state.seconds)

    def _end_epoch(
        self, trainer: pl.Trainer, module: SegmentationModule, *, validate: bool
    ) -> bool:
        row: dict[str, float | int] = {
            "epoch": -(-self.state.step // self._rhythm.epoch_steps),
            "step": self.state.step,
            "loss": self.state.take_epoch_loss(),
            "lr": float(trainer.optimizers[0].param_groups[0]["lr"]),
            "seconds": self.state.seconds,
        }
        is_best = False
        if validate:
            dice = self._validate(trainer, module)
            names = module.target.foreground_names
            row |= {f"dice {name}": float(value) for name, value in zip(names, dice, strict=True)}
            is_best = self.state.add_score(float(dice.mean()))
            row |= {"dice": self.state.score, "dice ema": self.state.ema}
        if self._log is not None:
            self._log.add(row)
        if self._due("picture") and trainer.is_global_zero:
            self._picture(trainer, module)
        return is_best

    def _validate(self, trainer: pl.Trainer, module: SegmentationModule) -> Tensor:
        """Mean Dice a foreground name over all cases, shared out between the ranks."""
        cases = trainer.datamodule.validation_cases()  # type: ignore[attr-defined]
        mine = cases[trainer.global_rank :: trainer.world_size]
        with trainer.precision_plugin.forward_context():
            rows = mean_dice(
                module.model,
                [_on_device(case, module.device) for case in mine],
                target=module.target,
                infer=self._infer,
            )
        total = torch.cat([rows.sum(0), torch.tensor([float(len(rows))])]).to(module.device)
        if trainer.world_size > 1:
            total = trainer.strategy.reduce(total, reduce_op="sum")
        assert isinstance(total, Tensor)
        return (total[:-1] / total[-1]).cpu()

    def _picture(self, trainer: pl.Trainer, module: SegmentationModule) -> None:
        case = _on_device(trainer.datamodule.validation_cases()[0], module.device)  # type: ignore[attr-defined]
        module.model.eval()
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            prediction = decoded(self._infer(module.model, case["image"]), module.target)
        module.model.train()
        write_picture(
            self._folder / "pictures" / f"step_{self.state.step:06d}.png",
            image=case["image"].float().cpu().numpy(),
            truth=module.target.decode(case["target"].cpu().numpy()),
            prediction=module.target.decode(prediction.cpu().numpy()),
            target=module.target,
            title=f"{case['case']}, step {self.state.step}",
        )

    def _save(self, trainer: pl.Trainer, module: SegmentationModule, *, is_best: bool) -> None:
        if not trainer.is_global_zero:
            return
        content = {
            "model": module.model.state_dict(),
            "optimizer": trainer.optimizers[0].state_dict(),
            "state": self.state.to_plain(),
            "identity": self._identity,
        }
        folder = self._folder / "checkpoints"
        if is_best:
            checkpoints.save_best(folder, content)
        checkpoints.save_last(folder, content)

    def _tell(self, trainer: pl.Trainer, loss: float) -> None:
        if not trainer.is_global_zero:
            return
        done = self.state.step - self._session_step
        rate = done / max(time.monotonic() - self._session_start, 1e-9)
        detail = {
            "loss": loss,
            "rate": rate,
            "seconds_left": self._seconds_left(rate),
            "dice": self.state.score,
        }
        self._listener(
            Progress("training", self.state.step, self._rhythm.total_steps, detail=detail)
        )

    def _seconds_left(self, rate: float) -> float:
        by_steps = (self._rhythm.total_steps - self.state.step) / rate
        if self._rhythm.max_seconds is None:
            return by_steps
        return min(by_steps, self._rhythm.max_seconds - self.state.seconds)


def _module(module: pl.LightningModule) -> SegmentationModule:
    assert isinstance(module, SegmentationModule)
    return module


def _on_device(case: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    moved = {key: case[key].to(device) for key in ("image", "target")}
    return {**moved, "case": case["case"]}
