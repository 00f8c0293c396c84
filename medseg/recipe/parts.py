"""The sections beside the model: data, plan, augmentation, loss, optimizer, schedule, trainer."""

from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from medseg.recipe.section import Auto, Count, Positive, Range, Section, Share

if TYPE_CHECKING:
    from torch import nn

    from medseg.data.augment import Augmentation
    from medseg.training.fit import Settings
    from medseg.training.optimizer import OptimizerFactory
    from medseg.training.schedule import Schedule

Size = tuple[Count, Count, Count]
Millimeters = tuple[Positive, Positive, Positive]


class DataSection(Section):
    """Which data set, where it lies, and who is held out."""

    card: str = Field(description="A shipped card's name (medseg datasets), or a card's path.")
    root: str = Field(description="The folder that holds the data set.")
    fold: Annotated[int, Field(ge=0)] | Literal["fixed"] = 0
    folds: Annotated[int, Field(ge=2)] = 5
    split_seed: int = 0
    cache: str | None = Field(
        default=None, description="Where prepared cases are kept; null: in the output folder."
    )


class NormaliseSection(Section):
    """One normalisation with its numbers; `ct` finds the numbers it lacks in the data set."""

    kind: Literal["zscore", "zscore_nonzero", "ct", "range", "none"]
    lower: float | None = None
    upper: float | None = None
    mean: float | None = None
    std: float | None = None


NormaliseKind = Literal["zscore", "zscore_nonzero", "ct", "none", "auto"]


class PlanSection(Section):
    """The network's grid and batch; what is `auto` is planned by nnU-Net's rules."""

    spacing_mm: Millimeters | Auto = "auto"
    patch_size: Size | Auto = "auto"
    batch_size: Count | Auto = "auto"
    normalise: NormaliseKind | NormaliseSection = "auto"
    crop: Literal["nonzero", "none", "auto"] = "auto"
    network: Literal["plain", "resenc_m", "resenc_l", "resenc_xl"] = Field(
        default="plain", description="Whose memory the planner counts with."
    )
    memory_gb: Positive | None = None

    @property
    def is_fixed(self) -> bool:
        """Whether nothing is left to the planner."""
        return "auto" not in (
            self.spacing_mm,
            self.patch_size,
            self.batch_size,
            self.normalise,
            self.crop,
        )


class AugmentSection(Section):
    """What may happen to a training patch; probabilities of 0 switch a change off."""

    flip_axes: tuple[Annotated[int, Field(ge=0, le=2)], ...] = (0, 1, 2)
    rotation_degrees: Annotated[float, Field(ge=0, le=180)] = 30.0
    rotation_probability: Share = 0.2
    scale: Range = (0.7, 1.4)
    scale_probability: Share = 0.2
    noise_std: Annotated[float, Field(ge=0)] = 0.1
    noise_probability: Share = 0.1
    blur_sigma: Range = (0.5, 1.0)
    blur_probability: Share = 0.2
    brightness: Range = (0.75, 1.25)
    brightness_probability: Share = 0.15
    contrast: Range = (0.75, 1.25)
    contrast_probability: Share = 0.15
    low_resolution: Range = (0.5, 1.0)
    low_resolution_probability: Share = 0.25
    gamma: Range = (0.7, 1.5)
    gamma_probability: Share = 0.3
    gamma_inverted_probability: Share = 0.1

    def build(self) -> "Augmentation":
        """The augmentation."""
        from medseg.data.augment import Augmentation

        return Augmentation(**self.settings())


class DiceCESection(Section):
    """Softmax Dice and cross entropy over labels."""

    name: Literal["dice_ce"]
    batch_dice: bool = True
    include_background: bool = False
    smooth: Positive = 1e-5
    dice_weight: Annotated[float, Field(ge=0)] = 1.0
    ce_weight: Annotated[float, Field(ge=0)] = 1.0

    def build(self) -> "nn.Module":
        """The loss, ready for deep supervision."""
        from medseg.losses.deep import DeepSupervisionLoss
        from medseg.losses.dice_ce import DiceCELoss

        return DeepSupervisionLoss(DiceCELoss(**self.settings()))


class RegionsSection(Section):
    """Sigmoid Dice and binary cross entropy over the card's regions."""

    name: Literal["regions"]
    batch_dice: bool = True
    smooth: Positive = 1e-5
    dice_weight: Annotated[float, Field(ge=0)] = 1.0
    ce_weight: Annotated[float, Field(ge=0)] = 1.0

    def build(self) -> "nn.Module":
        """The loss, ready for deep supervision."""
        from medseg.losses.deep import DeepSupervisionLoss
        from medseg.losses.dice_ce import RegionLoss

        return DeepSupervisionLoss(RegionLoss(**self.settings()))


LossSection = Annotated[DiceCESection | RegionsSection, Field(discriminator="name")]


class AdamWSection(Section):
    """AdamW."""

    name: Literal["adamw"]
    lr: Positive = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    betas: tuple[Share, Share] = (0.9, 0.999)

    def build(self) -> "OptimizerFactory":
        """What makes the optimizer of parameters."""
        from medseg.training.optimizer import adamw

        return partial(adamw, **self.settings())


class SGDSection(Section):
    """SGD with nnU-Net's defaults."""

    name: Literal["sgd"]
    lr: Positive = 1e-2
    momentum: Share = 0.99
    nesterov: bool = True
    weight_decay: Annotated[float, Field(ge=0)] = 3e-5

    def build(self) -> "OptimizerFactory":
        """What makes the optimizer of parameters."""
        from medseg.training.optimizer import sgd

        return partial(sgd, **self.settings())


OptimizerSection = Annotated[AdamWSection | SGDSection, Field(discriminator="name")]


class WarmupCosineSection(Section):
    """A linear rise, then half a cosine; `warmup` and `final` are shares."""

    name: Literal["warmup_cosine"]
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.02
    final: Share = 0.0

    def build(self) -> "Schedule":
        """The factor of the learning rate, of progress 0 to 1."""
        from medseg.training.schedule import warmup_cosine

        return warmup_cosine(**self.settings())


class PolySection(Section):
    """(1 - progress)^exponent."""

    name: Literal["poly"]
    exponent: Positive = 0.9

    def build(self) -> "Schedule":
        """The factor of the learning rate, of progress 0 to 1."""
        from medseg.training.schedule import poly

        return poly(**self.settings())


ScheduleSection = Annotated[WarmupCosineSection | PolySection, Field(discriminator="name")]


class TrainerSection(Section):
    """How long and how to train."""

    epochs: Count = 1000
    steps_per_epoch: Count = 250
    max_time: Positive | None = Field(default=None, description="Minutes; the schedule fits it.")
    precision: Literal["32-true", "bf16-mixed", "bf16-true"] = "32-true"
    gradient_clip: Positive | None = 12.0
    validate_every: Count = Field(default=25, description="Epochs between validations.")
    checkpoint_every: Count = Field(default=250, description="Steps between checkpoints.")
    picture_every: Count = Field(default=50, description="Epochs between pictures.")
    foreground_share: Share = Field(
        default=0.33, description="Share of a batch that is centered on a labeled voxel."
    )
    seed: Annotated[int, Field(ge=0)] = 0
    workers: Annotated[int, Field(ge=0)] = 0
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: Count = 1
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"

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
        )


class PredictSection(Section):
    """How the trained network predicts."""

    overlap: Annotated[float, Field(ge=0, lt=1)] = 0.5
    mirror_axes: tuple[Annotated[int, Field(ge=0, le=2)], ...] = ()
    batch_size: Count = 1
