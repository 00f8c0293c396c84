"""Two label maps that are easily told apart, and what of them stands under a name."""

import hashlib
from pathlib import Path

import numpy as np

from medseg.io.nifti import write_labels
from medseg.volume import Grid, LabelTable, LabelVolume

SHAPE = (96, 96, 80)
TABLE = LabelTable.from_names({1: "one", 2: "two"})


def label_map(seed: int) -> LabelVolume:
    """Noise in a corner, so that the file takes several writes."""
    array = np.zeros(SHAPE, np.uint8)
    corner = np.random.default_rng(seed).integers(0, 3, (60, 60, 60))
    array[:60, :60, :60] = corner
    return LabelVolume(array, Grid.from_spacing(SHAPE), TABLE)


MAPS = {"old": label_map(0), "new": label_map(1)}


def sums(folder: Path) -> dict[str, str]:
    """The sha256 of each of MAPS as a file, by which they are told."""
    found = {}
    for name, labels in MAPS.items():
        path = folder / f"{name}.nii.gz"
        write_labels(path, labels)
        found[_sha256(path)] = name
        path.unlink()
    assert len(found) == len(MAPS)
    return found


def standing(path: Path, known: dict[str, str]) -> str:
    """Which map `path` is; "none" where there is no file, and "broken" where it is neither."""
    return known.get(_sha256(path), "broken") if path.exists() else "none"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
