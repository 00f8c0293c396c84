"""What answers before anything heavy is loaded."""

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "monai", "pytorch_lightning", "nibabel", "scipy", "matplotlib")
MISTAKES = """\
name: x
data: {card: hippocampus, root: somewhere}
model: {name: swin_unetr, feature_sise: 24}
loss: {name: dice}
optimizer: {name: adamw, lr: fast}
schedule: {name: poly}
"""


def loaded_after(code: str) -> tuple[list[str], subprocess.CompletedProcess[str]]:
    """Which heavy packages a fresh interpreter has loaded after `code`."""
    tail = f"\nimport sys\nprint('HEAVY', *[n for n in {HEAVY} if n in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code + tail], capture_output=True, text=True, timeout=120
    )
    assert "HEAVY" in done.stdout, done.stderr
    return done.stdout.rpartition("HEAVY")[2].split(), done


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["train", "--help"],
        ["doctor", "--help"],
        ["recipes"],
        ["models"],
        ["datasets", "acdc"],
    ],
)
def test_light_verbs_load_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "from medseg.cli import main\n"
        f"try: main({arguments})\nexcept SystemExit as end: assert end.code == 0"
    )
    heavy, _ = loaded_after(code)
    assert heavy == []


@pytest.mark.parametrize("verb", ["check", "train"])
def test_a_recipe_with_three_mistakes_is_told_before_anything_heavy(
    tmp_path: Path, verb: str
) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(MISTAKES)
    heavy, done = loaded_after(
        f"from medseg.cli import main\nassert main(['{verb}', {str(path)!r}]) == 2"
    )
    assert heavy == []
    assert "3 mistakes" in done.stderr
    assert f"{path}:3: model.feature_sise" in done.stderr
    assert f"{path}:4: loss" in done.stderr
    assert f"{path}:5: optimizer.lr" in done.stderr
