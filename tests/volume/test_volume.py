"""Images and label maps refuse at birth what would go wrong later."""

import numpy as np
import pytest

from medseg.fault import InputFault
from medseg.volume import Grid, LabelTable, LabelVolume, Volume

GRID = Grid.from_spacing((3, 4, 5))
TABLE = LabelTable.from_names({1: "one", 5: "five"})


def image(**changes):
    array = np.zeros((2, 3, 4, 5), dtype=np.float32)
    for place, value in changes.get("at", {}).items():
        array[place] = value
    return array


def test_an_image_that_fits_is_taken():
    volume = Volume(image(at={(0, 0, 0, 0): 3e38, (0, 0, 0, 1): 3e38}), GRID, ("a", "b"))
    assert volume.array.shape == (2, 3, 4, 5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_voxel_that_is_no_number_is_refused_with_its_channel(bad):
    with pytest.raises(InputFault, match="channel b: 2 voxels") as fault:
        Volume(image(at={(1, 0, 0, 0): bad, (1, 2, 3, 4): bad}), GRID, ("a", "b"))
    assert fault.value.code == "E_NONFINITE"


def test_infinities_of_both_signs_do_not_cancel():
    with pytest.raises(InputFault, match="channel a: 2 voxels"):
        Volume(image(at={(0, 0, 0, 0): np.inf, (0, 0, 0, 1): -np.inf}), GRID, ("a", "b"))


@pytest.mark.parametrize(
    ("array", "channels", "code"),
    [
        (image(), ("a",), "E_CHANNELS"),
        (image()[:, :2], ("a", "b"), "E_CHANNELS"),
        (image()[0], ("a", "b"), "E_CHANNELS"),
        (image().astype(np.float64), ("a", "b"), "E_DTYPE"),
        (image().astype(np.int16), ("a", "b"), "E_DTYPE"),
    ],
)
def test_an_image_that_does_not_fit_is_refused(array, channels, code):
    with pytest.raises(InputFault) as fault:
        Volume(array, GRID, channels)
    assert fault.value.code == code


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_label_map_that_fits_is_taken(dtype):
    array = np.full((3, 4, 5), 5, dtype=dtype)
    array[0] = 0
    assert LabelVolume(array, GRID, TABLE).array is array


@pytest.mark.parametrize(
    ("array", "code"),
    [
        (np.zeros((3, 4, 6), np.uint8), "E_PAIR"),
        (np.zeros((1, 3, 4, 5), np.uint8), "E_PAIR"),
        (np.zeros((3, 4, 5), np.int16), "E_DTYPE"),
        (np.zeros((3, 4, 5), bool), "E_DTYPE"),
        (np.full((3, 4, 5), 2, np.uint8), "E_LABEL"),
    ],
)
def test_a_label_map_that_does_not_fit_is_refused(array, code):
    with pytest.raises(InputFault) as fault:
        LabelVolume(array, GRID, TABLE)
    assert fault.value.code == code
