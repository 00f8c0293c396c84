"""Whatever fails while a file is written, a final name never holds a part of one."""

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from medseg.fault import InputFault
from medseg.io.atomic import remove_leftovers, write_bytes, write_json, write_text
from medseg.io.nifti import write_labels
from tests.io.faults.calls import failing
from tests.io.faults.maps import MAPS, standing, sums

ROOT = Path(__file__).resolve().parents[2]
SOURCE = Path(__file__).with_name("faults") / "failing.c"
NUMBERS = [errno.EIO, errno.ENOSPC]
CODES = {errno.EIO: "E_WRITE", errno.ENOSPC: "E_DISKFULL"}


def lines(*args: Any, preload: Path | None = None) -> list[dict[str, Any]]:
    """What a module of ours printed: a JSON value a line."""
    preloaded = [] if preload is None else ["env", f"LD_PRELOAD={preload}"]
    out = subprocess.run(
        [*preloaded, sys.executable, "-m", *map(str, args)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
    )
    assert out.returncode == 0, out.stderr
    return [json.loads(line) for line in out.stdout.splitlines()]


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The preloaded library, compiled here."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("a C compiler on Linux is needed to make system calls fail")
    target = tmp_path_factory.mktemp("shim") / "failing.so"
    subprocess.run(
        [compiler, "-O1", "-Wall", "-Werror", "-fPIC", "-shared", SOURCE, "-o", target, "-ldl"],
        check=True,
    )
    return target


class TestKilled:
    def test_at_200_random_moments_there_is_the_old_map_or_the_new(self, tmp_path):
        count = 200
        (found,) = lines("tests.io.faults.killed", tmp_path, count, 0)
        assert sum(found["stood"].values()) == count
        assert set(found["stood"]) <= {"none", "old", "new"}
        assert found["others"] == []
        # Else it was killed before it began or always between two files.
        assert min(found["stood"]["old"], found["stood"]["new"]) > count / 10
        assert found["left"] > count / 10
        names = {path.name for path in tmp_path.iterdir()}
        assert {name for name in names if not name.startswith(".medseg-")} == {"case.nii.gz"}
        age(tmp_path)
        write_labels(tmp_path / "case.nii.gz", MAPS["new"])
        assert [path.name for path in tmp_path.iterdir()] == ["case.nii.gz"]

    def test_at_every_system_call_there_is_the_old_map_or_the_new(self, tmp_path, shim):
        found = lines("tests.io.faults.system", tmp_path, "KILL", preload=shim)
        assert len(found) > 12
        assert {line["end"] for line in found[:-1]} == {"killed"}
        assert Counter(line["stood"] for line in found)["old"] > 8
        assert {line["stood"] for line in found} == {"old", "new"}
        assert all(len(line["left"]) <= 1 for line in found)
        assert all(line["left"] for line in found[2:8])
        assert all(name.startswith(".medseg-") for line in found for name in line["left"])
        assert (found[-1]["end"], found[-1]["stood"], found[-1]["left"]) == ("done", "new", [])


class TestEverySystemCall:
    @pytest.mark.parametrize("kind", ["EIO", "ENOSPC"])
    def test_that_fails_is_told_and_leaves_the_old_map_or_the_new(self, tmp_path, shim, kind):
        found = lines("tests.io.faults.system", tmp_path, kind, preload=shim)
        assert len(found) > 12
        for line in found:
            assert line["stood"] in ("old", "new")
            if line["end"] == "done":
                assert line["stood"] == "new"
        told = Counter(line["end"] for line in found)
        # What cannot be read back is not the disk's being full, whatever its error says.
        assert set(told) == {"done", "E_WRITE", CODES[getattr(errno, kind)]}
        assert told[CODES[getattr(errno, kind)]] > 7
        # Only the removal of the temporary file itself can leave it.
        assert sum(bool(line["left"]) for line in found) <= 1
        assert (found[-1]["end"], found[-1]["left"]) == ("done", [])

    def test_that_writes_less_than_it_was_given_is_followed_by_another(self, tmp_path, shim):
        found = lines("tests.io.faults.system", tmp_path, "SHORT", preload=shim)
        assert len(found) > 12
        assert {(line["end"], line["stood"]) for line in found} == {("done", "new")}

    def test_that_is_interrupted_is_made_again(self, tmp_path, shim):
        found = lines("tests.io.faults.system", tmp_path, "EINTR", preload=shim)
        assert len(found) > 12
        assert {line["stood"] for line in found} <= {"old", "new"}
        assert all(line["end"] in ("done", "E_WRITE") for line in found)
        assert sum(line["end"] == "done" for line in found) > len(found) / 2


class TestEveryCallOfPython:
    def written(self, path: Path, number: int, write: Any, states: set[bytes]) -> list[str]:
        """The calls of a writing, each of which failed once."""
        for at in range(200):
            with failing(path.parent, at, number) as calls:
                fault = fault_of(write)
            assert path.read_bytes() in states
            left = [other.name for other in path.parent.iterdir() if other != path]
            assert all(name.startswith(".medseg-") for name in left)
            for name in left:
                (path.parent / name).unlink()
            if not calls.fired:
                assert fault is None
                return calls.made
            assert fault is None or fault.code in (CODES[number], "E_WRITE")
            assert not left or calls.made[at] == "unlink"
        raise AssertionError("it never came to an end")

    @pytest.mark.parametrize("number", NUMBERS)
    def test_of_a_label_map(self, tmp_path, number):
        known = sums(tmp_path)
        path = tmp_path / "case.nii.gz"
        states = {}
        for name, labels in MAPS.items():
            write_labels(path, labels)
            states[name] = path.read_bytes()
        write_labels(path, MAPS["old"])
        made = self.written(
            path, number, lambda: write_labels(path, MAPS["new"]), set(states.values())
        )
        assert {"open", "write", "read", "fsync", "replace", "close"} <= set(made)
        assert made.count("fsync") == 2
        assert standing(path, known) == "new"

    @pytest.mark.parametrize("number", NUMBERS)
    @pytest.mark.parametrize("kind", ["bytes", "text", "json"])
    def test_of_bytes_text_and_json(self, tmp_path, number, kind):
        path = tmp_path / "a.json"
        write_text(path, "old")
        write = {
            "bytes": lambda: write_bytes(path, b"new" * 100_000),
            "text": lambda: write_text(path, "new" * 100_000),
            "json": lambda: write_json(path, ["new"] * 10_000),
        }[kind]
        write()
        new = path.read_bytes()
        write_text(path, "old")
        made = self.written(path, number, write, {b"old", new})
        assert {"open", "write", "read", "fsync", "replace", "close"} <= set(made)
        assert path.read_bytes() == new

    def test_a_disk_that_changes_bytes_is_noticed(self, tmp_path, monkeypatch):
        path = tmp_path / "a.txt"
        write_text(path, "old")
        monkeypatch.setattr(Path, "read_bytes", lambda _path: b"")
        fault = fault_of(lambda: write_text(path, "new"))
        monkeypatch.undo()
        assert fault is not None
        assert fault.code == "E_WRITE"
        assert path.read_text() == "old"


def fault_of(call: Any) -> InputFault | None:
    try:
        call()
    except InputFault as fault:
        return fault
    return None


def age(folder: Path, seconds: float = 3600) -> None:
    for path in folder.iterdir():
        os.utime(path, (time.time() - seconds,) * 2)


class TestLeftovers:
    NAME = ".medseg-0123456789abcdef.nii.gz"

    def test_an_old_one_is_removed_by_the_next_writing_there(self, tmp_path):
        (tmp_path / self.NAME).write_text("half")
        write_text(tmp_path / "a.txt", "x")
        assert (tmp_path / self.NAME).exists()
        age(tmp_path)
        write_text(tmp_path / "a.txt", "x")
        assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]

    def test_one_that_is_being_written_stays_however_old(self, tmp_path):
        with subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import sys\nfrom pathlib import Path\n"
                "from medseg.io.atomic import atomic_path\n"
                "with atomic_path(Path(sys.argv[1])) as temporary:\n"
                "    temporary.write_text('slow')\n"
                "    print('ready', flush=True)\n"
                "    sys.stdin.readline()\n",
                str(tmp_path / "slow.txt"),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            age(tmp_path)
            assert remove_leftovers(tmp_path, older_than_s=0) == 0
            write_text(tmp_path / "a.txt", "x")
            writer.communicate(b"\n", timeout=30)
        assert (tmp_path / "slow.txt").read_text() == "slow"
        assert len(list(tmp_path.iterdir())) == 2

    @pytest.mark.parametrize(
        "name", [".medseg-notes", ".medseg-0123456789abcdef0.txt", "medseg-0123456789abcdef"]
    )
    def test_files_of_other_names_stay(self, tmp_path, name):
        (tmp_path / name).write_text("mine")
        age(tmp_path)
        assert remove_leftovers(tmp_path, older_than_s=0) == 0
        assert (tmp_path / name).exists()

    def test_links_and_folders_of_such_a_name_stay(self, tmp_path):
        (tmp_path / "mine").write_text("x")
        (tmp_path / self.NAME).symlink_to(tmp_path / "mine")
        (tmp_path / ".medseg-fedcba9876543210").mkdir()
        age(tmp_path)
        assert remove_leftovers(tmp_path, older_than_s=0) == 0
        assert len(list(tmp_path.iterdir())) == 3

    def test_a_folder_that_is_not_there_has_none(self, tmp_path):
        assert remove_leftovers(tmp_path / "absent") == 0


FULL_DISK = """
set -e
mount -t tmpfs -o size=96k tmpfs "$1"
cd "$2"
"$3" -m tests.io.faults.full "$1"
"""


def test_a_full_disk_gives_an_error_and_leaves_the_old_map(tmp_path):
    """A file system of 96 kB, in a namespace of its own."""
    if shutil.which("unshare") is None:
        pytest.skip("unshare (util-linux) is needed to mount a small disk")
    command = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    trial = subprocess.run(
        [*command, "mount", "-t", "tmpfs", "tmpfs", str(tmp_path)], capture_output=True, text=True
    )
    if trial.returncode:
        pytest.skip(f"no small disk can be mounted here: {trial.stderr.strip()}")
    out = subprocess.run(
        [*command, "sh", "-c", FULL_DISK, "sh", str(tmp_path), str(ROOT), sys.executable],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert out.returncode == 0, out.stderr
    assert json.loads(out.stdout) == {
        "code": "E_DISKFULL",
        "same": True,
        "names": ["small.nii.gz"],
        "after": "done",
    }
