"""Dice, HD95 and NSD of many labels, in both conventions: medseg against MONAI.

Run: python -m tests.benchmarks.metrics [--labels 105] [--shape 256 256 200] [--at-once 21]

One thread, ours and the peer in turn in one process: CPU seconds, the largest memory above what
was held before (the two label maps), the ratio to ours, and the largest difference of a score.
MONAI takes masks of all labels as one array, 12 GB at the sizes above; --at-once gives it that many
labels at a time.
"""

import argparse
import warnings

import numpy as np
import torch
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from monai.metrics.meandice import compute_dice
from monai.metrics.surface_dice import compute_surface_dice
from scipy import ndimage

from medseg.evaluation.metrics import NsdConvention, score_pair
from medseg.volume import Grid, LabelTable, LabelVolume, Target
from tests.benchmarks.measured import Measured, machine, measured

SPACING_MM = (1.0, 1.0, 1.5)
TOLERANCE_MM = 1.0
Shape = tuple[int, int, int]


def organs(labels: int, shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    """Smooth neighboring blobs that fill about a third of the volume, and a wobbly copy."""
    rng = np.random.default_rng(0)
    seeds = rng.uniform(0.15, 0.85, (labels, 3)) * shape
    axes = [np.arange(side, dtype=np.float32) for side in shape]
    wobbles = [
        ndimage.zoom(rng.standard_normal([side // 8 + 1 for side in shape]), 8, order=1)
        for _ in range(2)
    ]
    maps = []
    for amount, wobble in zip((0.0, 6.0), wobbles, strict=True):
        wobbly = wobble[: shape[0], : shape[1], : shape[2]].astype(np.float32) * amount
        best = np.full(shape, min(shape) / 6, dtype=np.float32)
        found = np.zeros(shape, dtype=np.uint8)
        for value, seed in enumerate(seeds, start=1):
            i, j, k = (axis - place for axis, place in zip(axes, seed, strict=True))
            away = np.sqrt(i[:, None, None] ** 2 + j[:, None] ** 2 + k**2)
            # Each organ wobbles another way, so that the borders between them move as well.
            away += wobbly if value % 2 else -wobbly
            nearer = away < best
            best[nearer], found[nearer] = away[nearer], value
        maps.append(found)
    return maps[1], maps[0]


def ours(
    prediction: np.ndarray, truth: np.ndarray, labels: int, nsd: NsdConvention = "border-voxels"
) -> np.ndarray:
    """Scores (labels, 3)."""
    table = LabelTable.from_names({n: f"organ {n}" for n in range(1, labels + 1)})
    grid = Grid.from_spacing(truth.shape, SPACING_MM)
    volumes = [LabelVolume(array, grid, table) for array in (prediction, truth)]
    scores = score_pair(*volumes, Target(table), tolerance_mm=TOLERANCE_MM, nsd=nsd)
    return np.array([[s.dice, s.hd95_mm, s.nsd] for s in scores.values()])


def monais(
    prediction: np.ndarray, truth: np.ndarray, labels: int, at_once: int, *, subvoxels: bool = False
) -> np.ndarray:
    """Scores (labels, 3), of `at_once` labels at a time."""
    parts = []
    for first in range(1, labels + 1, at_once):
        values = np.arange(first, min(first + at_once, labels + 1), dtype=np.uint8)
        masks = [
            torch.from_numpy(a[None] == values[:, None, None, None])[None]
            for a in (prediction, truth)
        ]
        kwargs = {"include_background": True, "spacing": SPACING_MM}
        nsd = compute_surface_dice(
            *masks, [TOLERANCE_MM] * len(values), use_subvoxels=subvoxels, **kwargs
        )[0]
        hd95 = compute_hausdorff_distance(*masks, percentile=95, **kwargs)[0]
        dice = compute_dice(*masks, include_background=True)[0]
        parts.append(torch.stack([dice, hd95, nsd], dim=1).numpy())
    return np.concatenate(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--labels", type=int, default=105)
    parser.add_argument("--shape", type=int, nargs=3, default=(256, 256, 200))
    parser.add_argument("--at-once", type=int, default=105)
    parser.add_argument("--no-peers", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    prediction, truth = organs(asked.labels, tuple(asked.shape))
    given = (prediction, truth, asked.labels)
    # What is loaded and allocated once is not the metrics'.
    ours(prediction[:32, :32, :32], truth[:32, :32, :32], asked.labels)
    print(f"{asked.labels} labels on {asked.shape}; {machine()}\n")
    print("| NSD of | by | CPU s | memory | ratio | largest difference |")
    print("|---|---|---|---|---|---|")
    for nsd, subvoxels in (("border-voxels", False), ("surface-elements", True)):
        mine = measured(lambda nsd=nsd: ours(*given, nsd), repeats=3)
        _row(nsd, "medseg", mine, mine)
        if asked.no_peers:
            continue
        theirs = measured(lambda sub=subvoxels: monais(*given, asked.at_once, subvoxels=sub))
        _row(nsd, "MONAI", theirs, mine)


def _row(nsd: str, name: str, found: Measured, mine: Measured) -> None:
    apart = np.abs(found.result - mine.result).max()
    print(
        f"| {nsd} | {name} | {found.seconds:.2f} | +{found.above / 1e9:.2f} GB "
        f"| {found.seconds / mine.seconds:.0f} | {apart:.1e} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
