"""Memory that a walk takes: bounded, foretold, and within what is allowed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from medseg.fault import InputFault
from medseg.inference import memory
from medseg.inference.budget import Demand, fitted
from medseg.inference.settings import WalkSettings
from medseg.inference.window import Windows

CHILD = Path(__file__).parent / "walk_in_child.py"
MB = 1_000_000
GIVEN = 260 * MB


def child(length: int, *options: str) -> dict:
    """What a process of its own tells of labeling a volume of this length, 60 classes."""
    done = subprocess.run(
        [sys.executable, str(CHILD), str(length), *options],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_memory_does_not_grow_with_the_length_of_the_volume() -> None:
    short, long = child(200), child(800)
    # What grows is the result: a byte a voxel.
    result = 600 * 64 * 64
    assert long["above"] - short["above"] < result + 30 * MB
    assert long["logits"] > 750 * MB
    assert long["above"] < 150 * MB


def test_a_budget_holds_under_a_limit_of_the_system() -> None:
    free, limited = child(500), child(500, "--limit", str(GIVEN))
    assert limited["labels"] == free["labels"]
    # The logits of the whole volume alone would not have fitted.
    assert limited["logits"] > GIVEN


def test_where_float32_does_not_fit_float16_is_taken() -> None:
    demand = Demand(
        windows=Windows.over((400, 64, 64), (32, 32, 32), overlap=0.5),
        axes=(0, 1, 2),
        blended=400,
        label_bytes=0,
        window_bytes=0,
    )
    wide, narrow = (demand.need(kind, 1) for kind in (torch.float32, torch.float16))
    between = memory.resident() + (wide.total + narrow.total) // 2
    cpu = torch.device("cpu")
    fit = fitted(demand, WalkSettings(max_ram=between), cpu)
    assert fit.sums is torch.float16
    assert fitted(demand, WalkSettings(max_ram=2 * between), cpu).sums is torch.float32
    with pytest.raises(InputFault, match="--max-ram") as fault:
        fitted(demand, WalkSettings(max_ram=between, sums="float32"), cpu)
    assert fault.value.code == "E_MEMORY"


def test_fewer_windows_run_at_a_time_where_all_do_not_fit() -> None:
    demand = Demand(
        windows=Windows.over((400, 64, 64), (32, 32, 32), overlap=0.5),
        axes=(0, 1, 2),
        blended=4,
        label_bytes=0,
        window_bytes=100 * MB,
    )
    allowed = memory.resident() + demand.need(torch.float32, 1).total + 50 * MB
    fit = fitted(demand, WalkSettings(max_ram=allowed, batch_size=4), torch.device("cpu"))
    assert (fit.batch_size, fit.sums) == (1, torch.float32)


def test_memory_is_kept_from_window_to_window_where_there_is_room_between_blocks() -> None:
    demand = Demand(
        windows=Windows.over((64, 64, 64), (32, 32, 32), overlap=0.5),
        axes=(0, 1, 2),
        blended=4,
        label_bytes=0,
        window_bytes=400 * MB,
    )
    cpu, need = torch.device("cpu"), demand.need(torch.float32, 1)
    for beside, keeps in ((50 * MB, False), (need.network, True)):
        allowed = memory.resident() + need.total + beside
        assert fitted(demand, WalkSettings(max_ram=allowed), cpu).keeps_memory is keeps


def test_what_cannot_fit_is_refused_before_the_walk_with_the_number() -> None:
    told = child(200, "--max-ram", "1000000")
    assert told["code"] == "E_MEMORY"
    assert told["forwards"] <= 1
    assert "200x64x64" in told["message"]
