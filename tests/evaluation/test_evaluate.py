import math
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg.evaluation.evaluate import MEAN, Evaluation, evaluate, evaluate_pairs
from medseg.evaluation.interval import bootstrap_intervals
from medseg.evaluation.pairs import find_pairs
from medseg.fault import InputFault
from medseg.io.nifti import write_labels
from medseg.progress import Progress
from medseg.volume import Grid, LabelTable, LabelVolume, Region, Target

TABLE = LabelTable.from_names({1: "front", 2: "back"})
LABELS = Target(TABLE)
GRID = Grid.from_spacing((12, 10, 8), (1, 1, 2))


def box(front: int, back: int) -> np.ndarray:
    labels = np.zeros(GRID.shape, dtype=np.uint8)
    labels[2 : 2 + front, 2:8, 2:6] = 1
    labels[8 : 8 + back, 2:8, 2:6] = 2
    return labels


def write(folder: Path, name: str, array: np.ndarray, grid: Grid = GRID) -> None:
    folder.mkdir(exist_ok=True)
    write_labels(folder / f"{name}.nii.gz", LabelVolume(array, grid, TABLE))


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Three cases: exact, smaller by half, and one in which `back` is missed."""
    predictions, truths = tmp_path / "predictions", tmp_path / "truths"
    for name, prediction in (("a", box(4, 2)), ("b", box(2, 2)), ("c", box(4, 0))):
        write(truths, name, box(4, 2))
        write(predictions, name, prediction)
    return predictions, truths


def summary(evaluation: Evaluation, name: str, metric: str):
    (found,) = (s for s in evaluation.summaries() if (s.name, s.metric) == (name, metric))
    return found


def test_every_case_and_structure_is_scored(folders: tuple[Path, Path]) -> None:
    events: list[Progress] = []
    found = evaluate(*folders, LABELS, listener=events.append)
    dice = {case.case: {n: s.dice for n, s in case.scores.items()} for case in found.cases}
    assert dice == {
        "a": {"front": 1.0, "back": 1.0},
        "b": {"front": pytest.approx(2 / 3), "back": 1.0},
        "c": {"front": 1.0, "back": 0.0},
    }
    assert [event.text for event in events] == ["a", "b", "c"]
    assert [case.case for case in found.worst_first()] == ["c", "b", "a"]


def test_means_leave_out_what_is_not_defined_and_count_it(folders: tuple[Path, Path]) -> None:
    found = evaluate(*folders, LABELS)
    back = summary(found, "back", "hd95_mm")
    assert (back.mean, back.cases, back.undefined) == (0.0, 2, 1)
    overall = summary(found, MEAN, "dice")
    assert overall.mean == pytest.approx((1 + 5 / 6 + 0.5) / 3)
    assert overall.mean == pytest.approx(found.mean("dice"))
    assert overall.low <= overall.mean <= overall.high


def test_regions_are_scored_beside_labels_and_lead_the_mean(folders: tuple[Path, Path]) -> None:
    target = Target(TABLE, (Region("whole", (1, 2), 1),))
    found = evaluate(*folders, target)
    assert list(found.cases[0].scores) == ["whole", "front", "back"]
    assert found.headline == ("whole",)
    assert found.mean("dice") == pytest.approx(np.mean(found.values("whole", "dice")))


def test_two_files_are_one_case(folders: tuple[Path, Path]) -> None:
    predictions, truths = folders
    found = evaluate(predictions / "b.nii.gz", truths / "a.nii.gz", LABELS)
    assert [case.case for case in found.cases] == ["b"]
    assert math.isnan(summary(found, MEAN, "dice").low)


def test_missing_predictions_are_listed_and_refused(folders: tuple[Path, Path]) -> None:
    (folders[0] / "a.nii.gz").unlink()
    (folders[0] / "c.nii.gz").unlink()
    with pytest.raises(InputFault, match=r"2 of 3 cases .* \(a, c\)") as fault:
        evaluate(*folders, LABELS)
    assert fault.value.code == "E_MISSING"


def test_missing_predictions_count_as_empty_where_allowed(folders: tuple[Path, Path]) -> None:
    (folders[0] / "a.nii.gz").unlink()
    found = evaluate(*folders, LABELS, allow_missing=True)
    assert found.missing == ("a",)
    assert found.cases[0].scores["front"].dice == 0.0
    assert found.cases[0].scores["front"].truth_volume_ml > 0


def test_only_the_named_cases_are_scored(folders: tuple[Path, Path]) -> None:
    found = evaluate(*folders, LABELS, cases=["c", "a"])
    assert [case.case for case in found.cases] == ["c", "a"]
    assert found.unscored == ("b",)
    with pytest.raises(InputFault, match="no truth for z") as fault:
        evaluate(*folders, LABELS, cases=["z"])
    assert fault.value.code == "E_MISSING"


def test_a_prediction_without_truth_is_reported(folders: tuple[Path, Path]) -> None:
    write(folders[0], "extra", box(1, 1))
    found = evaluate(*folders, LABELS)
    assert found.unscored == ("extra",)
    assert len(found.cases) == 3


def test_all_pairs_on_other_grids_are_told_at_once(folders: tuple[Path, Path]) -> None:
    write(folders[0], "a", box(4, 2), Grid.from_spacing(GRID.shape, (1, 1, 2.5)))
    write(folders[0], "b", box(4, 2)[:-1], Grid.from_spacing((11, 10, 8), (1, 1, 2)))
    with pytest.raises(InputFault) as fault:
        evaluate(*folders, LABELS)
    assert fault.value.code == "E_PAIR"
    assert "2 of 3" in str(fault.value)
    assert re.search(r"  a: .*corners up to 3.5 mm apart", str(fault.value))
    assert re.search(r"  b: .*12x10x8 voxels against 11x10x8", str(fault.value))


def test_a_case_that_cannot_be_scored_costs_that_case_alone(folders: tuple[Path, Path]) -> None:
    strange = LabelVolume(box(4, 2) * 3, GRID, LabelTable.from_names({3: "x", 6: "y"}))
    write_labels(folders[0] / "a.nii.gz", strange)
    pairs = find_pairs(*folders).pairs
    found = evaluate_pairs(pairs, LABELS)
    assert [case.case for case in found.cases] == ["b", "c"]
    (refused,) = found.refused
    assert (refused.case, refused.code) == ("a", "E_LABEL")
    assert found.mean("dice") == pytest.approx((5 / 6 + 0.5) / 2)
    with pytest.raises(InputFault, match=r"1 of 1 cases cannot be scored") as fault:
        evaluate_pairs(pairs[:1], LABELS)
    assert fault.value.code == "E_LABEL"


def test_a_copy_that_kept_the_other_form_lies_on_the_same_grid(folders: tuple[Path, Path]) -> None:
    """A program that prefers the qform writes the same voxels 0.2 mm aside."""
    moved = np.array(GRID.affine)
    moved[0, 3] += 0.2
    both = nib.load(folders[1] / "a.nii.gz")
    both.set_sform(moved, 2)
    nib.save(both, folders[1] / "a.nii.gz")
    found = evaluate(*folders, LABELS, cases=["a"])
    assert found.cases[0].scores["back"].dice == 1.0
    write(folders[0], "a", box(4, 2), Grid(GRID.shape, moved + np.eye(4, k=3) * 0.2))
    with pytest.raises(InputFault, match=r"corners up to 0.2 mm apart"):
        evaluate(*folders, LABELS, cases=["a"])


def test_forms_that_disagree_are_scored_by_the_one_that_was_chosen(
    folders: tuple[Path, Path],
) -> None:
    moved = np.array(GRID.affine)
    moved[0, 3] += 3
    both = nib.load(folders[1] / "a.nii.gz")
    both.set_sform(moved, 2)
    nib.save(both, folders[1] / "a.nii.gz")
    pairs = find_pairs(*folders, cases=["a"]).pairs
    with pytest.raises(InputFault) as fault:
        evaluate_pairs(pairs, LABELS)
    assert fault.value.code == "E_QSFORM"
    assert evaluate_pairs(pairs, LABELS, form="qform").mean("dice") == 1.0


def test_what_was_asked_for_is_never_passed_over(folders: tuple[Path, Path]) -> None:
    predictions, truths = folders
    files = (predictions / "a.nii.gz", truths / "a.nii.gz")
    for images in (predictions / "none.nii.gz", truths / "nowhere"):
        with pytest.raises(InputFault, match=images.name) as fault:
            find_pairs(*files, images=images)
        assert fault.value.code == "E_NODATA"
    assert find_pairs(*files, images=truths).pairs[0].image == truths / "a.nii.gz"
    for paths in (files, folders):
        with pytest.raises(InputFault, match="no truth for b9"):
            find_pairs(*paths, cases=["b9"])
    images = truths.parent / "images"
    write(images, "other", box(1, 1))
    with pytest.raises(InputFault, match=r"none of its images .* \(a, b, c\)") as fault:
        find_pairs(*folders, images=images)
    assert fault.value.code == "E_MISSING"


def test_a_file_and_a_folder_are_no_pair(folders: tuple[Path, Path], tmp_path: Path) -> None:
    predictions, truths = folders
    for pair in ((predictions / "a.nii.gz", truths), (predictions, truths / "a.nii.gz")):
        with pytest.raises(InputFault, match=r"a\.nii\.gz: it is a file, and its partner a folder"):
            find_pairs(*pair)
    with pytest.raises(InputFault, match=r"none\.nii\.gz: there is no such file or folder"):
        find_pairs(predictions / "a.nii.gz", tmp_path / "none.nii.gz")


@pytest.mark.parametrize("which", [0, 1])
def test_a_folder_that_is_not_there_or_empty_is_refused(
    folders: tuple[Path, Path], tmp_path: Path, which: int
) -> None:
    (tmp_path / "empty").mkdir()
    for other in (tmp_path / "nowhere", tmp_path / "empty"):
        prediction, truth = (other if n == which else path for n, path in enumerate(folders))
        with pytest.raises(InputFault, match=other.name) as fault:
            evaluate(prediction, truth, LABELS)
        assert fault.value.code == "E_NODATA"


def test_the_same_case_twice_is_refused(folders: tuple[Path, Path]) -> None:
    write_labels(folders[0] / "a.nii", LabelVolume(box(4, 2), GRID, TABLE))
    with pytest.raises(InputFault, match="same case"):
        evaluate(*folders, LABELS)


def test_intervals_cover_the_mean_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    samples = rng.normal(3.0, 1.0, size=(40, 400))
    low, high = bootstrap_intervals(samples, seed=1, resamples=1000).T
    assert 0.90 <= ((low < 3) & (high > 3)).mean() <= 0.98


def test_intervals_are_the_same_for_the_same_seed() -> None:
    values = np.random.default_rng(0).normal(size=(20, 3))
    values[3, 1] = np.nan
    first = bootstrap_intervals(values, seed=5)
    np.testing.assert_array_equal(first, bootstrap_intervals(values, seed=5))
    assert not np.array_equal(first, bootstrap_intervals(values, seed=6))
    assert np.isfinite(first).all()


def test_one_number_has_no_interval() -> None:
    values = np.array([[1.0, np.nan], [np.nan, np.nan], [np.nan, 2.0]])
    assert np.isnan(bootstrap_intervals(values, seed=0)).all()
