"""The Lightning module: one training step, its loss and its optimizer."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from medseg.fault import InputFault
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
        self._cases: list[str] = []

    def forward(self, image: Float[Tensor, "b c i j k"]) -> Tensor | list[Tensor]:
        """Logits of `image`."""
        return self.model(image)

    def configure_optimizers(self) -> Optimizer:
        """The optimizer over the network's parameters."""
        return self._make_optimizer(self.model.parameters())

    def begin_step(self, *, step: int, rank: int, progress: float) -> None:
        """Set what the coming step depends on: its random numbers and its learning rate.

        Random numbers are a function of (seed, step, rank), so a resumed run draws the same ones.
        """
        words = np.random.SeedSequence([self.seed, step, rank]).generate_state(1, np.uint64)
        torch.manual_seed(int(words[0]) >> 1)
        optimizer = self.optimizers()
        assert not isinstance(optimizer, list)
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * self.schedule(progress)

    def training_step(self, batch: Mapping[str, Any], _index: int) -> Tensor:
        """The loss of a batch.

        Raises:
            InputFault: it is not finite (E_LOSS), with the names of the cases.
        """
        self._cases = list(batch["case"])
        loss = self.loss(self(batch["image"]), batch["target"])
        if not torch.isfinite(loss):
            raise self._diverged(f"the loss is {loss.item()}")
        return loss

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,  # noqa: ARG002
        gradient_clip_val: float | None = None,  # noqa: ARG002
        gradient_clip_algorithm: str | None = None,  # noqa: ARG002
    ) -> None:
        """Clip by the norm, and stop at a gradient that is not finite before it is applied."""
        largest = self.gradient_clip if self.gradient_clip is not None else float("inf")
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), largest)
        if not torch.isfinite(norm):
            raise self._diverged(f"the norm of the gradient is {norm.item()}")

    def _diverged(self, what: str) -> InputFault:
        cases = ", ".join(dict.fromkeys(self._cases))
        return InputFault(
            f"{what}, in a batch of cases {cases}. Look at these cases; else lower optimizer.lr, "
            "lengthen the warm-up, or train in 32-true. The last checkpoint is sound.",
            code="E_LOSS",
        )
