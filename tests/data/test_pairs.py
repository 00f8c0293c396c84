from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg.data.card import load_card
from medseg.data.cases import Listing, open_listing
from medseg.data.pairs import check_pairs
from medseg.fault import InputFault
from medseg.io.nifti import read_volume
from medseg.progress import Progress

Write = Callable[..., Path]


@pytest.fixture
def root(tmp_path: Path, make_msd: Write) -> Path:
    return make_msd(tmp_path / "set", cases=6)


def opened(root: Path) -> Listing:
    return open_listing(load_card("hippocampus"), root)


def image(root: Path, number: int) -> Path:
    return root / f"imagesTr/hippocampus_{number:03d}.nii.gz"


def label(root: Path, number: int) -> Path:
    return root / f"labelsTr/hippocampus_{number:03d}.nii.gz"


def test_a_good_data_set_passes_and_tells_its_progress(root: Path) -> None:
    events: list[Progress] = []
    check_pairs(opened(root), listener=events.append)
    assert [e.done for e in events if e.stage == "check images and labels"] == [1, 2, 3, 4, 5, 6]


def test_grids_and_channels_of_all_cases_are_refused_at_once_by_their_headers(
    root: Path, write_image: Write, write_labels: Write
) -> None:
    write_labels(label(root, 1), affine=np.diag([2.0, 1, 1, 1]))
    write_labels(label(root, 3), affine=np.diag([-1.0, 1, 1, 1]))
    write_image(image(root, 5), channels=2)
    with pytest.raises(InputFault) as caught:
        check_pairs(opened(root))
    lines = str(caught.value).splitlines()
    assert caught.value.code == "E_PAIR"
    assert len(lines) == 4
    assert "hippocampus_001: hippocampus_001.nii.gz is not on the grid" in lines[1]
    assert "orientation LAS against RAS" in lines[2] or "RAS against LAS" in lines[2]
    assert "hippocampus_005: 2 channels" in lines[3]


def test_label_values_and_wrong_numbers_of_all_cases_are_refused_at_once(
    root: Path, write_labels: Write
) -> None:
    write_labels(label(root, 2), values=(1, 2, 7))
    write_bad_number(image(root, 2))
    write_labels(label(root, 4), values=(9,))
    with pytest.raises(InputFault) as caught:
        check_pairs(opened(root))
    lines = str(caught.value).splitlines()[1:]
    assert len(lines) == 3
    assert "hippocampus_002" in lines[0]
    assert "[E_NONFINITE]" in lines[0]
    assert "label values 7 (" in lines[1]
    assert "[E_LABEL]" in lines[1]
    assert "label values 9 (" in lines[2]


def test_a_damaged_file_is_one_line_among_the_others(root: Path) -> None:
    image(root, 3).write_bytes(image(root, 3).read_bytes()[:40])
    label(root, 4).write_bytes(b"")
    with pytest.raises(InputFault) as caught:
        check_pairs(opened(root))
    assert len(str(caught.value).splitlines()) == 3


def test_faults_that_are_many_are_cut_short(root: Path, write_labels: Write) -> None:
    listing = opened(root)
    for number in range(1, 7):
        write_labels(label(root, number), values=(3,))
    with pytest.raises(InputFault) as caught:
        check_pairs(listing)
    assert str(caught.value).count("[E_LABEL]") == 6


def write_bad_number(path: Path) -> None:
    data = read_volume([path], ["MRI"]).array[0].copy()
    data[1, 1, 1] = np.nan
    nib.save(nib.Nifti1Image(data, np.eye(4)), path)
