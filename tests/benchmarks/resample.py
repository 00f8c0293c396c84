"""Time of our resampling beside scipy's, scikit-image's and nnU-Net's, with one thread each.

OMP_NUM_THREADS=1 python tests/benchmarks/resample.py

Prints nanoseconds of processor time for each voxel of the result, the ratio to ours, and how far
the results lie apart (images: of the range; labels: share of voxels that differ).
"""

import time
import warnings
from collections.abc import Callable

import numpy as np
from scipy import ndimage
from skimage.transform import resize

from medseg.preprocess.labels import resample_labels
from medseg.preprocess.resample import resample_image, resample_linear

warnings.simplefilter("ignore")
from nnunetv2.preprocessing.resampling.default_resampling import (  # noqa: E402
    resample_data_or_seg_to_shape,
)

CASES = (
    ("finer", (120, 120, 80), (192, 192, 128)),
    ("coarser", (160, 160, 120), (100, 100, 80)),
    ("in plane", (192, 192, 40), (256, 256, 40)),
)
LABELS = (2, 25)


def timed(call: Callable[[], np.ndarray], *, repeats: int = 1) -> tuple[float, np.ndarray]:
    """The least processor time of `repeats` calls in seconds, and the result."""
    times = []
    result = call()
    for _ in range(repeats):
        start = time.process_time()
        result = call()
        times.append(time.process_time() - start)
    return min(times), result


def smooth(shape: tuple[int, int, int], seed: int) -> np.ndarray:
    """A smooth image in the range of CT numbers."""
    noise = np.random.default_rng(seed).standard_normal(shape)
    return (4000 * ndimage.gaussian_filter(noise, 1.5)).astype(np.float32)


def organs(shape: tuple[int, int, int], count: int) -> np.ndarray:
    """Ellipsoids of `count` - 1 labels on background."""
    generator = np.random.default_rng(count)
    labels = np.zeros(shape, dtype=np.uint8)
    index = np.indices(shape, dtype=np.float32)
    for value in range(1, count):
        center = generator.uniform(0.15, 0.85, 3) * shape
        radii = generator.uniform(0.05, 0.18, 3) * shape
        away = np.sum(((index - center[:, None, None, None]) / radii[:, None, None, None]) ** 2, 0)
        labels[away < 1] = value
    return labels


def report(name: str, ours_s: float, peers: dict[str, tuple[float, float]], voxels: int) -> None:
    """One line: our time and each peer's with its ratio and difference."""
    parts = [f"{name:22} ours {ours_s / voxels * 1e9:6.1f} ns"]
    for peer, (seconds, apart) in peers.items():
        parts.append(
            f"{peer} {seconds / voxels * 1e9:7.1f} ns (x{seconds / ours_s:.0f}, {apart:.0e})"
        )
    print("   ".join(parts))


def images() -> None:
    """Cubic and linear interpolation."""
    for name, old, new in CASES:
        array = smooth(old, 0)
        factors = [n / o for n, o in zip(new, old, strict=True)]
        for order, resample in ((3, resample_image), (1, resample_linear)):
            ours_s, ours = timed(lambda f=resample, a=array, n=new: f(a, n), repeats=5)
            calls = {
                "scipy": lambda a=array, z=factors, o=order: np.clip(
                    np.asarray(ndimage.zoom(a, z, order=o, mode="nearest", grid_mode=True)),
                    a.min(),
                    a.max(),
                ),
                "scikit-image": lambda a=array, n=new, o=order: resize(
                    a.astype(float), n, order=o, mode="edge", anti_aliasing=False
                ),
            }
            peers = {}
            for peer, call in calls.items():
                seconds, theirs = timed(call)
                peers[peer] = (seconds, float(np.abs(theirs - ours).max() / np.ptp(array)))
            kind = "cubic" if order == 3 else "linear"
            report(f"{kind}, {name}", ours_s, peers, ours.size)


def labels() -> None:
    """The largest interpolated mask."""
    for name, old, new in CASES[:2]:
        for count in LABELS:
            array = organs(old, count)
            ours_s, ours = timed(lambda a=array, n=new: resample_labels(a, n), repeats=3)
            seconds, theirs = timed(
                lambda a=array, n=new: resample_data_or_seg_to_shape(
                    a[None].astype(float),
                    n,
                    (1, 1, 1),
                    (1, 1, 1),
                    is_seg=True,
                    order=1,
                    order_z=0,
                    force_separate_z=False,
                )[0]
            )
            differ = float((theirs != ours).mean())
            report(f"{count} labels, {name}", ours_s, {"nnU-Net": (seconds, differ)}, ours.size)


if __name__ == "__main__":
    images()
    labels()
