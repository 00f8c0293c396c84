"""Which cases an input holds, and how they are named."""

import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from medseg.bundle.cases import found_cases
from medseg.bundle.inputs import DicomCase, NiftiCase
from medseg.fault import InputFault
from medseg.io.nifti import write_volume
from medseg.volume import Grid, Volume
from tests.io.dicom.others import color_picture
from tests.io.dicom.packing import zipped
from tests.io.dicom.phantom import Made, save

SAFE = re.compile(r"[A-Za-z0-9._-]+")
TWO = ("T1", "FLAIR")


def nifti(*paths: Path) -> None:
    array = np.arange(60, dtype=np.float32).reshape(1, 3, 4, 5)
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_volume(path, Volume(array, Grid((3, 4, 5), np.eye(4)), ("a",)))


def files_of(inputs: list[Path], channels: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    with found_cases(inputs, channels) as cases:
        assert all(isinstance(case, NiftiCase) for case in cases.values())
        return {name: tuple(path.name for path in case.files) for name, case in cases.items()}


def names_of(*inputs: Path) -> list[str]:
    with found_cases(list(inputs), ("CT",)) as cases:
        assert all(isinstance(case, DicomCase) for case in cases.values())
        return list(cases)


def fault_of(*inputs: Path, channels: tuple[str, ...] = ("CT",)) -> InputFault:
    with pytest.raises(InputFault) as fault, found_cases(list(inputs), channels):
        pass
    return fault.value


class TestNifti:
    def test_a_file_is_a_case_of_its_name(self, tmp_path: Path) -> None:
        nifti(tmp_path / "head.nii.gz", tmp_path / "Neck.v2.nii")
        found = files_of([tmp_path / "head.nii.gz", tmp_path / "Neck.v2.nii"], ("CT",))
        assert found == {"head": ("head.nii.gz",), "Neck.v2": ("Neck.v2.nii",)}

    def test_the_number_of_a_first_channel_is_no_part_of_the_name(self, tmp_path: Path) -> None:
        nifti(tmp_path / "a_0000.nii.gz", tmp_path / "b_0001.nii.gz")
        assert list(files_of([tmp_path], ("CT",))) == ["a", "b_0001"]

    def test_numbered_files_of_a_folder_are_the_channels_of_their_cases(
        self, tmp_path: Path
    ) -> None:
        nifti(*(tmp_path / f"{case}_000{n}.nii.gz" for case in "ba" for n in (1, 0)))
        assert files_of([tmp_path], TWO) == {
            "a": ("a_0000.nii.gz", "a_0001.nii.gz"),
            "b": ("b_0000.nii.gz", "b_0001.nii.gz"),
        }

    def test_numbered_files_may_be_named_one_by_one(self, tmp_path: Path) -> None:
        files = [tmp_path / f"a_000{n}.nii.gz" for n in (1, 0)]
        nifti(*files)
        assert files_of(files, TWO) == {"a": ("a_0000.nii.gz", "a_0001.nii.gz")}

    def test_files_that_end_in_a_channel_are_in_the_order_of_the_bundle(
        self, tmp_path: Path
    ) -> None:
        nifti(tmp_path / "x" / "p1-flair.nii.gz", tmp_path / "x" / "p1-t1.nii.gz")
        assert files_of([tmp_path / "x"], TWO) == {"x": ("p1-t1.nii.gz", "p1-flair.nii.gz")}

    def test_a_folder_of_folders_has_a_case_in_each(self, tmp_path: Path) -> None:
        nifti(*(tmp_path / case / f"{case}_{c}.nii.gz" for case in "ab" for c in TWO))
        (tmp_path / "empty").mkdir()
        assert list(files_of([tmp_path], TWO)) == ["a", "b"]

    def test_a_channel_whose_name_ends_another_word_is_not_taken_for_it(
        self, tmp_path: Path
    ) -> None:
        nifti(tmp_path / "x" / "p-notT1.nii.gz", tmp_path / "x" / "p-FLAIR.nii.gz")
        fault = fault_of(tmp_path / "x", channels=TWO)
        assert "channel T1 is missing" in str(fault)
        assert "p-notT1.nii.gz" in str(fault)

    def test_a_doubled_channel_is_refused_with_the_files(self, tmp_path: Path) -> None:
        nifti(*(tmp_path / "x" / f"{n}.nii.gz" for n in ("a-T1", "b-T1", "a-FLAIR")))
        fault = fault_of(tmp_path / "x", channels=TWO)
        assert fault.code == "E_CASES"
        assert "there more than once (a-T1.nii.gz, b-T1.nii.gz)" in str(fault)

    def test_two_inputs_of_one_name_are_refused(self, tmp_path: Path) -> None:
        nifti(tmp_path / "a" / "x.nii.gz", tmp_path / "b" / "x.nii.gz")
        assert "two inputs have this name" in str(fault_of(tmp_path / "a", tmp_path / "b"))

    def test_all_faults_are_told_at_once(self, tmp_path: Path) -> None:
        fault = fault_of(tmp_path / "gone", tmp_path / "gone.nii.gz")
        assert fault.code == "E_CASES"
        assert str(fault).count("there is no such file or folder") == 2


class TestDicom:
    def test_a_study_is_a_case_of_its_folders_name(self, tmp_path: Path) -> None:
        Made().write(tmp_path / "Head & Neck (2)")
        assert names_of(tmp_path / "Head & Neck (2)") == ["Head_Neck_2_"]

    def test_slices_may_be_named_one_by_one(self, tmp_path: Path) -> None:
        Made().write(tmp_path / "head")
        files = sorted((tmp_path / "head").iterdir())
        with found_cases(files, ("CT",)) as cases:
            assert list(cases) == ["head"]
            assert len(cases["head"].read(("CT",)).dicom_files or ()) == len(files) > 1

    def test_studies_in_one_folder_are_named_by_their_own_folders(self, tmp_path: Path) -> None:
        Made(study=1).write(tmp_path / "p1" / "scan")
        Made(study=2).write(tmp_path / "p2" / "scan")
        Made(study=2, series=2).write(tmp_path / "p2" / "again")
        assert names_of(tmp_path) == ["p1_scan", "p2"]

    def test_studies_that_lie_together_are_numbered(self, tmp_path: Path) -> None:
        for study in (1, 2):
            for path in Made(study=study).write(tmp_path / "made"):
                (tmp_path / "in").mkdir(exist_ok=True)
                path.rename(tmp_path / "in" / f"{study}{path.name}")
        assert names_of(tmp_path / "in") == ["in-1", "in-2"]

    def test_names_are_from_a_safe_alphabet(self, tmp_path: Path) -> None:
        for number, name in enumerate(("..", "Schädel 頭", "a\nb\x1b[2J", "-", "...")):
            folder = tmp_path / str(number) / (name if name != ".." else "..hidden")
            Made().write(folder)
            (found,) = names_of(folder)
            assert SAFE.fullmatch(found), found
            assert not found.startswith(".")

    def test_names_never_come_from_the_header(self, tmp_path: Path) -> None:
        told = {"PatientName": "Canary^Jane", "PatientID": "CANARY", "StudyID": "CANARY"}
        told |= {"SeriesDescription": "CANARY", "StudyDescription": "CANARY"}
        for study in (1, 2):
            Made(study=study, header=told).write(tmp_path / f"s{study}")
        assert names_of(tmp_path) == ["s1", "s2"]

    def test_a_zip_is_a_case_of_its_name(self, tmp_path: Path) -> None:
        files = {path.name: path.read_bytes() for path in Made().write(tmp_path / "in")}
        zipped(files, tmp_path / "scan 7.zip")
        assert names_of(tmp_path / "scan 7.zip") == ["scan_7"]

    def test_what_was_unpacked_is_gone_after_the_block(self, tmp_path: Path) -> None:
        files = {path.name: path.read_bytes() for path in Made().write(tmp_path / "in")}
        with found_cases([zipped(files, tmp_path / "a.zip")], ("CT",)) as cases:
            (case,) = cases.values()
            assert isinstance(case, DicomCase)
            folder = case.study[0].folder
            assert folder.is_dir()
            assert case.read(("CT",)).volume.array.shape == (1, 24, 20, 12)
        assert not folder.exists()

    def test_a_damaged_study_does_not_take_the_other_with_it(self, tmp_path: Path) -> None:
        Made(study=1).write(tmp_path / "p1")
        path = Made(study=2).write(tmp_path / "p2")[3]
        path.write_bytes(path.read_bytes()[:-9])
        with found_cases([tmp_path], ("CT",)) as cases:
            assert list(cases) == ["p1", "p2"]
            assert cases["p1"].read(("CT",)).notes == ()
            with pytest.raises(InputFault) as fault:
                cases["p2"].read(("CT",))
        assert fault.value.code == "E_TRUNC"
        assert path.name in str(fault.value)

    def test_a_study_travels_between_processes_with_the_faults_of_its_files(
        self, tmp_path: Path
    ) -> None:
        path = Made().write(tmp_path)[3]
        path.write_bytes(path.read_bytes()[:-9])
        with found_cases([tmp_path], ("CT",)) as cases:
            (case,) = pickle.loads(pickle.dumps(cases)).values()  # noqa: S301  # our own bytes
        with pytest.raises(InputFault) as fault:
            case.read(("CT",))
        assert fault.value.code == "E_TRUNC"

    def test_a_damaged_series_beside_a_whole_one_is_not_passed_over(self, tmp_path: Path) -> None:
        Made().write(tmp_path)
        for path in Made(series=2).write(tmp_path):
            path.write_bytes(path.read_bytes()[:-9])
        with found_cases([tmp_path], ("CT",)) as cases, pytest.raises(InputFault) as fault:
            cases[tmp_path.name].read(("CT",))
        assert fault.value.code == "E_TRUNC"

    def test_pictures_alone_are_no_case(self, tmp_path: Path) -> None:
        save(color_picture(), tmp_path / "a.dcm")
        assert fault_of(tmp_path).code == "E_COLOR"

    def test_what_is_neither_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("nothing here")
        assert fault_of(tmp_path).code == "E_NODATA"
        assert fault_of(tmp_path / "notes.txt").code == "E_MAGIC"
        assert fault_of(tmp_path / "gone").code == "E_NOTFILE"

    def test_nifti_and_dicom_inputs_may_stand_side_by_side(self, tmp_path: Path) -> None:
        Made().write(tmp_path / "d")
        nifti(tmp_path / "n.nii.gz")
        shutil.copy(tmp_path / "n.nii.gz", tmp_path / "m.nii.gz")
        with found_cases([tmp_path / "d", tmp_path / "n.nii.gz"], ("CT",)) as cases:
            assert {name: type(case) for name, case in cases.items()} == {
                "d": DicomCase,
                "n": NiftiCase,
            }
