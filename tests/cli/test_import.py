"""`medseg import`: what is mistyped is one sentence, before anything heavy is loaded."""

import subprocess
import sys
from pathlib import Path

import pytest

from medseg.cli.main import main


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nnunet", "A", "B", "-o", "X"], "takes one, and its folds by --folds"),
        (["nnunet", "A", "-o", "X", "--folds", "0,0"], "--folds 0,0: numbers with commas"),
        (["nnunet", "A", "-o", "X", "--folds", "five"], "--folds five: numbers with commas"),
        (["nnunet", "A", "-o", "X", "--folds", ","], "--folds ,: numbers with commas"),
        (["folds", "A", "B", "-o", "X", "--folds", "0"], "--folds is for medseg import nnunet"),
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
