"""Dice, HD95 and NSD of many labels: medseg against MONAI, one thread, the same conventions.

Run: python tests/benchmarks/metrics.py [--labels 20] [--side 128]
"""

import argparse
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from monai.metrics.meandice import compute_dice
from monai.metrics.surface_dice import compute_surface_dice
from scipy import ndimage

from medseg.evaluation.metrics import score_pair
from medseg.volume import Grid, LabelTable, LabelVolume, Target

SPACING_MM = (1.0, 1.0, 1.5)
TOLERANCE_MM = 1.0


def organs(labels: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Smooth neighboring blobs that fill about a third of the volume, and a wobbly copy."""
    rng = np.random.default_rng(0)
    small = side // 8
    seeds = rng.uniform(0.15, 0.85, (labels, 3)) * small
    points = np.stack(np.meshgrid(*[np.arange(small)] * 3, indexing="ij"), -1)[..., None, :]
    distance = np.linalg.norm(points - seeds, axis=-1)
    distance = np.stack([ndimage.zoom(distance[..., n], 8, order=1) for n in range(labels)], -1)

    def cut(wobble: float) -> np.ndarray:
        noise = ndimage.gaussian_filter(rng.standard_normal(distance.shape[:3]), 4) * wobble
        near = distance + noise[..., None]
        return np.where(near.min(-1) < small / 6, near.argmin(-1) + 1, 0).astype(np.uint8)

    return cut(0.0), cut(8.0)


def ours(prediction: np.ndarray, truth: np.ndarray, labels: int) -> np.ndarray:
    """Scores (labels, 3)."""
    table = LabelTable.from_names({n: f"organ {n}" for n in range(1, labels + 1)})
    grid = Grid.from_spacing(truth.shape, SPACING_MM)
    volumes = [LabelVolume(array, grid, table) for array in (prediction, truth)]
    scores = score_pair(*volumes, Target(table), tolerance_mm=TOLERANCE_MM)
    return np.array([[s.dice, s.hd95_mm, s.nsd] for s in scores.values()])


def monais(prediction: np.ndarray, truth: np.ndarray, labels: int) -> np.ndarray:
    """Scores (labels, 3)."""
    one_hot = [
        torch.nn.functional.one_hot(torch.from_numpy(array).long(), labels + 1)
        .movedim(-1, 0)[None]
        .to(torch.uint8)
        for array in (prediction, truth)
    ]
    dice = compute_dice(*one_hot, include_background=False)[0]
    hd95 = compute_hausdorff_distance(*one_hot, percentile=95, spacing=SPACING_MM)[0]
    nsd = compute_surface_dice(*one_hot, [TOLERANCE_MM] * labels, spacing=SPACING_MM)[0]
    return torch.stack([dice, hd95, nsd], dim=1).numpy()


def timed(work: Callable[[], np.ndarray]) -> tuple[np.ndarray, float]:
    """The result, and the processor seconds it took."""
    start = time.process_time()
    result = work()
    return result, time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--labels", type=int, default=20)
    parser.add_argument("--side", type=int, default=128)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=FutureWarning)
    truth, prediction = organs(asked.labels, asked.side)
    score = (prediction, truth, asked.labels)
    mine, my_seconds = timed(lambda: ours(*score))
    theirs, their_seconds = timed(lambda: monais(*score))
    print(f"{asked.labels} labels on {asked.side}^3, mean Dice {mine[:, 0].mean():.3f}")
    print(f"medseg {my_seconds:.2f} s, MONAI {their_seconds:.2f} s of one core")
    print(
        f"ratio {their_seconds / my_seconds:.1f}, largest difference {abs(mine - theirs).max():.1e}"
    )


if __name__ == "__main__":
    main()
