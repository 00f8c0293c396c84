"""A run that was killed and resumed ends bit for bit where it would have ended."""

import ast
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from medseg.fault import InputFault
from medseg.io.pickled import checksum_path
from medseg.progress import Progress
from medseg.training.checkpoints import load_checkpoint, load_last

RUNNER = Path(__file__).with_name("runner.py")


def program(*arguments: object) -> dict[str, list[str]]:
    """What the runner said after each first word."""
    done = subprocess.run(
        [sys.executable, str(RUNNER), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    told = defaultdict(list)
    for line in done.stdout.splitlines():
        word, _, rest = line.partition(" ")
        told[word].append(rest)
    return told


@pytest.fixture(scope="module")
def unkilled(runner: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> str:
    return runner.digest(runner.train(tmp_path_factory.mktemp("whole"))[1])


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_and_resumed_weights_are_bit_identical(
    tmp_path: Path, unkilled: str, workers: int
) -> None:
    assert program("kill", tmp_path, workers, 1, 5, 9, 12, 17, 23)["WEIGHTS"] == [unkilled]
    rows = (tmp_path / "log.csv").read_text().splitlines()
    assert [row.split(",")[1] for row in rows] == ["step", "6", "12", "18", "24"]


def test_killed_at_a_moment_within_a_step(tmp_path: Path, unkilled: str) -> None:
    moments = ("0.005s", "0.02s", "0.03s", "0.05s", "0.07s")
    assert program("kill", tmp_path, 0, *moments)["WEIGHTS"] == [unkilled]


class Stopped(Exception):
    """Stands for a crash."""


@pytest.mark.parametrize("step", range(1, 24, 2))
def test_a_run_stopped_at_any_step_continues(
    runner: ModuleType, tmp_path: Path, unkilled: str, step: int
) -> None:
    def stop(event: Progress) -> None:
        if event.done == step:
            raise Stopped

    with pytest.raises(Stopped):
        runner.train(tmp_path, listener=stop)
    assert runner.digest(runner.train(tmp_path, resume=True)[1]) == unkilled


def test_a_damaged_checkpoint_is_passed_over(
    runner: ModuleType, tmp_path: Path, unkilled: str
) -> None:
    def stop(event: Progress) -> None:
        if event.done == 14:
            raise Stopped

    with pytest.raises(Stopped):
        runner.train(tmp_path, listener=stop)
    last = tmp_path / "checkpoints" / "last.ckpt"
    data = bytearray(last.read_bytes())
    data[len(data) // 2] ^= 1
    last.write_bytes(data)
    assert load_last(tmp_path / "checkpoints")["state"]["step"] == 8
    assert runner.digest(runner.train(tmp_path, resume=True)[1]) == unkilled


def test_killed_before_any_call_of_a_save_one_checkpoint_is_whole(tmp_path: Path) -> None:
    steps = ast.literal_eval(program("saves", tmp_path / "checkpoints")["STEPS"][0])
    assert len(steps) > 12
    assert steps[0] == 2
    assert steps[-1] == 3
    assert set(steps) == {2, 3}


def test_the_checkpoint_of_another_run_or_network_is_refused(
    runner: ModuleType, tmp_path: Path
) -> None:
    runner.train(tmp_path, epochs=1)
    with pytest.raises(InputFault, match="another run"):
        runner.train(tmp_path, resume=True, identity="other")
    with pytest.raises(InputFault, match="another network"):
        runner.train(tmp_path, resume=True, model=nn.Conv3d(1, 3, 1))
    with pytest.raises(InputFault, match="--resume"):
        runner.train(tmp_path)


def test_without_a_whole_checkpoint_nothing_is_resumed(runner: ModuleType, tmp_path: Path) -> None:
    runner.train(tmp_path, epochs=1)
    for name in ("last.ckpt", "previous.ckpt"):
        (tmp_path / "checkpoints" / name).write_bytes(b"broken")
    with pytest.raises(InputFault, match="no checkpoint to resume from"):
        runner.train(tmp_path, resume=True)


def test_resuming_what_never_began_begins(
    runner: ModuleType, tmp_path: Path, unkilled: str
) -> None:
    assert runner.digest(runner.train(tmp_path, resume=True)[1]) == unkilled


def test_every_checkpoint_stands_beside_its_sum(runner: ModuleType, tmp_path: Path) -> None:
    runner.train(tmp_path, epochs=2)
    for name in ("last.ckpt", "previous.ckpt", "best.ckpt"):
        assert checksum_path(tmp_path / "checkpoints" / name).is_file()


def test_two_processes_train_like_one_with_the_doubled_batch(
    runner: ModuleType, tmp_path: Path
) -> None:
    """A bad sample of one process stops both, and is named."""
    told = program("pair", tmp_path / "two")
    _, alone = runner.train(tmp_path / "one", batch=4, model=runner.network(0.0))
    two = load_checkpoint(tmp_path / "two" / "good" / "checkpoints" / "last.ckpt")["model"]
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-5)
    assert len(told["WEIGHTS"]) == 2
    assert len(set(told["WEIGHTS"])) == 1
    assert [fault.split()[0] for fault in told["FAULT"]] == ["E_LOSS", "E_LOSS"]
    assert all("case6" in fault for fault in told["FAULT"])
