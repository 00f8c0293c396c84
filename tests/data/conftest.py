"""Miniature data sets: real NIfTI files of a few voxels, in the layout that a test spells out."""

import json
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

SHAPE = (8, 9, 7)
Write = Callable[..., Path]


def _write_nifti(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


@pytest.fixture
def write_image() -> Write:
    """`write(path, channels=1, affine=None)`: noise that depends on the file's name."""

    def write(path: Path, *, channels: int = 1, affine: np.ndarray | None = None) -> Path:
        generator = np.random.default_rng(zlib.crc32(path.name.encode()))
        shape = SHAPE if channels == 1 else (*SHAPE, channels)
        noise = generator.normal(100.0, 20.0, shape).astype(np.float32)
        return _write_nifti(path, noise, affine)

    return write


@pytest.fixture
def write_labels() -> Write:
    """`write(path, values=(1, 2))`: a slab of each value in a background of 0."""

    def write(
        path: Path, *, values: Sequence[int] = (1, 2), affine: np.ndarray | None = None
    ) -> Path:
        array = np.zeros(SHAPE, dtype=np.uint8)
        for number, value in enumerate(values, start=1):
            array[2:6, number, 2:5] = value
        return _write_nifti(path, array, affine)

    return write


@pytest.fixture
def make_msd(write_image: Write, write_labels: Write) -> Write:
    """`make(root, cases=6)`: a Decathlon task with the labels Anterior and Posterior."""

    def make(root: Path, *, cases: int = 6, channels: Sequence[str] = ("MRI",)) -> Path:
        names = [f"hippocampus_{number:03d}" for number in range(1, cases + 1)]
        for name in names:
            write_image(root / f"imagesTr/{name}.nii.gz", channels=len(channels))
            write_labels(root / f"labelsTr/{name}.nii.gz")
        facts = {
            "modality": {str(number): name for number, name in enumerate(channels)},
            "labels": {"0": "background", "1": "Anterior", "2": "Posterior"},
            "training": [
                {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}
                for name in names
            ],
        }
        (root / "dataset.json").write_text(json.dumps(facts))
        return root

    return make
