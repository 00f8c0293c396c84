"""Augmentation: what may happen to a patch, with nnU-Net's probabilities and ranges as defaults."""

from dataclasses import dataclass
from functools import partial

import numpy as np
from monai.transforms.transform import Randomizable

from medseg.data.intensity import Blur, Brightness, Contrast, Gamma, LowResolution, Noise
from medseg.data.patches import Triple
from medseg.data.transforms import RandIntensityd, RandMirrord, RandPatchd

Spacing = tuple[float, float, float]
# nnU-Net's threshold: beyond it slices are so thick that nothing is turned out of their plane.
ANISOTROPIC = 3.0


@dataclass(frozen=True)
class Augmentation:
    """Probabilities (0 switches a change off) and ranges.

    The defaults are those of nnU-Net 2's trainer, which blurs and coarsens each channel of a
    chosen patch with probability one half, and changes the others all, by numbers of their own.

    Attributes:
        flip_axes: axes mirrored with probability one half; along 0 (left to right) the left and
            right labels of the table change places.
        rotation_degrees: largest angle about each axis.
        scale: range of the size of what is seen; above 1 it looks larger.
        noise_std: largest standard deviation, in those of the normalized image.
        blur_sigma: range of the Gaussian's width in voxels.
        brightness, contrast: ranges of factors; contrast keeps the mean and the range.
        low_resolution: range of the zoom that the patch is put through and back.
        gamma: range of the exponent, mean and standard deviation kept.
    """

    flip_axes: tuple[int, ...] = (0, 1, 2)
    rotation_degrees: float = 30.0
    rotation_probability: float = 0.2
    scale: tuple[float, float] = (0.7, 1.4)
    scale_probability: float = 0.2
    noise_std: float = 0.1
    noise_probability: float = 0.1
    blur_sigma: tuple[float, float] = (0.5, 1.0)
    blur_probability: float = 0.2
    brightness: tuple[float, float] = (0.75, 1.25)
    brightness_probability: float = 0.15
    contrast: tuple[float, float] = (0.75, 1.25)
    contrast_probability: float = 0.15
    low_resolution: tuple[float, float] = (0.5, 1.0)
    low_resolution_probability: float = 0.25
    gamma: tuple[float, float] = (0.7, 1.5)
    gamma_probability: float = 0.3
    gamma_inverted_probability: float = 0.1

    def transforms(
        self, *, size: Triple, spacing_mm: Spacing, swap: np.ndarray | None = None
    ) -> tuple[Randomizable, ...]:
        """The chain from a case to its augmented patch; `swap` exchanges left and right labels."""
        still = slice_axis(size, spacing_mm)
        low_resolution = LowResolution(self.low_resolution, still)
        return (
            RandPatchd(size, matrix=partial(self.matrix, spacing_mm=spacing_mm, size=size)),
            RandMirrord(self.flip_axes, swap=swap),
            RandIntensityd(Noise(self.noise_std), prob=self.noise_probability),
            RandIntensityd(Blur(self.blur_sigma), prob=self.blur_probability, channel_prob=0.5),
            RandIntensityd(Brightness(self.brightness), prob=self.brightness_probability),
            RandIntensityd(Contrast(self.contrast), prob=self.contrast_probability),
            RandIntensityd(low_resolution, prob=self.low_resolution_probability, channel_prob=0.5),
            RandIntensityd(Gamma(self.gamma, inverted=True), prob=self.gamma_inverted_probability),
            RandIntensityd(Gamma(self.gamma), prob=self.gamma_probability),
        )

    def matrix(
        self, state: np.random.RandomState, spacing_mm: Spacing, size: Triple | None = None
    ) -> np.ndarray | None:
        """A rotation and scale in voxels, rigid in millimeters; None where neither is drawn.

        Where slices are more than three times as thick as voxels are wide, or the patch of `size`
        is a single one, both stay within the plane of the slices.
        """
        turns = state.rand() < self.rotation_probability and self.rotation_degrees > 0
        scales = state.rand() < self.scale_probability
        if not (turns or scales):
            return None
        still = slice_axis(size, spacing_mm)
        matrix = np.eye(3)
        if turns:
            angles = np.deg2rad(state.uniform(-1, 1, 3) * self.rotation_degrees)
            for axis, angle in enumerate(angles):
                if still in (None, axis):
                    matrix = matrix @ rotation(axis, angle)
        if scales:
            # Twice as large is as likely as half as large.
            steps = np.full(3, np.exp(-state.uniform(*np.log(self.scale))))
            if still is not None:
                steps[still] = 1.0
            matrix = matrix * steps
        spacing = np.asarray(spacing_mm)
        return matrix * spacing[None, :] / spacing[:, None]


def no_augmentation() -> Augmentation:
    """Patches as they are."""
    return Augmentation(
        flip_axes=(),
        rotation_probability=0.0,
        scale_probability=0.0,
        noise_probability=0.0,
        blur_probability=0.0,
        brightness_probability=0.0,
        contrast_probability=0.0,
        low_resolution_probability=0.0,
        gamma_probability=0.0,
        gamma_inverted_probability=0.0,
    )


def slice_axis(size: Triple | None, spacing_mm: Spacing) -> int | None:
    """The axis across which slices lie: where the patch is one voxel deep, or the coarse axis."""
    if size is not None and size.count(1) == 1:
        return size.index(1)
    return coarse_axis(spacing_mm)


def coarse_axis(spacing_mm: Spacing) -> int | None:
    """The axis along which voxels are more than three times as long as along another."""
    long = int(np.argmax(spacing_mm))
    return long if max(spacing_mm) > ANISOTROPIC * min(spacing_mm) else None


def rotation(axis: int, angle: float) -> np.ndarray:
    """The 3x3 matrix of a turn by `angle` (radians) about an axis."""
    first, second = (other for other in range(3) if other != axis)
    matrix = np.eye(3)
    matrix[first, first] = matrix[second, second] = np.cos(angle)
    matrix[first, second], matrix[second, first] = -np.sin(angle), np.sin(angle)
    return matrix
