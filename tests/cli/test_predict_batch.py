"""`medseg predict` over many cases: what is skipped, told, forecast and refused."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from medseg.cli import main
from medseg.cli.amounts import axes, duration_s, numbers, size_bytes


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(folder))
    return folder


@pytest.fixture
def inputs(hippocampi: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for file in sorted((hippocampi / "imagesTr").glob("*.nii.gz"))[:3]:
        shutil.copy(file, folder)
    return folder


def rows(out: Path) -> dict[str, dict[str, str]]:
    with (out / "report.csv").open(newline="") as file:
        return {row["case"]: row for row in csv.DictReader(file)}


def predict(run: Path, *rest: object) -> int:
    return main(["predict", str(run / "bundle"), *map(str, rest)])


def files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_inputs_may_stand_after_options(run: Path, inputs: Path, tmp_path: Path) -> None:
    first, second, _ = sorted(inputs.iterdir())
    out = tmp_path / "out"
    assert predict(run, first, "-o", out, "--dry-run", second) == 0
    assert predict(run, "--no-pictures", first, "-o", out, second) == 0
    assert set(rows(out)) == {first.name.split(".")[0], second.name.split(".")[0]}


def test_a_rerun_goes_on_and_says_what_it_does_again(
    run: Path, inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    (inputs / "cut.nii.gz").write_bytes(min(inputs.iterdir()).read_bytes()[:900])
    assert predict(run, inputs, "-o", out, "--no-pictures") == 3
    first = rows(out)
    assert [row["state"] for row in first.values()].count("done") == 3
    assert first["cut"]["code"].startswith("E_")
    made = {name: (out / name).stat().st_mtime_ns for name in files(out) if name.endswith("gz")}
    (inputs / "cut.nii.gz").unlink()
    capsys.readouterr()
    assert predict(run, f"{inputs}/*.gz", "-o", out, "--no-pictures") == 0
    assert {row["state"] for name, row in rows(out).items() if name != "cut"} == {"present"}
    assert rows(out)["cut"]["state"] == "failed"
    told = capsys.readouterr()
    assert told.out.count("there already") == 3
    assert {name: (out / name).stat().st_mtime_ns for name in made} == made
    assert predict(run, inputs, "-o", out, "--no-pictures", "--step", "1", "--mirror", "none") == 0
    assert capsys.readouterr().out.count("the settings changed") == 3
    assert {row["state"] for name, row in rows(out).items() if name != "cut"} == {"done"}


def test_nnunets_rounding_is_another_result_and_noted(
    run: Path, inputs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (image,) = sorted(inputs.iterdir())[:1]
    assert predict(run, image, "-o", out, "--no-pictures") == 0
    assert predict(run, image, "-o", out, "--no-pictures", "--rounding", "nnunet") == 0
    (row,) = rows(out).values()
    assert row["state"] == "done"
    (receipt,) = (out / ".medseg" / "receipts").iterdir()
    settings = json.loads(receipt.read_text())["settings"]
    exact = {"sums": "float16", "blended": "logits", "kernels": "reference"}
    assert settings | exact == settings


def test_a_dry_run_tells_all_and_writes_nothing(
    run: Path, inputs: Path, tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (inputs / "bad.nii.gz").write_text("x")
    capsys.readouterr()
    assert predict(run, inputs, "-o", tmp_path / "out", "--dry-run", "--json") == 3
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["code"] for line in lines if "error" in line] == ["E_MAGIC"]
    (table,) = [line for line in lines if "table" in line]
    assert table["columns"][:4] == ["case", "image", "windows", "forwards"]
    by_case = {row[0]: row for row in table["rows"]}
    assert len(by_case) == 4
    assert int(by_case["hippocampus_001"][2]) > 0
    assert float(by_case["hippocampus_001"][4]) > 0
    assert "E_MAGIC" in by_case["bad"]
    assert any("3 of 4 cases" in line.get("result", "") for line in lines)
    assert not (tmp_path / "out").exists()
    assert list(home.iterdir()) == []


def test_a_real_run_is_what_the_next_forecast_is_of(
    run: Path, inputs: Path, tmp_path: Path, home: Path
) -> None:
    assert predict(run, inputs, "-o", tmp_path / "out", "--no-pictures", "--step", "1") == 0
    (kept,) = (home / ".cache" / "medseg" / "speed").iterdir()
    assert json.loads(kept.read_text())["forward_s"] > 0


def test_a_deadline_is_met_by_giving_up_what_is_told(
    run: Path, inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert predict(run, inputs, "-o", tmp_path / "o", "--deadline", "1h", "--no-pictures") == 0
    assert "nothing given up" in capsys.readouterr().out
    assert predict(run, inputs, "-o", tmp_path / "p", "--deadline", "0.001s") == 2
    assert "forecast to take" in capsys.readouterr().err
    assert not (tmp_path / "p").exists()


def test_results_that_would_replace_their_images_are_refused(
    run: Path, inputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {file.name: file.read_bytes() for file in inputs.iterdir()}
    assert predict(run, inputs, "-o", inputs, "--overwrite") == 2
    assert "would replace its image" in capsys.readouterr().err
    assert {file.name: file.read_bytes() for file in inputs.iterdir()} == before


def test_each_case_has_a_picture_and_the_folder_a_page(
    run: Path, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert predict(run, inputs, "-o", out, "--step", "1", "--max-ram", "3GB") == 0
    names = sorted(path.name.removesuffix(".nii.gz") for path in inputs.iterdir())
    assert sorted(path.stem for path in (out / "pictures").iterdir()) == names
    assert (out / "pictures.png").read_bytes().startswith(b"\x89PNG")

    def broken(*_args: object, **_more: object) -> None:
        raise IndexError("a picture")

    monkeypatch.setattr("medseg.engine.pictures.draw_sheet", broken)
    assert predict(run, inputs, "-o", tmp_path / "second", "--step", "1") == 0
    assert all("no picture" in row["message"] for row in rows(tmp_path / "second").values())
    assert all(row["state"] == "done" for row in rows(tmp_path / "second").values())


def test_a_list_file_names_the_inputs(run: Path, inputs: Path, tmp_path: Path) -> None:
    first, second, _ = sorted(inputs.iterdir())
    (tmp_path / "list.txt").write_text(f"# two of three\nin/{first.name}\nin/{second.name}\n")
    out = tmp_path / "out"
    listed = ("--list", tmp_path / "list.txt", "-o", out, "--no-pictures", "--step", "1")
    assert predict(run, *listed) == 0
    assert len(rows(out)) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--step", "0"], "--step 0.0"),
        (["--step", "1.5"], "--step 1.5"),
        (["--mirror", "x"], "left to right"),
        (["--max-ram", "lots"], "8GB"),
        (["--max-ram", "0GB"], "8GB"),
        (["--max-vram", "-1"], "--max-vram"),
        (["--deadline", "soon"], "30m"),
        (["--folds", "one"], "0,2"),
        (["--batch-size", "0"], "1 or more"),
        (["--folds", "3"], "the bundle has one, 0"),
        (["--format", "niftii"], "did you mean nifti"),
    ],
)
def test_a_flag_that_means_nothing_is_told_before_anything_is_written(
    run: Path,
    inputs: Path,
    tmp_path: Path,
    arguments: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    try:
        code = predict(run, inputs, "-o", tmp_path / "out", *arguments)
    except SystemExit as end:
        code = end.code
    assert code == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_no_input_at_all_is_told(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(run, "-o", tmp_path / "out") == 2
    assert "--list" in capsys.readouterr().err


def test_amounts_are_read_as_people_write_them() -> None:
    sizes = {"8GB": 8e9, "512mb": 512e6, "2GiB": 2**31, "1.5G": 1.5e9, "700": 700, "4 GB": 4e9}
    assert {text: size_bytes("", text) for text in sizes} == sizes
    times = {"30m": 1800, "1h30m": 5400, "90s": 90, "1.5h": 5400}
    assert {text: duration_s("", text) for text in times} == times
    assert (axes("", "all"), axes("", "none"), axes("", "k,i")) == ((0, 1, 2), (), (0, 2))
    assert (numbers("", "all"), numbers("", "2, 0")) == (None, (0, 2))
