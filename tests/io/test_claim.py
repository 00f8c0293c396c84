import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from medseg.fault import InputFault
from medseg.io.claim import alone_in, claim

HOLD = """
import sys, time
from pathlib import Path
from medseg.io.claim import claim
held = claim(Path(sys.argv[1]))
if sys.argv[2] == "writing": held.begin_writing()
print("held", flush=True)
time.sleep(60)
"""


def holder(path: Path, how: str) -> subprocess.Popen:
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), how], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    return child


def killed(child: subprocess.Popen) -> None:
    child.send_signal(signal.SIGKILL)
    child.communicate()


@pytest.mark.parametrize(("how", "was_left"), [("reading", False), ("writing", True)])
def test_a_claim_ends_with_its_process_and_tells_whether_it_wrote(
    tmp_path: Path, how: str, was_left: bool
) -> None:
    path = tmp_path / "claims" / "a.at"
    child = holder(path, how)
    try:
        assert claim(path) is None
    finally:
        killed(child)
    held = claim(path)
    assert held is not None
    assert held.was_left is was_left
    held.release(finished=True)
    assert list(path.parent.iterdir()) == []


def test_what_was_begun_and_not_finished_stays_noted(tmp_path: Path) -> None:
    path = tmp_path / "a.at"
    first = claim(path)
    assert first is not None
    first.begin_writing()
    first.release(finished=False)
    second = claim(path)
    assert second is not None
    assert second.was_left
    second.release(finished=False)
    assert path.exists()


def test_a_claim_let_go_before_writing_leaves_nothing(tmp_path: Path) -> None:
    held = claim(tmp_path / "a.at")
    assert held is not None
    held.release(finished=False)
    assert list(tmp_path.iterdir()) == []


def test_a_removed_file_is_not_taken_for_the_claim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.at"
    opened = os.open
    times = []

    def slow_open(name: Path, *rest: int) -> int:
        handle = opened(name, *rest)
        times.append(name)
        if len(times) == 1:
            path.unlink()
        return handle

    monkeypatch.setattr(os, "open", slow_open)
    held = claim(path)
    assert held is not None
    assert len(times) == 2
    assert path.exists()
    held.release(finished=True)


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputFault) as fault:
        claim(tmp_path / "file" / "a.at")
    assert fault.value.code == "E_WRITE"


def test_a_second_process_is_refused_until_the_first_is_done(tmp_path: Path) -> None:
    with (
        alone_in(tmp_path, "run"),
        pytest.raises(InputFault, match="another process is doing this run now"),
        alone_in(tmp_path, "run"),
    ):
        pass
    with alone_in(tmp_path, "run"):
        pass
    with pytest.raises(ValueError, match="refused"), alone_in(tmp_path / "a" / "b", "run"):
        raise ValueError("refused")
    assert list(tmp_path.iterdir()) == []
