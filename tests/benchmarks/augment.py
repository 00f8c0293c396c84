"""Augmented patches a second and core: medseg, a MONAI chain of the same kind, nnU-Net's library.

Run: python tests/benchmarks/augment.py [--patch 128] [--channels 1] [--repeats 20]

Each takes a patch of a volume in memory through rotation and scale, mirroring and the seven changes
of intensity, with nnU-Net's probabilities. CPU seconds of one thread. MONAI's chain crops the patch
first and turns it within itself; nnU-Net's reads a patch so large that no corner is empty.
"""

import argparse
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from monai.transforms.compose import Compose
from monai.transforms.croppad.dictionary import RandSpatialCropd, SpatialPadd
from monai.transforms.intensity.dictionary import (
    RandAdjustContrastd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
    RandScaleIntensityFixedMeand,
)
from monai.transforms.spatial.dictionary import (
    RandAffined,
    RandFlipd,
    RandSimulateLowResolutiond,
)
from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from medseg.data.augment import Augmentation
from medseg.data.chance import SAMPLE, state
from medseg.data.transforms import CENTERED, IMAGE, LABELS, PLACES

Triple = tuple[int, int, int]
Draw = Callable[[int], object]


def volume(size: Triple, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """A volume half again as large as the patch, with three labels."""
    i, j, k = (side * 3 // 2 for side in size)
    image = np.random.default_rng(0).standard_normal((channels, i, j, k), dtype=np.float32)
    labels = np.zeros((i, j, k), dtype=np.uint8)
    for value in (1, 2, 3):
        labels[value * i // 6 : (value + 2) * i // 6, j // 4 : j // 2, k // 4 : k // 2] = value
    return image, labels


def ours(size: Triple, image: np.ndarray, labels: np.ndarray) -> Draw:
    """medseg's chain."""
    chain = Augmentation().transforms(size=size, spacing_mm=(1.0, 1.0, 1.0))
    places = {str(value): np.argwhere(labels == value) for value in (1, 2, 3)}

    def draw(number: int) -> object:
        data = {IMAGE: image, LABELS: labels, PLACES: places, CENTERED: bool(number % 2)}
        chance = state(0, SAMPLE, number)
        for transform in chain:
            data = transform.set_random_state(state=chance)(data)  # type: ignore[operator]
        return data

    return draw


def monais(size: Triple, image: np.ndarray, labels: np.ndarray) -> Draw:
    """MONAI's own transforms."""
    both = ("image", "labels")
    turn = np.pi / 6
    chain = Compose(
        [
            SpatialPadd(both, size),
            RandSpatialCropd(both, size, random_size=False),
            RandAffined(
                both,
                prob=0.36,
                rotate_range=(turn, turn, turn),
                scale_range=(0.3, 0.3, 0.3),
                mode=("bilinear", "nearest"),
                padding_mode="zeros",
            ),
            *(RandFlipd(both, prob=0.5, spatial_axis=axis) for axis in range(3)),
            RandGaussianNoised("image", prob=0.1, std=0.1),
            RandGaussianSmoothd(
                "image", prob=0.2, sigma_x=(0.5, 1), sigma_y=(0.5, 1), sigma_z=(0.5, 1)
            ),
            RandScaleIntensityd("image", factors=0.25, prob=0.15),
            RandScaleIntensityFixedMeand("image", factors=0.25, preserve_range=True, prob=0.15),
            RandSimulateLowResolutiond("image", prob=0.25, zoom_range=(0.5, 1.0)),
            RandAdjustContrastd(
                "image", prob=0.1, gamma=(0.7, 1.5), retain_stats=True, invert_image=True
            ),
            RandAdjustContrastd("image", prob=0.3, gamma=(0.7, 1.5), retain_stats=True),
        ]
    )

    def draw(number: int) -> object:
        chain.set_random_state(seed=number)
        given = {"image": torch.from_numpy(image), "labels": torch.from_numpy(labels[None])}
        return chain(given)

    return draw


def nnunets(size: Triple, image: np.ndarray, labels: np.ndarray) -> Draw:
    """What nnunetv2 does to a patch that it has cut (the extra `nnunet`)."""
    turn = (-np.pi / 6, np.pi / 6)
    larger = get_patch_size(size, turn, turn, turn, (0.85, 1.25))
    chain = nnUNetTrainer.get_training_transforms(size, turn, None, (0, 1, 2), False)  # noqa: FBT003
    room = [max(int(big) - side, 0) for big, side in zip(larger, labels.shape, strict=True)]
    padding = [(extra // 2, extra - extra // 2) for extra in room]
    wide = np.pad(image, [(0, 0), *padding])
    masks = np.pad(labels, padding, constant_values=0)[None].astype(np.int16)
    box = tuple(slice(0, int(big)) for big in larger)

    def draw(_number: int) -> object:
        part = torch.from_numpy(wide[(slice(None), *box)].copy())
        return chain(image=part, segmentation=torch.from_numpy(masks[(slice(None), *box)].copy()))

    return draw


def seconds(draw: Draw, repeats: int) -> float:
    """CPU seconds of one patch."""
    draw(0)
    start = time.process_time()
    for number in range(repeats):
        draw(number)
    return (time.process_time() - start) / repeats


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patch", type=int, nargs="+", default=[128], help="one side or three")
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    i, j, k = args.patch * 3 if len(args.patch) == 1 else args.patch
    image, labels = volume((i, j, k), args.channels)
    print(f"patch {args.channels} x {i}x{j}x{k}")
    for name, make in (("medseg", ours), ("MONAI", monais), ("nnU-Net", nnunets)):
        taken = seconds(make((i, j, k), image, labels), args.repeats)
        print(f"{name:8} {taken * 1e3:8.1f} ms a patch {1 / taken:8.1f} patches a second and core")


if __name__ == "__main__":
    main()
