"""A folder of masks, and BIDS: the same voxels back; a half-written folder is never a whole one."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg.fault import InputFault
from medseg.io import label_folder
from medseg.io.bids import bids_path, read_bids, write_bids
from medseg.io.label_folder import INDEX, file_names, read_label_folder, write_label_folder
from medseg.io.nifti import write_labels
from medseg.volume import Grid, Label, LabelTable, LabelVolume
from tests.io.made_series import MadeSeries, made_labels, oblique, refuse_moved, turned

LABELS = turned(made_labels(MadeSeries(cosines=oblique(25, 40)).grid), (1, 2, 0), (0,))


def test_a_folder_holds_one_mask_of_0_and_1_a_label_and_comes_back(tmp_path: Path) -> None:
    write_label_folder(tmp_path / "case", LABELS)
    names = sorted(path.name for path in (tmp_path / "case").iterdir())
    assert names == ["labels.csv", "left_kidney.nii.gz", "tumor.nii.gz", "umlaut.nii.gz"]
    mask = nib.nifti1.load(tmp_path / "case" / "tumor.nii.gz")
    assert np.array_equal(np.asarray(mask.dataobj), LABELS.array == 3)
    assert np.allclose(mask.affine, LABELS.grid.affine, atol=1e-4)
    again = read_label_folder(tmp_path / "case")
    assert again.table == LABELS.table
    refuse_moved(LABELS, again)


def test_an_absent_label_has_its_empty_mask(tmp_path: Path) -> None:
    array = np.where(LABELS.array == 3, 0, LABELS.array).astype(np.uint8)
    write_label_folder(tmp_path, LabelVolume(array, LABELS.grid, LABELS.table))
    assert np.asarray(nib.nifti1.load(tmp_path / "tumor.nii.gz").dataobj).max() == 0
    assert np.array_equal(read_label_folder(tmp_path).array, array)


def test_a_folder_whose_writing_was_cut_short_is_not_read_and_can_be_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_label_folder(tmp_path, LABELS)
    written = []

    def fails_at_the_second(path: Path, labels: LabelVolume) -> None:
        if written:
            raise InputFault(f"{path}: the disk is full.", code="E_DISKFULL")
        written.append(path)
        write_labels(path, labels)

    with monkeypatch.context() as patched:
        patched.setattr(label_folder, "write_labels", fails_at_the_second)
        with pytest.raises(InputFault):
            write_label_folder(tmp_path, LABELS)
    with pytest.raises(InputFault) as told:
        read_label_folder(tmp_path)
    assert told.value.code == "E_PARTIAL"
    write_label_folder(tmp_path, LABELS)
    refuse_moved(LABELS, read_label_folder(tmp_path))


def test_masks_of_labels_that_are_no_more_are_removed(tmp_path: Path) -> None:
    write_label_folder(tmp_path, LABELS)
    table = LabelTable.from_names({3: "tumor"})
    array = np.where(LABELS.array == 3, 3, 0).astype(np.uint8)
    write_label_folder(tmp_path, LabelVolume(array, LABELS.grid, table))
    assert sorted(path.name for path in tmp_path.iterdir()) == [INDEX, "tumor.nii.gz"]


def test_a_folder_with_other_images_is_left_alone(tmp_path: Path) -> None:
    write_labels(tmp_path / "scan.nii.gz", LABELS)
    with pytest.raises(InputFault) as told:
        write_label_folder(tmp_path, LABELS)
    assert told.value.code == "E_EXISTS"
    assert [path.name for path in tmp_path.iterdir()] == ["scan.nii.gz"]


def test_masks_that_overlap_or_lie_elsewhere_are_refused(tmp_path: Path) -> None:
    write_label_folder(tmp_path, LABELS)
    one = LabelTable.from_names({1: "tumor"})
    full = LabelVolume(np.ones_like(LABELS.array), LABELS.grid, one)
    write_labels(tmp_path / "tumor.nii.gz", full)
    with pytest.raises(InputFault) as told:
        read_label_folder(tmp_path)
    assert told.value.code == "E_OVERLAP"
    moved = LABELS.grid.affine.copy()
    moved[0, 3] += 1
    write_labels(
        tmp_path / "tumor.nii.gz",
        LabelVolume(np.zeros_like(LABELS.array), Grid(LABELS.grid.shape, moved), one),
    )
    with pytest.raises(InputFault) as told:
        read_label_folder(tmp_path)
    assert told.value.code == "E_PAIR"
    (tmp_path / "tumor.nii.gz").unlink()
    with pytest.raises(InputFault) as told:
        read_label_folder(tmp_path)
    assert told.value.code == "E_NOTFILE"


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("Left Kidney", "left_kidney"),
        ("../../etc/passwd", "etc_passwd"),
        ("CON", "label_con"),
        ("腎臓", "label_5"),
        ("Größe", "große".encode("ascii", "ignore").decode()),
        ("x" * 300, "x" * 100),
    ],
)
def test_file_names_are_safe_everywhere(name: str, file: str) -> None:
    assert file_names(LabelTable([Label(5, name, (0, 0, 0))])) == {5: f"{file}.nii.gz"}


def test_labels_that_come_to_one_file_name_are_refused() -> None:
    with pytest.raises(InputFault, match="rename one") as told:
        file_names(LabelTable.from_names({1: "a b", 2: "a_b"}))
    assert told.value.code == "E_TABLE"


@pytest.mark.parametrize(
    ("case", "place"),
    [
        ("BRATS_001", "sub-BRATS001/anat/sub-BRATS001_desc-medseg_dseg.nii.gz"),
        ("sub-01_T1w", "sub-01/anat/sub-01_desc-medseg_dseg.nii.gz"),
        ("sub-01_ses-2_run-3_T1w", "sub-01/ses-2/anat/sub-01_ses-2_run-3_desc-medseg_dseg.nii.gz"),
    ],
)
def test_bids_names_keep_their_entities(case: str, place: str) -> None:
    assert bids_path(Path("out"), case) == Path("out") / place


def test_a_case_without_letters_has_no_bids_name() -> None:
    with pytest.raises(InputFault) as told:
        bids_path(Path("out"), "___")
    assert told.value.code == "E_CASES"


def test_a_bids_segmentation_comes_back_with_its_table(tmp_path: Path) -> None:
    path = bids_path(tmp_path, "sub-01_ses-2_T1w")
    write_bids(path, LABELS, model_name="m", model_version="1")
    again = read_bids(path)
    assert again.table == LABELS.table
    refuse_moved(LABELS, again)
    description = json.loads((tmp_path / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"
    assert description["GeneratedBy"][0]["Name"] == "medseg"
    rows = path.with_name("sub-01_ses-2_desc-medseg_dseg.tsv").read_text("utf-8").splitlines()
    assert rows[0] == "index\tname\tcolor"
    assert len(rows) == 1 + len(LABELS.table)


def test_a_data_set_that_describes_itself_is_not_described_again(tmp_path: Path) -> None:
    (tmp_path / "dataset_description.json").write_text("{}")
    write_bids(bids_path(tmp_path, "a"), LABELS, model_name="m", model_version="1")
    assert (tmp_path / "dataset_description.json").read_text() == "{}"


@pytest.mark.parametrize("text", ["", "index\tname\n1", "index\tname\nx\ty", "name\ny"])
def test_a_bids_table_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    path = bids_path(tmp_path, "a")
    write_bids(path, LABELS, model_name="m", model_version="1")
    path.with_name("sub-a_desc-medseg_dseg.tsv").write_text(text)
    with pytest.raises(InputFault) as told:
        read_bids(path)
    assert told.value.code == "E_TABLE"
