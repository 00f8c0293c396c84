"""Augmentation: what may happen to a patch, with nnU-Net's probabilities and ranges as defaults.

Turning and scaling belong to the reading of the patch (one resampling, `patches.py`); intensities
are changed by MONAI's transforms, reseeded for each sample.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, UInt
from monai.transforms.compose import Compose
from monai.transforms.intensity.dictionary import (
    RandAdjustContrastd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
    RandScaleIntensityFixedMeand,
)
from monai.transforms.spatial.dictionary import RandSimulateLowResolutiond

IMAGE = "image"


@dataclass(frozen=True)
class Augmentation:
    """Probabilities (0 switches a change off) and ranges.

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
    noise_std: float = 0.3
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

    def matrix(
        self, generator: np.random.Generator, spacing_mm: tuple[float, float, float]
    ) -> np.ndarray | None:
        """A rotation and scale in voxels, rigid in millimeters; None where neither is drawn.

        Where slices are more than three times thicker than voxels are wide, the rotation stays in
        the plane of the slices.
        """
        turns = generator.random() < self.rotation_probability and self.rotation_degrees > 0
        scales = generator.random() < self.scale_probability
        if not (turns or scales):
            return None
        matrix = np.eye(3)
        if turns:
            angles = np.deg2rad(generator.uniform(-1, 1, 3) * self.rotation_degrees)
            coarse = int(np.argmax(spacing_mm))
            if max(spacing_mm) > 3 * min(spacing_mm):
                angles[[axis for axis in range(3) if axis != coarse]] = 0
            for axis, angle in enumerate(angles):
                matrix = matrix @ _rotation(axis, angle)
        if scales:
            low, high = self.scale
            larger = generator.random() < 0.5 and high > 1
            factor = (
                generator.uniform(max(low, 1.0), high)
                if larger
                else generator.uniform(low, min(high, 1.0))
            )
            matrix = matrix / factor
        spacing = np.asarray(spacing_mm)
        return matrix * spacing[None, :] / spacing[:, None]

    def flips(self, generator: np.random.Generator) -> tuple[int, ...]:
        """The axes to mirror."""
        return tuple(axis for axis in self.flip_axes if generator.random() < 0.5)

    def intensities(
        self, image: Float[np.ndarray, "c i j k"], *, seed: int
    ) -> Float[torch.Tensor, "c i j k"]:
        """The patch with its intensities changed, a function of patch and seed alone."""
        self._chain.set_random_state(seed=seed)
        changed = self._chain({IMAGE: torch.from_numpy(image)})[IMAGE]
        return torch.as_tensor(changed.as_tensor() if hasattr(changed, "as_tensor") else changed)

    @cached_property
    def _chain(self) -> Compose:
        bright, contrast = self.brightness, self.contrast
        sigma = self.blur_sigma
        return Compose(
            [
                RandGaussianNoised(
                    IMAGE, prob=self.noise_probability, std=self.noise_std, sample_std=True
                ),
                RandGaussianSmoothd(
                    IMAGE, prob=self.blur_probability, sigma_x=sigma, sigma_y=sigma, sigma_z=sigma
                ),
                RandScaleIntensityd(
                    IMAGE, factors=(bright[0] - 1, bright[1] - 1), prob=self.brightness_probability
                ),
                RandScaleIntensityFixedMeand(
                    IMAGE,
                    factors=(contrast[0] - 1, contrast[1] - 1),
                    preserve_range=True,
                    prob=self.contrast_probability,
                ),
                RandSimulateLowResolutiond(
                    IMAGE, prob=self.low_resolution_probability, zoom_range=self.low_resolution
                ),
                *(
                    RandAdjustContrastd(
                        IMAGE, prob=prob, gamma=self.gamma, retain_stats=True, invert_image=inverted
                    )
                    for inverted, prob in (
                        (True, self.gamma_inverted_probability),
                        (False, self.gamma_probability),
                    )
                ),
            ]
        )


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


def mirrored(
    image: Float[np.ndarray, "c i j k"],
    labels: UInt[np.ndarray, "i j k"],
    *,
    axes: tuple[int, ...],
    swap: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Image and labels mirrored; along axis 0 values go through `swap` (left and right labels)."""
    if not axes:
        return image, labels
    labels = np.flip(labels, axes)
    if swap is not None and 0 in axes:
        labels = swap[labels]
    return np.flip(image, [axis + 1 for axis in axes]), labels


def _rotation(axis: int, angle: float) -> np.ndarray:
    first, second = (other for other in range(3) if other != axis)
    matrix = np.eye(3)
    matrix[first, first] = matrix[second, second] = np.cos(angle)
    matrix[first, second], matrix[second, first] = -np.sin(angle), np.sin(angle)
    return matrix
