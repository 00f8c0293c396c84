import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from medseg.bundle.inputs import UnusableCase
from medseg.engine import once
from medseg.engine.job import Outcome
from medseg.engine.local import run_local
from medseg.engine.receipt import claim_path
from medseg.fault import InputFault
from medseg.io.claim import claim
from medseg.progress import Progress
from tests.engine.small import image, images, job, jobs, predictor, states

SMALL = Path(__file__).with_name("small.py")
ROOT = SMALL.parents[2]


def run(out: Path, source: Path, seconds: float) -> subprocess.Popen:
    """A run in a process of its own, ready and waiting for `go`."""
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.engine.small", str(out), str(source), str(seconds)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


def go(child: subprocess.Popen) -> None:
    assert child.stdin is not None
    child.stdin.write("\n")
    child.stdin.flush()


def outcomes_of(child: subprocess.Popen) -> dict[str, str]:
    told, errors = child.communicate(timeout=60)
    assert child.returncode == 0, errors
    return dict(line.split() for line in told.splitlines())


@pytest.mark.parametrize("overlapped", [True, False])
def test_bad_cases_are_outcomes_and_the_rest_is_done(tmp_path: Path, overlapped: bool) -> None:
    files = images(tmp_path / "in", 4)
    given = jobs(tmp_path / "out", files)
    given.insert(0, job(tmp_path / "out", "lost", UnusableCase(InputFault("x", code="E_Y"))))
    image(files[1], poisoned=True)
    files[2].write_bytes(files[2].read_bytes()[:40])
    told: list[Outcome] = []
    run_local(predictor(), given, settle=told.append, overlapped=overlapped)
    assert states(told) == {
        "lost": "failed",
        "c00": "done",
        "c01": "failed",
        "c02": "failed",
        "c03": "done",
    }
    again: list[Outcome] = []
    run_local(predictor(), given, settle=again.append, overlapped=overlapped)
    assert sorted(states(again).values()) == ["failed"] * 3 + ["present"] * 2


def test_overlapped_labels_are_those_of_one_after_the_other(tmp_path: Path) -> None:
    files = images(tmp_path / "in", 5)
    for overlapped in (True, False):
        run_local(
            predictor(),
            jobs(tmp_path / str(overlapped), files),
            settle=lambda _outcome: None,
            overlapped=overlapped,
        )
    for file in files:
        first, second = (tmp_path / str(way) / file.name for way in (True, False))
        assert first.read_bytes() == second.read_bytes()


def test_no_more_than_one_case_waits_between_two_stages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive, most = 0, 0
    lock = threading.Lock()
    opened, finished = once.open_job, once.finish_job

    def counted_open(*args: object) -> object:
        nonlocal alive, most
        with lock:
            alive += 1
            most = max(most, alive)
        return opened(*args)  # pyright: ignore[reportArgumentType]

    def counted_finish(*args: object) -> object:
        nonlocal alive
        time.sleep(0.1)
        result = finished(*args)  # pyright: ignore[reportArgumentType]
        with lock:
            alive -= 1
        return result

    monkeypatch.setattr("medseg.engine.local.open_job", counted_open)
    monkeypatch.setattr("medseg.engine.local.finish_job", counted_finish)
    told: list[Outcome] = []
    run_local(predictor(), jobs(tmp_path / "o", images(tmp_path / "i", 8)), settle=told.append)
    assert len(told) == 8
    # One is read, one in the network or through it, one written.
    assert 2 <= most <= 4


def test_the_stages_do_run_side_by_side(tmp_path: Path) -> None:
    threads: set[str] = set()
    told: list[Outcome] = []

    def heard(_event: Progress) -> None:
        threads.add(threading.current_thread().name)

    run_local(
        predictor(),
        jobs(tmp_path / "o", images(tmp_path / "i", 3)),
        settle=told.append,
        listener=heard,
    )
    assert threads == {"_label"}


def test_a_full_disk_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: object, **_more: object) -> None:
        raise InputFault("the disk is full", code="E_DISKFULL")

    monkeypatch.setattr("medseg.bundle.outputs.Outputs.write", full)
    told: list[Outcome] = []
    run_local(predictor(), jobs(tmp_path / "o", images(tmp_path / "i", 9)), settle=told.append)
    assert {one.code for one in told} == {"E_DISKFULL"}
    assert len(told) < 6


def test_an_interrupt_keeps_what_is_labeled_and_gives_up_the_rest(tmp_path: Path) -> None:
    told: list[Outcome] = []

    def settle(outcome: Outcome) -> None:
        told.append(outcome)
        if len(told) == 2:
            raise KeyboardInterrupt

    given = jobs(tmp_path / "o", images(tmp_path / "i", 12))
    with pytest.raises(KeyboardInterrupt):
        run_local(predictor(0.02), given, settle=settle)
    assert 2 <= len(told) < 8
    assert all((tmp_path / "o" / f"{one.case}.nii.gz").exists() for one in told)
    assert list((tmp_path / "o" / ".medseg" / "claims").iterdir()) == []
    assert not [one for one in threading.enumerate() if one.name in ("_read", "_label", "_write")]


def test_a_listener_that_nobody_reads_ends_the_run(tmp_path: Path) -> None:
    def closed(_event: Progress) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        run_local(
            predictor(),
            jobs(tmp_path / "o", images(tmp_path / "i", 3)),
            settle=lambda _outcome: None,
            listener=closed,
        )


def test_a_case_of_another_run_is_waited_for(tmp_path: Path) -> None:
    given = jobs(tmp_path / "o", images(tmp_path / "i", 2))
    held = claim(claim_path(given[0]))
    assert held is not None
    threading.Timer(0.5, lambda: held.release(finished=False)).start()
    told: list[Outcome] = []
    events: list[str] = []
    run_local(
        predictor(), given, settle=told.append, listener=lambda event: events.append(event.text)
    )
    assert states(told) == {"c00": "done", "c01": "done"}
    assert any("another run" in text for text in events)


def test_two_runs_on_one_folder_do_each_case_once(tmp_path: Path) -> None:
    images(tmp_path / "in", 10)
    children = [run(tmp_path / "out", tmp_path / "in", 0.04) for _ in range(2)]
    for child in children:
        go(child)
    first, second = (outcomes_of(child) for child in children)
    assert first.keys() == second.keys() == {f"c{n:02d}" for n in range(10)}
    done = [[case for case, state in one.items() if state == "done"] for one in (first, second)]
    assert sorted(done[0] + done[1]) == sorted(first)
    assert all(done), "one of the runs did nothing"
    assert set(first.values()) | set(second.values()) == {"done", "present"}


def test_a_killed_run_is_gone_on_with(tmp_path: Path) -> None:
    images(tmp_path / "in", 8)
    child = run(tmp_path / "out", tmp_path / "in", 0.03)
    assert child.stdout is not None
    go(child)
    finished = [child.stdout.readline().split()[0] for _ in range(3)]
    child.send_signal(signal.SIGKILL)
    child.communicate()
    before = {name: (tmp_path / "out" / f"{name}.nii.gz").stat().st_mtime_ns for name in finished}
    after = run(tmp_path / "out", tmp_path / "in", 0)
    go(after)
    told = outcomes_of(after)
    assert len(told) == 8
    assert all(told[name] == "present" for name in finished)
    assert sum(state == "done" for state in told.values()) >= 3
    for name, then in before.items():
        assert (tmp_path / "out" / f"{name}.nii.gz").stat().st_mtime_ns == then
    whole: list[Outcome] = []
    files = sorted((tmp_path / "in").glob("*.nii.gz"))
    run_local(predictor(), jobs(tmp_path / "whole", files), settle=whole.append)
    for file in files:
        one, other = tmp_path / "out" / file.name, tmp_path / "whole" / file.name
        assert one.read_bytes() == other.read_bytes()
