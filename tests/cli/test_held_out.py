"""Predicting and scoring the cases that a run did not train on, and data sets by their cards."""

import csv
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from medseg.cli import main
from medseg.data.card import load_card
from medseg.data.cases import open_listing
from medseg.data.phantom.dataset import make_phantom
from medseg.training.checkpoints import load_checkpoint
from tests.cli.conftest import Arguments

OURS = """\
name: ours
title: One folder a patient
layout: folder
modality: MR
channels: [{channel}]
labels: {{1: Anterior, 2: Posterior}}
files:
  case: 'p\\d+'
  images: {{{channel}: "{{case}}/scan.nii.gz"}}
  label: "{{case}}/drawn.nii.gz"
licence: internal
citation: ""
how_to_get: Ask.
"""


@pytest.fixture(scope="module")
def labeled(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the run's bundle makes of its held-out cases, as its validation looks at them."""
    out = tmp_path_factory.mktemp("out")
    plain = ["--mirror", "none", "--no-pictures"]
    assert main(["predict", str(run / "bundle"), str(run), "-o", str(out), *plain]) == 0
    return out


def held_out(run: Path) -> set[str]:
    return set(json.loads((run / "split.json").read_bytes())["validation"])


def maps(folder: Path) -> set[str]:
    return {path.name.removesuffix(".nii.gz") for path in folder.glob("*.nii.gz")}


def dice(report: Path) -> dict[str, list[float]]:
    """Those of every label, by case."""
    found: dict[str, list[float]] = {}
    with (report / "scores.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["case"], []).append(float(row["dice"]))
    return found


def nested(hippocampi: Path, root: Path) -> Path:
    """Two cases of the set, in a folder each."""
    for number, image in enumerate(sorted((hippocampi / "imagesTr").glob("*.nii.gz"))[:2]):
        folder = root / f"p{number}"
        folder.mkdir(parents=True)
        shutil.copy(image, folder / "scan.nii.gz")
        shutil.copy(hippocampi / "labelsTr" / image.name, folder / "drawn.nii.gz")
    return root


def test_a_run_stands_for_the_cases_it_did_not_train_on(
    run: Path, labeled: Path, tmp_path: Path
) -> None:
    names = held_out(run)
    assert len(names) == 2
    assert maps(labeled) == names
    assert main(["evaluate", str(labeled), str(run), "-o", str(tmp_path)]) == 0
    found = dice(tmp_path)
    assert set(found) == names
    # The score that this network was chosen by.
    with (run / "log.csv").open(newline="") as file:
        best = max(float(row["dice"]) for row in csv.DictReader(file) if row["dice"])
    assert np.mean(list(found.values())) == pytest.approx(best, abs=1e-3)


def test_a_run_knows_its_labels_and_takes_fewer_cases(
    run: Path, labeled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = min(held_out(run))
    shutil.copy(labeled / f"{one}.nii.gz", tmp_path)
    command = ["evaluate", str(tmp_path), str(run), "-o", str(tmp_path / "r")]
    assert main(command) == 2
    assert "have no prediction" in capsys.readouterr().err
    assert main([*command, "--cases", one]) == 0
    assert set(dice(tmp_path / "r")) == {one}
    assert "Anterior" in capsys.readouterr().out


def test_the_truth_of_a_data_set_is_found_by_its_card(
    hippocampi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = nested(hippocampi, tmp_path / "ours")
    card = tmp_path / "ours.yaml"
    card.write_text(OURS.format(channel="MRI"))
    out = tmp_path / "out"
    out.mkdir()
    for patient in ("p0", "p1"):
        shutil.copy(root / patient / "drawn.nii.gz", out / f"{patient}.nii.gz")
    command = ["evaluate", str(out), str(root), "-o", str(tmp_path / "report")]
    assert main([*command, "--card", str(card)]) == 0
    assert dice(tmp_path / "report") == {"p0": [1, 1], "p1": [1, 1]}
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.count("data:image/png") == 6
    # An image that cannot lie under the labels is left out: only the labels are scored.
    image = nib.load(root / "p1" / "scan.nii.gz")
    moved = image.affine.copy()
    moved[:3, 3] += 0.5
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), moved), root / "p1" / "scan.nii.gz")
    assert main([*command, "--card", str(card)]) == 0
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.count("data:image/png") == 3
    capsys.readouterr()
    assert main(command) == 2
    assert "nothing says which labels are scored" in capsys.readouterr().err


def test_a_decathlon_task_brings_its_own_labels(hippocampi: Path, tmp_path: Path) -> None:
    command = ["evaluate", str(hippocampi / "labelsTr"), str(hippocampi), "-o", str(tmp_path)]
    assert main([*command, "--card", "msd"]) == 0
    names = {case.id for case in open_listing(load_card("msd"), hippocampi).cases}
    assert set(dice(tmp_path)) == names


def test_a_card_without_labels_needs_them_for_a_plain_folder(
    hippocampi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(hippocampi / "labelsTr")
    assert main(["evaluate", folder, folder, "-o", str(tmp_path), "--card", "msd"]) == 2
    told = capsys.readouterr().err
    assert "the card msd leaves its labels to a data set's dataset.json" in told
    assert "--labels" in told


def test_the_images_of_a_data_set_are_found_by_its_card(
    run: Path, hippocampi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Label maps lie beside the images, and must not be taken for some."""
    root = nested(hippocampi, tmp_path / "ours")
    out, card = tmp_path / "out", tmp_path / "ours.yaml"
    command = ["predict", str(run / "bundle"), str(root), "-o", str(out), "--no-pictures"]
    card.write_text(OURS.format(channel="MRI"))
    assert main([*command, "--card", str(card)]) == 0
    assert maps(out) == {"p0", "p1"}
    image = nib.load(root / "p0" / "scan.nii.gz")
    assert nib.load(out / "p0.nii.gz").shape == image.shape
    card.write_text(OURS.format(channel="T2"))
    capsys.readouterr()
    assert main([*command, "--card", str(card)]) == 2
    assert "channels are T2, and the bundle takes MRI" in capsys.readouterr().err


def test_a_run_whose_data_moved_says_so(
    hippocampi: Path,
    training: Arguments,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = tmp_path / "data"
    shutil.copytree(hippocampi, root)
    monkeypatch.chdir(tmp_path)
    assert main(training(Path("data"), tmp_path / "runs")) == 0
    told = capsys.readouterr().out
    folder = tmp_path / "runs" / "hippocampus_resenc" / "fold_0"
    assert f"medseg evaluate out {folder} -o report" in told
    out = tmp_path / "out"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["predict", str(folder / "bundle"), str(folder), "-o", str(out)]) == 2
    told = capsys.readouterr().err
    assert f"{folder}: the run's data set data is not there" in told
    assert "where the run was started" in told
    assert main(["evaluate", str(out), str(folder), "-o", str(tmp_path / "report")]) == 2
    assert "--card" in capsys.readouterr().err
    assert not (tmp_path / "report").exists()


def test_folds_of_nnunet_decide_who_is_held_out(
    hippocampi: Path, training: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [case.id for case in open_listing(load_card("hippocampus"), hippocampi).cases]
    splits = tmp_path / "splits_final.json"
    folds = [{"train": names[1:], "val": names[:1]}, {"train": names[:-1], "val": names[-1:]}]
    splits.write_text(json.dumps(folds))
    asked = [f"data.splits={splits}", "data.fold=1", "trainer.epochs=1"]
    assert main(training(hippocampi, tmp_path / "runs", *asked)) == 0
    assert held_out(tmp_path / "runs" / "hippocampus_resenc" / "fold_1") == {names[-1]}
    capsys.readouterr()
    assert main(training(hippocampi, tmp_path / "more", *asked, "data.fold=2")) == 2
    assert "fold 2 is none of the 2 in" in capsys.readouterr().err
    assert not (tmp_path / "more" / "hippocampus_resenc" / "fold_2" / "checkpoints").exists()


def test_a_run_of_every_case_holds_none_out(
    hippocampi: Path, training: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(training(hippocampi, tmp_path, "data.fold=all", "trainer.average=0.9")) == 0
    told = capsys.readouterr().out
    assert "no case was held out, the last weights are kept" in told
    assert "evaluate" not in told
    folder = tmp_path / "hippocampus_resenc" / "fold_all"
    last = load_checkpoint(folder / "checkpoints" / "last.ckpt")
    assert last["state"]["step"] == 6
    kept = load_checkpoint(folder / "checkpoints" / "best.ckpt")["model"]
    assert all(torch.equal(kept[name], value) for name, value in last["average"].items())
    out = tmp_path / "out"
    command = ["predict", str(folder / "bundle"), "-o", str(out), "--no-pictures"]
    assert main([*command, str(folder)]) == 2
    assert "this run trained on every case" in capsys.readouterr().err
    image = min((hippocampi / "imagesTr").glob("*.nii.gz"))
    assert main([*command, str(image)]) == 0
    assert len(maps(out)) == 1


def test_brats_is_scored_by_regions_where_it_lies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = load_card("brats_2021")
    root = make_phantom(card, tmp_path / "data", subjects=1, seed=1, spacing_mm=(6, 6, 6))
    (case,) = open_listing(card, root).cases
    assert case.label is not None
    out = tmp_path / "out"
    out.mkdir()
    shutil.copy(case.label, out / f"{case.id}.nii.gz")
    command = ["evaluate", str(out), str(root), "-o", str(tmp_path / "report")]
    assert main([*command, "--card", "brats_2021"]) == 0
    told = capsys.readouterr().out
    assert "1 case\n" in told
    assert [name for name in ("WT", "TC", "ET") if f"\n{name} " not in told] == []
