import csv
from pathlib import Path

import pytest

from medseg.engine.job import Outcome
from medseg.engine.report import Report
from medseg.fault import InputFault


def rows(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "report.csv").open(newline="") as file:
        return {row["case"]: row for row in csv.DictReader(file)}


def done(folder: Path, case: str, ml: float, **changes: object) -> Outcome:
    given: dict = {
        "case": case,
        "state": "done",
        "voxels": {"liver": 5},
        "volumes_ml": {"liver": ml},
        "path": folder / "a" / f"{case}.nii.gz",
        "read_s": 1.0,
        "network_s": 2.0,
        **changes,
    }
    return Outcome(**given)


def written(folder: Path, *outcomes: Outcome) -> dict[str, dict[str, str]]:
    report = Report(folder)
    for outcome in outcomes:
        report.add(outcome)
    report.write()
    return rows(folder)


def test_a_row_tells_times_memory_voxels_and_the_place(tmp_path: Path) -> None:
    (row,) = written(tmp_path, done(tmp_path, "c", 1.5, peak_mb=812.4)).values()
    assert (row["state"], row["seconds"], row["network_s"]) == ("done", "3.00", "2.00")
    assert (row["liver voxels"], row["liver ml"]) == ("5", "1.500")
    assert (row["peak_mb"], row["path"]) == ("812", "a/c.nii.gz")


def test_rows_of_earlier_runs_and_other_labels_stay(tmp_path: Path) -> None:
    failed = Outcome(case="b", state="failed", code="E_X", message='of "two"\nlines, and commas')
    written(tmp_path, done(tmp_path, "a", 1), failed)
    other = {"volumes_ml": {"spleen": 2.0}, "voxels": {"spleen": 9}}
    found = written(tmp_path, done(tmp_path, "d", 0, **other), done(tmp_path, "a", 7))
    assert list(found) == ["a", "b", "d"]
    assert found["a"]["liver ml"] == "7.000"
    assert found["b"]["message"] == 'of "two"\nlines, and commas'
    assert (found["d"]["liver ml"], found["d"]["spleen ml"]) == ("", "2.000")


def test_a_case_kept_without_a_receipt_keeps_its_figures(tmp_path: Path) -> None:
    written(tmp_path, done(tmp_path, "a", 3))
    found = written(tmp_path, Outcome(case="a", state="present", message="kept"))
    assert (found["a"]["state"], found["a"]["liver ml"]) == ("present", "3.000")


def test_names_of_any_bytes_can_be_reported(tmp_path: Path) -> None:
    assert list(written(tmp_path, done(tmp_path, "a\udcff", 1))) == ["a\\udcff"]


def test_the_file_is_there_from_the_first_case_on(tmp_path: Path) -> None:
    Report(tmp_path).add(done(tmp_path, "a", 3))
    assert list(rows(tmp_path)) == ["a"]


def test_another_programs_report_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "report.csv").write_text("patient,dose\n1,2\n")
    with pytest.raises(InputFault) as fault:
        Report(tmp_path)
    assert fault.value.code == "E_EXISTS"
