"""Every fixture of the reference implementations, through the door a user has."""

import json
from pathlib import Path

import numpy as np
import pytest

from medseg.cli.main import main
from medseg.models.checkpoints.reference import MODULES, read_fixture, reference

FIXTURES = sorted(Path(__file__).parent.glob("*.npz"))
each_fixture = pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)


def test_all_fixtures_are_here() -> None:
    assert len(FIXTURES) == 15
    assert {read_fixture(path).model for path in FIXTURES} <= set(MODULES)


@each_fixture
def test_ours_gives_what_the_reference_gave(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fixture = read_fixture(path)
    assert main(["import", "reference", str(path), "--model", fixture.model, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["equal"]
    assert said["values"] == sum(output.numel() for output in fixture.outputs.values()) > 0
    assert said["tensors"] + said["left_out"] == len(fixture.weights)


@each_fixture
def test_a_changed_output_is_told(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored.files}
    name = next(iter(read_fixture(path).outputs))
    arrays[name] = arrays[name] + np.float32(0.01)
    np.savez(tmp_path / "changed.npz", **arrays)
    model = read_fixture(path).model
    words = ["import", "reference", str(tmp_path / "changed.npz"), "--model", model]
    assert main(words) == 1
    assert "times what is allowed" in capsys.readouterr().out


@pytest.mark.parametrize(
    "path", [path for path in FIXTURES if read_fixture(path).weights], ids=lambda path: path.stem
)
def test_a_partial_state_is_refused_with_its_names(path: Path) -> None:
    fixture = read_fixture(path)
    unit = reference(fixture.model).units[fixture.unit]
    left_out = unit.load(unit.build(fixture.settings), fixture.weights).left_out
    module = unit.build(fixture.settings)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    last = next(name for name in reversed(fixture.weights) if name not in left_out)
    partial = {name: value for name, value in fixture.weights.items() if name != last}
    with pytest.raises(ValueError, match="missing"):
        unit.load(module, partial)
    with pytest.raises(ValueError, match=r"stranger\.weight"):
        unit.load(module, {**fixture.weights, "stranger.weight": fixture.weights[last]})
    assert all((value == before[name]).all() for name, value in module.state_dict().items())
