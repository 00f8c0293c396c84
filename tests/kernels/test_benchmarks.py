"""Benchmarks that ask for a CUDA device, where there is none."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).resolve().parents[2] / "kernels" / "benchmarks"
OF_A_DEVICE = sorted(path.stem for path in FOLDER.glob("*.py") if "is_there(" in path.read_text())


def test_there_are_benchmarks_of_a_device() -> None:
    assert len(OF_A_DEVICE) == 9  # eight, and the module that tells


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("name", [name for name in OF_A_DEVICE if name != "expected"])
def test_what_cannot_be_measured_is_told_with_its_bytes_and_least_times(name: str) -> None:
    run = subprocess.run(
        [sys.executable, FOLDER / f"{name}.py", "--device", "cuda"],
        capture_output=True,
        text=True,
        check=True,
    )
    _, table = run.stdout.split("not measured: there is no CUDA device\n")
    header, _, *rows = [line for line in table.splitlines() if line.startswith("|")]
    assert header.split(" | ")[1] == "MB"
    assert rows
    for row in rows:
        megabytes, least = row.split(" | ")[1], row.rstrip(" |").split(" | ")[-1]
        assert float(megabytes) > 0
        assert float(least.removesuffix(" us")) > 0
