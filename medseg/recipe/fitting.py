"""The sections on how a network is fitted: loss, optimizer, schedule, trainer."""

from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from medseg.recipe.section import (
    BelowOne,
    Count,
    NotNegative,
    Positive,
    Section,
    Seed,
    Share,
)

if TYPE_CHECKING:
    from torch import nn

    from medseg.training.fit import Settings
    from medseg.training.optimizer import OptimizerFactory
    from medseg.training.schedule import Schedule


class DiceCESection(Section):
    """Softmax Dice and cross entropy over labels."""

    name: Literal["dice_ce"]
    """The loss's name."""
    batch_dice: bool = True
    """Dice over all patches of a batch together, rather than patch by patch."""
    include_background: bool = False
    """Whether the Dice of the background counts."""
    smooth: Positive = 1e-5
    """Added above and below the fraction, so that an empty structure is no 0/0."""
    dice_weight: NotNegative = 1.0
    """Weight of the Dice."""
    ce_weight: NotNegative = 1.0
    """Weight of the cross entropy."""

    def build(self) -> "nn.Module":
        """The loss, ready for deep supervision."""
        from medseg.losses.deep import DeepSupervisionLoss
        from medseg.losses.dice_ce import DiceCELoss

        return DeepSupervisionLoss(DiceCELoss(**self.settings()))


class RegionsSection(Section):
    """Sigmoid Dice and binary cross entropy over the card's regions."""

    name: Literal["regions"]
    """The loss's name."""
    batch_dice: bool = True
    """Dice over all patches of a batch together, rather than patch by patch."""
    smooth: Positive = 1e-5
    """Added above and below the fraction, so that an empty structure is no 0/0."""
    dice_weight: NotNegative = 1.0
    """Weight of the Dice."""
    ce_weight: NotNegative = 1.0
    """Weight of the cross entropy."""

    def build(self) -> "nn.Module":
        """The loss, ready for deep supervision."""
        from medseg.losses.deep import DeepSupervisionLoss
        from medseg.losses.dice_ce import RegionLoss

        return DeepSupervisionLoss(RegionLoss(**self.settings()))


LossSection = Annotated[DiceCESection | RegionsSection, Field(discriminator="name")]


class AdamWSection(Section):
    """AdamW."""

    name: Literal["adamw"]
    """The optimizer's name."""
    lr: Positive = 1e-3
    """Largest learning rate; the schedule lowers it."""
    weight_decay: NotNegative = 1e-2
    """Share of a weight that a step of learning rate 1 takes off."""
    betas: tuple[BelowOne, BelowOne] = (0.9, 0.999)
    """How slowly the averages of gradient and squared gradient forget."""

    def build(self) -> "OptimizerFactory":
        """What makes the optimizer of parameters."""
        from medseg.training.optimizer import adamw

        return partial(adamw, **self.settings())


class SGDSection(Section):
    """SGD with nnU-Net's defaults."""

    name: Literal["sgd"]
    """The optimizer's name."""
    lr: Positive = 1e-2
    """Largest learning rate; the schedule lowers it."""
    momentum: BelowOne = 0.99
    """How slowly the average of gradients forgets."""
    nesterov: bool = True
    """Whether the gradient is taken ahead of the momentum."""
    weight_decay: NotNegative = 3e-5
    """Added to the gradient, times the weight."""

    def build(self) -> "OptimizerFactory":
        """What makes the optimizer of parameters."""
        from medseg.training.optimizer import sgd

        return partial(sgd, **self.settings())


OptimizerSection = Annotated[AdamWSection | SGDSection, Field(discriminator="name")]


class WarmupCosineSection(Section):
    """A linear rise, then half a cosine; `warmup` and `final` are shares."""

    name: Literal["warmup_cosine"]
    """The schedule's name."""
    warmup: BelowOne = 0.02
    """Share of the run in which the learning rate rises."""
    final: Share = 0.0
    """Share of the learning rate that is left at the end."""

    def build(self) -> "Schedule":
        """The factor of the learning rate, of progress 0 to 1."""
        from medseg.training.schedule import warmup_cosine

        return warmup_cosine(**self.settings())


class PolySection(Section):
    """(1 - progress)^exponent."""

    name: Literal["poly"]
    """The schedule's name."""
    exponent: Positive = 0.9
    """How fast the learning rate falls; 1 is a straight line."""

    def build(self) -> "Schedule":
        """The factor of the learning rate, of progress 0 to 1."""
        from medseg.training.schedule import poly

        return poly(**self.settings())


ScheduleSection = Annotated[WarmupCosineSection | PolySection, Field(discriminator="name")]


class TrainerSection(Section):
    """How long and how to train."""

    epochs: Count = 1000
    """How many epochs; an epoch is just `steps_per_epoch` steps."""
    steps_per_epoch: Count = 250
    """Steps (batches) of an epoch."""
    max_time: Positive | None = None
    """Minutes that the run takes at most, its last validation among them; null: by epochs alone.

    The schedule ends with the last step.
    """
    precision: Literal["32-true", "bf16-mixed", "bf16-true"] = "32-true"
    """Of the network's numbers; bf16-mixed is fast on recent GPUs and CPUs with AMX, else slow."""
    gradient_clip: Positive | None = 12.0
    """Largest norm of the gradient; null leaves it."""
    average: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of a running average of the weights, which is validated and kept; null: no average."""
    validate_every: Count = 25
    """Epochs between validations on whole cases."""
    checkpoint_every: Count = 250
    """Steps between checkpoints: at most so many are lost with a crash."""
    picture_every: Count = 50
    """Epochs between pictures of a validation case."""
    foreground_share: Share = 0.33
    """Share of a batch that is centered on a labeled voxel."""
    seed: Seed = 0
    """Of first weights, patches, augmentation and dropout."""
    workers: Annotated[int, Field(ge=0, le=1024)] = 0
    """Processes that load patches; 0: the training process itself."""
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """What to train on; auto: a GPU where there is one."""
    devices: Count = 1
    """How many GPUs or, on a CPU, processes."""
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    """How devices share the work; auto: ddp from two on."""

    def build(self) -> "Settings":
        """The settings of the run."""
        from medseg.training.fit import Settings

        return Settings(
            epochs=self.epochs,
            steps_per_epoch=self.steps_per_epoch,
            max_time_s=None if self.max_time is None else 60 * self.max_time,
            precision=self.precision,
            validate_every=self.validate_every,
            checkpoint_every=self.checkpoint_every,
            picture_every=self.picture_every,
            accelerator=self.accelerator,
            devices=self.devices,
            strategy=self.strategy,
            average=self.average,
        )
