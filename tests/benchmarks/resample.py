"""Resampling of images with order 3, and of labels: medseg against its peers, in turn.

Run: OMP_NUM_THREADS=1 python -m tests.benchmarks.resample [--quick] [--only "finer" ...]

One thread. Prints nanoseconds of processor time for each voxel of the result, the largest memory
above the image, the ratio to ours, and how far ours lies from the peer's: the largest difference
and that of all but a thousandth of the voxels, of the image's range. ITK and MONAI continue a
volume by its mirror image where the others repeat its last voxel, so they differ at the faces.
"""

import argparse
import warnings
from collections.abc import Callable

import numpy as np
import SimpleITK as sitk  # noqa: N813
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.spatial.array import SpatialResample
from scipy import ndimage
from skimage.transform import resize

from medseg.preprocess.labels import resample_labels
from medseg.preprocess.resample import coarse_axis, resample_image
from tests.benchmarks.measured import machine, measured

warnings.simplefilter("ignore")
from nnunetv2.preprocessing.resampling.default_resampling import (  # noqa: E402
    resample_data_or_seg_to_shape,
)

Shape = tuple[int, int, int]
Spacing = tuple[float, float, float]
# The field of view is the same, so that the new spacing follows.
CASES: dict[str, tuple[Shape, Spacing, Shape]] = {
    "finer": ((120, 120, 80), (1.5, 1.5, 1.5), (180, 180, 120)),
    "coarser": ((240, 240, 160), (1.0, 1.0, 1.0), (160, 160, 107)),
    "a CT to 1.5 mm": ((512, 512, 140), (0.8, 0.8, 2.0), (273, 273, 187)),
    "large, finer": ((256, 256, 200), (1.25, 1.25, 1.25), (320, 320, 250)),
    "thick slices in plane": ((256, 256, 40), (0.8, 0.8, 5.0), (320, 320, 40)),
    "thick slices": ((256, 256, 40), (0.8, 0.8, 5.0), (320, 320, 67)),
}
QUICK = ("finer", "thick slices in plane")
ORGANS = 25


def smooth(shape: Shape) -> np.ndarray:
    """An image in the range of CT numbers."""
    noise = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    return (4000 * ndimage.gaussian_filter(noise, 1.5)).astype(np.float32)


def organs(shape: Shape) -> np.ndarray:
    """Ellipsoids on background."""
    generator = np.random.default_rng(ORGANS)
    labels = np.zeros(shape, dtype=np.uint8)
    axes = [np.arange(side, dtype=np.float32) for side in shape]
    for value in range(1, ORGANS):
        center = generator.uniform(0.15, 0.85, 3) * shape
        radii = generator.uniform(0.05, 0.18, 3) * shape
        i, j, k = (((a - c) / r) ** 2 for a, c, r in zip(axes, center, radii, strict=True))
        labels[i[:, None, None] + j[:, None] + k < 1] = value
    return labels


def nnunets(array: np.ndarray, old: Spacing, new: Spacing, shape: Shape, order: int) -> np.ndarray:
    return resample_data_or_seg_to_shape(
        array[None],
        shape,
        old,
        new,
        is_seg=order == 1,
        order=order,
        order_z=0,
        force_separate_z=None,
    )[0]


def scipys(array: np.ndarray, shape: Shape) -> np.ndarray:
    factors = [n / o for n, o in zip(shape, array.shape, strict=True)]
    zoomed = ndimage.zoom(array, factors, order=3, mode="nearest", grid_mode=True)
    return np.clip(np.asarray(zoomed), array.min(), array.max())


def scikits(array: np.ndarray, shape: Shape) -> np.ndarray:
    return resize(array.astype(float), shape, order=3, mode="edge", anti_aliasing=False)


def itks(array: np.ndarray, shape: Shape) -> np.ndarray:
    image = sitk.GetImageFromArray(array)
    size, spacing = shape[::-1], [o / n for n, o in zip(shape, array.shape, strict=True)][::-1]
    origin = [step / 2 - 0.5 for step in spacing]
    found = sitk.Resample(image, size, sitk.Transform(), sitk.sitkBSpline, origin, spacing)
    return sitk.GetArrayFromImage(found)


def monais(array: np.ndarray, shape: Shape) -> np.ndarray:
    steps = [o / n for n, o in zip(shape, array.shape, strict=True)]
    affine = torch.diag(torch.tensor([*steps, 1.0], dtype=torch.float64))
    affine[:3, 3] = torch.tensor(steps) / 2 - 0.5
    image = MetaTensor(torch.from_numpy(array[None]), affine=torch.eye(4, dtype=torch.float64))
    resample = SpatialResample(mode=3, padding_mode="nearest")
    return resample(image, dst_affine=affine, spatial_size=shape)[0].numpy()


def images(asked: list[str]) -> None:
    """Order 3."""
    print("| image | by | ns a voxel | memory | ratio | 99.9 % of differences | largest |")
    print("|---|---|---|---|---|---|---|")
    for name in asked:
        old, old_mm, new = CASES[name]
        new_mm = _spacing(old, old_mm, new)
        array = smooth(old)
        thick = coarse_axis(old_mm, new_mm)
        mine = measured(
            lambda a=array, n=new, c=thick: resample_image(a, n, coarse_axis=c), repeats=3
        )
        told = f"{name}, {'x'.join(map(str, old))} to {'x'.join(map(str, new))}"
        _row(told, "medseg", mine.seconds, mine.above, mine.result.size, 1)
        peers: dict[str, Callable[[], np.ndarray]] = {
            "nnU-Net": lambda a=array, o=old_mm, m=new_mm, n=new: nnunets(a, o, m, n, 3)
        }
        if thick is None:
            peers |= {
                "scipy": lambda a=array, n=new: scipys(a, n),
                "scikit-image": lambda a=array, n=new: scikits(a, n),
                "SimpleITK": lambda a=array, n=new: itks(a, n),
                "MONAI": lambda a=array, n=new: monais(a, n),
            }
        for peer, call in peers.items():
            found = measured(call)
            apart = np.abs(found.result - mine.result).ravel() / np.ptp(array)
            largest = float(apart.max())
            most = float(np.partition(apart, int(0.999 * apart.size))[int(0.999 * apart.size)])
            ratio = found.seconds / mine.seconds
            _row("", peer, found.seconds, found.above, mine.result.size, ratio, most, largest)


def labels(asked: list[str]) -> None:
    """The largest interpolated mask."""
    print(f"\n| {ORGANS} labels | by | ns a voxel | memory | ratio | other labels |")
    print("|---|---|---|---|---|---|")
    for name in asked:
        old, old_mm, new = CASES[name]
        new_mm = _spacing(old, old_mm, new)
        array = organs(old)
        thick = coarse_axis(old_mm, new_mm)
        mine = measured(
            lambda a=array, n=new, c=thick: resample_labels(a, n, coarse_axis=c), repeats=3
        )
        _row(name, "medseg", mine.seconds, mine.above, mine.result.size, 1)
        found = measured(
            lambda a=array, o=old_mm, m=new_mm, n=new: nnunets(a.astype(float), o, m, n, 1)
        )
        differ = float((found.result != mine.result).mean())
        ratio = found.seconds / mine.seconds
        _row("", "nnU-Net", found.seconds, found.above, mine.result.size, ratio, differ)


def _spacing(old: Shape, old_mm: Spacing, new: Shape) -> Spacing:
    i, j, k = (mm * o / n for o, mm, n in zip(old, old_mm, new, strict=True))
    return i, j, k


def _row(
    name: str, by: str, seconds: float, above: int, voxels: int, ratio: float, *apart: float
) -> None:
    cells = [name, by, f"{seconds / voxels * 1e9:.1f}", f"+{above / 1e6:.0f} MB", f"{ratio:.0f}"]
    print(f"| {' | '.join([*cells, *(f'{value:.1e}' for value in apart)])} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two small ones")
    parser.add_argument("--only", nargs="+", choices=CASES)
    given = parser.parse_args()
    asked = given.only or list(QUICK if given.quick else CASES)
    torch.set_num_threads(1)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    # What is loaded and allocated once is no resampling's.
    resample_image(smooth((20, 20, 20)), (30, 30, 30))
    monais(smooth((20, 20, 20)), (30, 30, 30))
    print(f"{machine()}\n")
    images(asked)
    labels(asked)


if __name__ == "__main__":
    main()
