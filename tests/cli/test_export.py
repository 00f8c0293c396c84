"""`medseg export` on a trained bundle."""

import json
from pathlib import Path

import pytest
import torch

from medseg.bundle.bundle import load_bundle
from medseg.cli import main


def test_a_trained_bundle_is_exported_and_run_by_torch_alone(tmp_path: Path, run: Path) -> None:
    path = tmp_path / "net.pt2"
    assert main(["export", str(run / "bundle"), "--to", "torch-export", "-o", str(path)]) == 0
    bundle = load_bundle(run / "bundle")
    extra = {"medseg.json": ""}
    network = torch.export.load(path, extra_files=extra).module()
    window = torch.randn(2, bundle.task.in_channels, *bundle.task.patch_size)
    with torch.no_grad():
        wanted = bundle.models[0](window)
    torch.testing.assert_close(network(window), wanted, atol=1e-4, rtol=1e-4)
    facts = json.loads(extra["medseg.json"])
    assert facts["task"] == bundle.task.to_json()
    assert facts["preprocessing"] == bundle.preprocessing.to_json()


def test_it_says_how_near_it_is(
    tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "monai"
    arguments = ["export", str(run / "bundle"), "--to", "monai-bundle", "-o", str(folder)]
    assert main([*arguments, "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["largest_difference"] < 1e-3
    assert json.loads((folder / "configs/metadata.json").read_text())["name"]
    # What is there is not replaced.
    assert main(arguments) == 2
    assert "there already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "name", "told"),
    [("onnx", "net.pt2", "ends in .onnx"), ("torch-export", "net", "ends in .pt2")],
)
def test_a_wrong_ending_is_told(
    tmp_path: Path,
    run: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    name: str,
    told: str,
) -> None:
    output = str(tmp_path / name)
    assert main(["export", str(run / "bundle"), "--to", kind, "-o", output]) == 2
    assert told in capsys.readouterr().err
