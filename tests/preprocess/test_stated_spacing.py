"""Voxel sizes of oblique images are those that SimpleITK reads, so nnU-Net's shapes are ours."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape
from scipy.spatial.transform import Rotation

from medseg.io.nifti import read_volume
from medseg.preprocess.geometry import respaced, stated_spacing
from medseg.volume import Grid

SPACINGS = ((1.5, 0.8, 2.5), (0.7, 0.7, 3.0), (0.9375, 0.48828125, 1.2))


@pytest.mark.parametrize("seed", range(12))
def test_shapes_of_oblique_images_are_nnunets_also_at_halves(tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    turn = Rotation.from_euler("xyz", random.uniform(-20, 20, 3), degrees=True).as_matrix()
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag(SPACINGS[seed % 3])
    image = nibabel.Nifti1Image(np.arange(60, dtype=np.float32).reshape(3, 4, 5), affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, 1)
    image.set_qform(affine, seed % 2)
    path = tmp_path / "a.nii"
    nibabel.save(image, path)
    theirs = SimpleITK.ReadImage(path).GetSpacing()
    grid = read_volume([path], ("CT",)).grid
    assert stated_spacing(grid) == theirs
    for side in range(21, 61, 2):
        for wanted in (0.75, 1.0, 1.5, 2.0):
            big = Grid((side, side + 1, side), grid.affine)
            shape = compute_new_shape(big.shape, theirs, (wanted,) * 3)
            assert respaced(big, (wanted,) * 3).shape == tuple(shape)


def test_a_straight_spacing_is_taken_to_the_last_bit() -> None:
    grid = Grid.from_spacing((4, 5, 6), (0.7, 1 / 3, 1.2000000477))
    assert stated_spacing(grid) == (0.7, 1 / 3, 1.2000000477)
