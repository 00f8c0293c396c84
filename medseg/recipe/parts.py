"""The sections on data, plan, augmentation and prediction."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from medseg.data.cases import Listing
from medseg.data.splits import Split, load_splits, make_split
from medseg.recipe.section import (
    Auto,
    Axes,
    BelowOne,
    Count,
    NotNegative,
    Positive,
    Range,
    Section,
    Seed,
    Share,
)

if TYPE_CHECKING:
    from medseg.data.augment import Augmentation

Side = Annotated[int, Field(ge=1, le=4096)]
Size = tuple[Side, Side, Side]
# What a Grid takes for a spacing.
Millimeter = Annotated[float, Field(ge=0.001, le=1000)]
Millimeters = tuple[Millimeter, Millimeter, Millimeter]


class DataSection(Section):
    """Which data set, where it lies, and who is held out."""

    card: str
    """A shipped card's name (`medseg datasets`), or a card's path."""
    root: str
    """The folder that holds the data set."""
    fold: Annotated[int, Field(ge=0)] | Literal["fixed", "all"] = 0
    """Which fold is held out, from 0; `fixed`: the card's split; `all`: none, train on all."""
    folds: Annotated[int, Field(ge=2, le=1000)] = 5
    """How many folds the patients are dealt to."""
    split_seed: Seed = 0
    """Another number deals the patients differently."""
    splits: str | None = None
    """nnU-Net's splits_final.json: its folds in place of dealt ones; null: deal them."""
    cache: str | None = None
    """Where prepared cases are kept; null: in the output folder."""

    @property
    def fold_count(self) -> int:
        """How many folds there are."""
        return self.folds if self.splits is None else len(load_splits(Path(self.splits)))

    def split(self, listing: Listing) -> Split:
        """Who is trained on and who is held out; see `make_split`."""
        return make_split(
            listing, folds=self.folds, fold=self.fold, seed=self.split_seed, splits=self.splits
        )


class NormaliseSection(Section):
    """One normalisation with its numbers; `ct` finds the numbers it lacks in the data set."""

    kind: Literal["zscore", "zscore_nonzero", "ct", "range", "none"]
    """zscore (of the whole image), zscore_nonzero, ct, range (lower..upper to 0..1), or none."""
    lower: float | None = None
    """Values below are cut (ct, range)."""
    upper: float | None = None
    """Values above are cut (ct, range)."""
    mean: float | None = None
    """Becomes 0 (ct)."""
    std: Positive | None = None
    """Becomes 1 (ct)."""


NormaliseKind = Literal["zscore", "zscore_nonzero", "ct", "none", "auto"]


class PlanSection(Section):
    """The network's grid and batch; what is `auto` is planned by nnU-Net's rules."""

    spacing_mm: Millimeters | Auto = "auto"
    """Voxel size that images are resampled to, along i, j, k."""
    patch_size: Size | Auto = "auto"
    """Voxels of a training patch and of a prediction window, along i, j, k."""
    batch_size: Count | Auto = "auto"
    """Patches of a step, on each device."""
    normalise: NormaliseKind | NormaliseSection = "auto"
    """How intensities are scaled; with numbers of its own: {kind: range, lower: 0, upper: 99}."""
    crop: Literal["nonzero", "none", "auto"] = "auto"
    """Whether zeros around the body are cut off first."""
    network: Literal["plain", "resenc_m", "resenc_l", "resenc_xl"] = "plain"
    """Whose memory the planner counts with."""
    memory_gb: Positive | None = None
    """Memory of the GPU to plan for; null: the network's own target."""

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

    flip_axes: Axes = (0, 1, 2)
    """Axes mirrored half of the time; along 0 left and right labels change places."""
    rotation_degrees: Annotated[float, Field(ge=0, le=180)] = 30.0
    """Largest angle about each axis."""
    rotation_probability: Share = 0.2
    """Share of patches that are turned."""
    scale: Range = (0.7, 1.4)
    """Factors of size; above 1 things look larger."""
    scale_probability: Share = 0.2
    """Share of patches that are scaled."""
    noise_std: NotNegative = 0.1
    """Largest standard deviation of noise, in those of the normalized image."""
    noise_probability: Share = 0.1
    """Share of patches that get noise."""
    blur_sigma: Range = (0.5, 1.0)
    """Widths of the Gaussian, in voxels."""
    blur_probability: Share = 0.2
    """Share of patches that are blurred, each channel half of the time."""
    brightness: Range = (0.75, 1.25)
    """Factors of intensity."""
    brightness_probability: Share = 0.15
    """Share of patches whose brightness changes."""
    contrast: Range = (0.75, 1.25)
    """Factors of the distance to the mean."""
    contrast_probability: Share = 0.15
    """Share of patches whose contrast changes."""
    low_resolution: Range = (0.5, 1.0)
    """Zooms that a patch is put through and back."""
    low_resolution_probability: Share = 0.25
    """Share of patches that are coarsened, each channel half of the time."""
    gamma: Range = (0.7, 1.5)
    """Exponents of intensity; mean and deviation are kept."""
    gamma_probability: Share = 0.3
    """Share of patches that get a gamma."""
    gamma_inverted_probability: Share = 0.1
    """Share of patches that get one in the negative."""

    def build(self) -> "Augmentation":
        """The augmentation."""
        from medseg.data.augment import Augmentation

        return Augmentation(**self.settings())


class PredictSection(Section):
    """How the trained network predicts."""

    overlap: BelowOne = 0.5
    """Share of a window that the next one covers again."""
    mirror_axes: Axes = ()
    """Axes that the image is also predicted mirrored along, and the results averaged."""
    batch_size: Count = 1
    """Windows at a time."""
