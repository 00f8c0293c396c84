"""The largest component of each label: medseg's rule against MONAI's transform, in turn.

Run: OMP_NUM_THREADS=1 python -m tests.benchmarks.components [--labels 24] [--shape 256 256 200]

One thread. Prints CPU seconds, the largest memory above the label map, the ratio to ours, and
where the results differ. Where two components are equally large, the two may keep another one.
"""

import argparse
import warnings
from dataclasses import replace

import numpy as np
import torch
from monai.transforms.post.array import KeepLargestConnectedComponent

from medseg.inference.postprocess import KeepLargest, postprocessed
from medseg.volume import Grid, LabelTable, LabelVolume
from tests.benchmarks.measured import Measured, machine, measured
from tests.benchmarks.metrics import organs


def islands(labels: int, shape: tuple[int, int, int]) -> np.ndarray:
    """Organs, and many small blobs of the same labels beside them."""
    array, _ = organs(labels, shape)
    rng = np.random.default_rng(0)
    for place in rng.integers(4, np.array(shape) - 4, (400, 3)):
        i, j, k = place
        array[i - 2 : i + 2, j - 1 : j + 2, k - 1 : k + 1] = rng.integers(1, labels + 1)
    return array


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--labels", type=int, default=24)
    parser.add_argument("--shape", type=int, nargs=3, default=(256, 256, 200))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    i, j, k = asked.shape
    array = islands(asked.labels, (i, j, k))
    table = LabelTable.from_names({n: f"organ {n}" for n in range(1, asked.labels + 1)})
    volume = LabelVolume(array, Grid.from_spacing(array.shape), table)
    keep = KeepLargestConnectedComponent(range(1, asked.labels + 1), is_onehot=False)
    # MONAI's writes to what it is given.
    given = torch.from_numpy(array[None]).clone()
    keep(given[:, :9, :9, :9].clone())
    mine = measured(lambda: postprocessed(volume, [KeepLargest()])[0].array, repeats=3)
    theirs = measured(lambda: keep(given))
    theirs = replace(theirs, result=theirs.result[0].numpy())
    removed = np.count_nonzero(mine.result != array)
    print(f"{asked.labels} labels on {tuple(asked.shape)}, {removed} voxels go; {machine()}\n")
    print("| by | CPU s | memory | ratio | other voxels |")
    print("|---|---|---|---|---|")
    _row("medseg", mine, mine)
    _row("MONAI", theirs, mine)


def _row(name: str, found: Measured, mine: Measured) -> None:
    other = np.count_nonzero(found.result != mine.result)
    print(
        f"| {name} | {found.seconds:.2f} | +{found.above / 1e6:.0f} MB "
        f"| {found.seconds / mine.seconds:.0f} | {other} |"
    )


if __name__ == "__main__":
    main()
