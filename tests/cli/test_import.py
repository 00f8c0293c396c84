"""`medseg import`: what is mistyped is one sentence, before anything heavy is loaded."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from monai.networks.nets.swin_unetr import SwinUNETR

from medseg.bundle.bundle import load_bundle
from medseg.cli.main import main


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nnunet", "A", "B", "-o", "X"], "takes one, and its folds by --folds"),
        (["nnunet", "A", "-o", "X", "--folds", "0,0"], "--folds 0,0: numbers with commas"),
        (["nnunet", "A", "-o", "X", "--folds", "five"], "--folds five: numbers with commas"),
        (["nnunet", "A", "-o", "X", "--folds", ","], "--folds ,: numbers with commas"),
        (["folds", "A", "B", "-o", "X", "--folds", "0"], "--folds is for medseg import nnunet"),
        (["nnunet", "A", "-o", "X", "--model", "d_former"], "--model is for medseg import refer"),
        (["nnunet", "A"], "-o FOLDER is missing"),
        (["reference", "A"], "reference needs the name of a network"),
        (["reference", "A", "--model", "swin_unter"], "did you mean swin_unetr?"),
        (["reference", "A", "--model", "swin_unetr"], "A: there is no such file"),
        (["folds", "A", "-o", "X"], "an ensemble is made of two or more"),
        (["folds", "A", "B", "-o", "X"], "A: it is no bundle"),
        (["nnunet", "A", "-o", "X"], "A: it is no trained nnU-Net v2 model"),
        (["nnunet", "A", "-o", "X", "--fold", "0", "--chekpoint", "best"], "did you mean"),
    ],
)
def test_wrong_use_is_one_sentence(
    words: list[str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["import", *words]) == 2
    said = capsys.readouterr().err.strip()
    assert told in said
    assert "Traceback" not in said
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_no_model_is_told_before_torch_is_loaded(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom medseg.cli import main\n"
        f"assert main(['import', 'nnunet', {str(tmp_path)!r}, '-o', 'x']) == 2\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "no trained nnU-Net v2 model" in done.stderr


def test_a_checkpoint_of_the_authors_becomes_a_bundle(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = SwinUNETR(in_channels=4, out_channels=3, feature_size=12)
    torch.save({"state_dict": theirs.state_dict()}, tmp_path / "theirs.pt")
    words = ["import", "reference", str(tmp_path / "theirs.pt"), "model.feature_size=12"]
    words += ["model.faithful=true", f"data.root={tmp_path / 'nowhere'}"]
    words += ["plan.patch_size=[64,32,32]"]
    words += ["--model", "swin_unetr", "--recipe", "brats_swinunetr", "-o", str(tmp_path / "made")]
    assert main(words) == 0
    ours = load_bundle(tmp_path / "made").models[0].eval()
    image = torch.randn(1, 4, 64, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours(image), theirs.eval()(image), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--model", "swin_unetr"], "becomes a bundle by --recipe RECIPE -o FOLDER"),
        (["--model", "swin_unetr", "--recipe", "brats_resenc", "-o", "X"], "is of nnunet_resenc"),
        (["--model", "mednext", "--recipe", "hippocampus_mednext", "-o", "X"], "no reference"),
        (["--model", "swin_unetr", "--recipe", "brats_swinunetr", "-o", "X"], "another network"),
    ],
)
def test_a_checkpoint_that_does_not_fit_leaves_nothing_behind(
    words: list[str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"encoder.weight": torch.zeros(2)}, tmp_path / "strange.pt")
    assert main(["import", "reference", "strange.pt", *words]) == 2
    assert told in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["strange.pt"]
