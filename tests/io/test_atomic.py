"""Files appear whole or not at all: full disks, failing calls and killed processes."""

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from medseg.fault import InputFault
from medseg.io.atomic import atomic_path, write_bytes, write_json, write_text


def test_what_is_written_is_read_back(tmp_path):
    write_bytes(tmp_path / "a.bin", b"\x00\xff")
    write_text(tmp_path / "a.txt", "Grüße\n")
    write_json(tmp_path / "deep" / "er" / "a.json", {"b": [1, 2.5, None], "a": "é"})
    assert (tmp_path / "a.bin").read_bytes() == b"\x00\xff"
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "Grüße\n"
    assert json.loads((tmp_path / "deep/er/a.json").read_text()) == {"b": [1, 2.5, None], "a": "é"}


def test_an_old_file_is_replaced_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    write_text(path, "new")
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "new"


def test_the_temporary_name_keeps_the_suffixes_and_is_hidden(tmp_path):
    with atomic_path(tmp_path / "case.1.nii.gz") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.endswith(".nii.gz")
        assert temporary.name.startswith(".")


@pytest.mark.parametrize("name", ["a" * 250 + ".json", "x." + "y" * 250, "é" * 120 + ".txt"])
def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path, name):
    write_text(tmp_path / name, "x")
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_rights_are_those_of_any_other_file(tmp_path):
    (tmp_path / "plain").write_text("x")
    write_text(tmp_path / "ours", "x")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_fault_inside_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def write_half():
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "old"


def test_a_number_that_json_does_not_know_writes_nothing(tmp_path):
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file_is_told(tmp_path):
    (tmp_path / "f").write_text("x")
    with pytest.raises(InputFault, match=r"a\.txt: cannot be written") as fault:
        write_text(tmp_path / "f" / "a.txt", "x")
    assert fault.value.code == "E_WRITE"


def test_a_folder_in_the_way_is_told_and_kept(tmp_path):
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(InputFault) as fault:
        write_text(tmp_path / "a.txt", "x")
    assert fault.value.code == "E_WRITE"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_missing_input_of_the_writer_is_named(tmp_path):
    missing = tmp_path / "missing"
    with (
        pytest.raises(InputFault, match="missing"),
        atomic_path(tmp_path / "a.txt") as temporary,
    ):
        temporary.write_bytes(missing.read_bytes())


@pytest.mark.parametrize("call", ["open", "fsync"])
@pytest.mark.parametrize(
    ("number", "code"), [(errno.ENOSPC, "E_DISKFULL"), (errno.EDQUOT, "E_DISKFULL"), (5, "E_WRITE")]
)
def test_every_call_that_fails_leaves_the_old_file(tmp_path, monkeypatch, call, number, code):
    """The N-th call of os.open or os.fsync fails, for every N that the writer gets to."""
    path = tmp_path / "a.txt"
    write_text(path, "old")
    real = getattr(os, call)
    failed = 0
    for at in range(10):
        calls = iter(range(100))

        def failing(*args, _at=at, _calls=calls, **kwargs):
            if next(_calls) == _at:
                raise OSError(number, os.strerror(number))
            return real(*args, **kwargs)

        with monkeypatch.context() as patched:
            patched.setattr(os, call, failing)
            told = fault_of(write_text, path, "new")
        if told is None:
            break
        failed += 1
        assert told.code == code
        assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
        assert path.read_text() in ("old", "new")
    assert failed >= 2
    assert path.read_text() == "new"


def fault_of(call, *args) -> InputFault | None:
    try:
        call(*args)
    except InputFault as fault:
        return fault
    return None


def run_python(code: str, *args: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_full_disk_ends_with_a_sentence_and_no_stump(tmp_path):
    """A limit on the size of files stands for the disk: write(2) itself fails in the middle."""
    process = run_python(
        """
        import resource, sys
        from pathlib import Path
        from medseg.fault import InputFault
        from medseg.io.atomic import write_bytes
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            write_bytes(Path(sys.argv[1]), bytes(1_000_000))
        except InputFault as fault:
            print(fault.code, fault)
        """,
        tmp_path / "a.bin",
    )
    out, err = process.communicate(timeout=60)
    assert err == ""
    assert out.startswith("E_DISKFULL")
    assert "a.bin: the disk is full" in out
    assert list(tmp_path.iterdir()) == []


def test_a_killed_writer_leaves_the_old_or_the_new_file(tmp_path):
    path = tmp_path / "a.bin"
    process_code = """
        import sys
        from pathlib import Path
        from medseg.io.atomic import write_bytes
        print("ready", flush=True)
        while True:
            for letter in b"ab":
                write_bytes(Path(sys.argv[1]), bytes([letter]) * 3_000_000)
        """
    for pause_s in (0.003, 0.011, 0.023, 0.04, 0.06):
        process = run_python(process_code, path)
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        deadline = time.monotonic() + 30
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(pause_s)
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        process.stdout.close()
        process.stderr.close()
        data = path.read_bytes()
        assert len(data) == 3_000_000
        assert len(set(data)) == 1
