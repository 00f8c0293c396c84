"""The Lightning module: one training step, its loss and its optimizer."""

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from medseg.fault import InputFault
from medseg.training.chance import seed_step
from medseg.training.optimizer import OptimizerFactory
from medseg.training.schedule import Schedule
from medseg.volume import Target


class SegmentationModule(pl.LightningModule):
    """A network with what it is trained by.

    Args:
        model: takes (b, c, i, j, k), gives logits, or a list of them for deep supervision.
        loss: of the model's output and the encoded target.
        target: what the outputs mean.
        optimizer: makes the optimizer of the parameters.
        schedule: factor of the learning rate for the progress of the run.
        gradient_clip: largest norm of the gradient; None leaves it.
        seed: of everything random in the network (dropout, drop path), drawn anew each step.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        loss: nn.Module,
        target: Target,
        optimizer: OptimizerFactory,
        schedule: Schedule,
        gradient_clip: float | None = 12.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self.target = target
        self.schedule = schedule
        self.gradient_clip = gradient_clip
        self.seed = seed
        self._make_optimizer = optimizer
        self._step = 0
        self._cases: list[str] = []
        self._loss_value = torch.zeros(())

    def forward(self, image: Float[Tensor, "b c i j k"]) -> Tensor | list[Tensor]:
        """Logits of `image`."""
        return self.model(image)

    def configure_optimizers(self) -> Optimizer:
        """The optimizer over the network's parameters."""
        return self._make_optimizer(self.model.parameters())

    def begin_step(self, *, step: int, rank: int, progress: float) -> None:
        """Set what the coming step depends on: its random numbers and its learning rate."""
        self._step = step
        seed_step(seed=self.seed, step=step, rank=rank, device=self.device)
        optimizer = self.optimizers()
        assert not isinstance(optimizer, list)
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * self.schedule(progress)

    def training_step(self, batch: Mapping[str, Any], _index: int) -> Tensor:
        """The loss of a batch."""
        self._cases = list(batch["case"])
        loss = self.loss(self(batch["image"]), batch["target"])
        self._loss_value = loss.detach()
        return loss

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,  # noqa: ARG002
        gradient_clip_val: float | None = None,  # noqa: ARG002
        gradient_clip_algorithm: str | None = None,  # noqa: ARG002
    ) -> None:
        """Clip by the norm, once loss and gradient are seen to be finite.

        Raises:
            InputFault: they are not (E_LOSS), with the step and the names of the cases. Nothing
                was applied yet. With several processes it is raised by all, so that none waits.
        """
        largest = self.gradient_clip if self.gradient_clip is not None else float("inf")
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), largest)
        if not self._everywhere(torch.isfinite(norm) & torch.isfinite(self._loss_value)):
            raise self._diverged(float(norm))

    def _everywhere(self, is_fine: Tensor) -> bool:
        if self.trainer.world_size > 1:
            is_fine = self.trainer.strategy.reduce(is_fine.float(), reduce_op="min")
        return bool(is_fine)

    def _diverged(self, norm: float) -> InputFault:
        seen: list[tuple[list[str], float]] = [(self._cases, float(self._loss_value))]
        if self.trainer.world_size > 1:
            mine, seen = seen[0], [([], 0.0)] * self.trainer.world_size
            torch.distributed.all_gather_object(seen, mine)
        losses = ", ".join(f"{loss:.4g}" for _, loss in seen)
        cases = ", ".join(dict.fromkeys(case for cases, _ in seen for case in cases))
        return InputFault(
            f"training stopped at step {self._step + 1}: the loss is {losses} and the gradient's "
            f"norm {norm:.4g}, in a batch of the cases {cases}. Look at these cases; else lower "
            "optimizer.lr, lengthen the warm-up, or train in 32-true. "
            "The last checkpoint is sound.",
            code="E_LOSS",
        )
