"""The verbs end to end, on a small synthetic set: exit codes, files, and sentences."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg.cli import main
from medseg.shipped import shipped_files

Arguments = Callable[..., list[str]]


def test_training_leaves_a_whole_run_folder(run: Path) -> None:
    for name in ("recipe.yaml", "split.json", "plan.json", "log.csv", "bundle/bundle.json"):
        assert (run / name).is_file(), name
    assert len(list((run / "pictures").glob("*.png"))) == 2
    assert len((run / "log.csv").read_text().splitlines()) == 3
    assert (run / "checkpoints" / "last.ckpt.sha256").is_file()


def test_a_second_start_is_refused_and_names_resume(
    run: Path, hippocampi: Path, training: Arguments, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(training(hippocampi, run.parents[1])) == 2
    assert "--resume" in capsys.readouterr().err


def test_predict_then_evaluate(run: Path, hippocampi: Path, tmp_path: Path) -> None:
    split = json.loads((run / "split.json").read_text())
    inputs = [str(hippocampi / "imagesTr" / f"{case}.nii.gz") for case in split["validation"]]
    out = tmp_path / "out"
    assert main(["predict", str(run / "bundle"), *inputs, "-o", str(out)]) == 0
    first = nib.load(out / Path(inputs[0]).name)
    source = nib.load(inputs[0])
    assert first.shape == source.shape
    np.testing.assert_allclose(first.affine, source.affine, atol=1e-5)
    report = tmp_path / "report"
    code = main(
        [
            *("evaluate", str(out), str(hippocampi / "labelsTr"), "-o", str(report)),
            *("--bundle", str(run / "bundle"), "--cases", str(run / "split.json")),
            *("--nsd", "surface-elements"),
        ]
    )
    assert code == 0
    assert json.loads((report / "scores.json").read_text())["nsd"] == "surface-elements"
    for name in ("scores.csv", "summary.csv", "scores.json", "report.html"):
        assert (report / name).is_file()


def test_one_bad_case_is_told_and_the_rest_is_done(
    run: Path, hippocampi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = tmp_path / "in"
    inputs.mkdir()
    good = min((hippocampi / "imagesTr").glob("*.nii.gz"))
    shutil.copy(good, inputs / "good.nii.gz")
    (inputs / "cut.nii.gz").write_bytes(good.read_bytes()[:2000])
    out = tmp_path / "out"
    assert main(["predict", str(run / "bundle"), str(inputs), "-o", str(out)]) == 3
    assert [path.name for path in sorted(out.iterdir())] == [
        ".medseg",
        "good.nii.gz",
        "pictures",
        "pictures.png",
        "report.csv",
    ]
    assert "cut" in capsys.readouterr().err
    with (out / "report.csv").open() as file:
        rows = {row["case"]: row for row in csv.DictReader(file)}
    assert rows["cut"]["state"] == "failed"
    assert rows["cut"]["code"].startswith("E_")
    assert "cut.nii.gz" in rows["cut"]["message"]
    assert rows["good"]["state"] == "done"
    assert float(rows["good"]["Anterior ml"]) > 0


def test_missing_data_tell_where_how_to_get_them_and_the_demo(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["train", "hippocampus_resenc", "data.root=/nowhere/x", "-o", str(tmp_path)])
    told = capsys.readouterr().err
    assert code == 2
    for part in ("/nowhere/x", "medicaldecathlon", "CC-BY-SA", "--demo"):
        assert part in told
    assert list(tmp_path.iterdir()) == []


def test_labels_on_another_grid_and_strange_values_are_told_at_once(
    hippocampi: Path, training: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    shutil.copytree(hippocampi, root)
    first, second = sorted((root / "labelsTr").glob("*.nii.gz"))[:2]
    image = nib.load(first)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[1:], image.affine), first)
    image = nib.load(second)
    array = np.asarray(image.dataobj).copy()
    array[0, 0, 0] = 9
    nib.save(nib.Nifti1Image(array, image.affine), second)
    code = main(training(root, tmp_path))
    told = capsys.readouterr().err
    assert code == 2
    assert first.name.split(".")[0] in told


def test_plan_prints_a_section_and_is_what_auto_uses(
    hippocampi: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(hippocampi), "--card", "hippocampus"]) == 0
    told = capsys.readouterr().out
    assert "spacing_mm: [1, 1, 1]" in told
    assert "patch_size:" in told


def test_json_lines_are_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0]["columns"][0] == "name"


def test_names_of_a_table_can_be_copied(capsys: pytest.CaptureFixture[str]) -> None:
    """A terminal is 80 columns wide here, and the table of recipes wider."""
    assert main(["recipes"]) == 0
    told = capsys.readouterr().out
    names = [path.stem for path in shipped_files("recipes")]
    assert len(names) > 20
    assert [name for name in names if f"{name} " not in told] == []
