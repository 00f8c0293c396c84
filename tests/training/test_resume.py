"""A run that was killed and resumed ends bit for bit where it would have ended."""

import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from torch import nn

from medseg.fault import InputFault
from medseg.io.pickled import checksum_path
from medseg.progress import Progress
from medseg.training.checkpoints import load_last, save_last

RUNNER = Path(__file__).with_name("runner.py")
NEVER = 10**6


def child(
    folder: Path, *, workers: int, kill: int = NEVER, devices: int = 1
) -> subprocess.CompletedProcess[str]:
    arguments = [str(folder), *map(str, (workers, kill, devices))]
    return subprocess.run(
        [sys.executable, str(RUNNER), *arguments], capture_output=True, text=True, timeout=300
    )


def weights(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.split("WEIGHTS")[1].split()[0]


@pytest.fixture(scope="module")
def unkilled(runner: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> str:
    return runner.digest(runner.train(tmp_path_factory.mktemp("whole"))[1])


@pytest.mark.parametrize(("workers", "kills"), [(0, (9,)), (2, (5, 16))])
def test_killed_and_resumed_weights_are_bit_identical(
    tmp_path: Path, unkilled: str, workers: int, kills: tuple[int, ...]
) -> None:
    for step in kills:
        done = child(tmp_path, workers=workers, kill=step)
        assert done.returncode == -9, done.stderr[-3000:]
    assert weights(child(tmp_path, workers=workers)) == unkilled
    rows = (tmp_path / "log.csv").read_text().splitlines()
    assert [row.split(",")[1] for row in rows] == ["step", "6", "12", "18", "24"]


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
    resume = step >= 4
    if not resume:
        shutil.rmtree(tmp_path)
    assert runner.digest(runner.train(tmp_path, resume=resume)[1]) == unkilled


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


def test_at_every_move_of_a_save_one_checkpoint_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_last(tmp_path, {"step": 1})
    save_last(tmp_path, {"step": 2})
    moves = 0

    def stop_at(number: int, name: str) -> None:
        real = getattr(Path, name)

        def counted(path: Path, *args: object, **kwargs: object) -> object:
            nonlocal moves
            moves += 1
            if moves == number:
                raise Stopped
            return real(path, *args, **kwargs)

        monkeypatch.setattr(Path, name, counted)

    stopped = 0
    for number in range(1, 20):
        moves = 0
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", Path.replace)
            stop_at(number, "replace")
            stop_at(number, "unlink")
            try:
                save_last(tmp_path, {"step": 3})
            except Stopped:
                stopped += 1
        monkeypatch.undo()
        assert load_last(tmp_path)["step"] in (1, 2, 3)
    assert stopped >= 4


def test_the_checkpoint_of_another_run_or_network_is_refused(
    runner: ModuleType, tmp_path: Path
) -> None:
    runner.train(tmp_path, epochs=1)
    with pytest.raises(InputFault, match="another run"):
        runner.train(tmp_path, resume=True, identity="other")
    with pytest.raises(InputFault, match="another network"):
        runner.train(tmp_path, resume=True, model=nn.Conv3d(1, 3, 1))
    with pytest.raises(InputFault, match="no checkpoint to resume from"):
        runner.train(tmp_path / "empty", resume=True)


def test_every_checkpoint_stands_beside_its_sum(runner: ModuleType, tmp_path: Path) -> None:
    runner.train(tmp_path, epochs=2)
    for name in ("last.ckpt", "previous.ckpt", "best.ckpt"):
        assert checksum_path(tmp_path / "checkpoints" / name).is_file()


def test_two_processes_train_like_one_with_the_doubled_batch(
    runner: ModuleType, tmp_path: Path
) -> None:
    done = child(tmp_path / "two", workers=0, devices=2)
    assert done.returncode == 0, done.stderr[-3000:]
    words = done.stdout.split()
    digests = [word for word in words if len(word) == 64]
    assert len(digests) == 2, done.stdout
    assert len(set(digests)) == 1
    _, alone = runner.train(tmp_path / "one", batch=4, model=runner.network(0.0))
    assert float(words[2]) == pytest.approx(runner.weight_sum(alone), rel=1e-5)
