"""Files of tensors: read strictly, apart from us, and a full disk is told as one."""

import errno
import socket
import subprocess
import sys
import zipfile
from collections import OrderedDict
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch

from medseg.fault import InputFault
from medseg.io import pickled
from medseg.io.pickled import checksum_path, file_sha256, load_pickled, write_pickled
from medseg.io.plain import load_plain, save_plain

CONTENT = {
    "weight": torch.arange(12.0).reshape(3, 4).T,
    "state": {"step": 3, "best": float("-inf"), "names": ["a", "b"], 7: (1, 2.5, None, True)},
    "half": torch.tensor([1.5, float("nan")], dtype=torch.bfloat16),
    "random": torch.get_rng_state(),
    "empty": torch.zeros(0, 3),
    "one": torch.tensor(5),
    "text": "é\n",
    "raw": b"\x00\xff",
    "size": torch.Size([2, 3]),
    "type": torch.float16,
    "exact": 0.1 + 0.2,
}


class Stowaway:
    """Would run code when unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return Path.touch, (self.marker,)


def written(path: Path, content: Any, *, with_sum: bool = True) -> Path:
    write_pickled(path, content)
    if with_sum:
        checksum_path(path).write_text(f"{file_sha256(path)}  {path.name}\n")
    return path


def refusal(path: Path, **options: bool) -> InputFault:
    with pytest.raises(InputFault) as caught:
        load_pickled(path, **options)
    assert str(path) in str(caught.value)
    return caught.value


def assert_same(found: Any, wanted: Any) -> None:
    assert type(found) is type(wanted)
    if isinstance(wanted, torch.Tensor):
        assert found.dtype == wanted.dtype
        assert torch.equal(found.nan_to_num(), wanted.nan_to_num())
    elif isinstance(wanted, dict):
        assert list(found) == list(wanted)
        for key, value in wanted.items():
            assert_same(found[key], value)
    elif isinstance(wanted, list | tuple):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert_same(one, other)
    else:
        assert found == wanted


@pytest.mark.parametrize("in_run", [True, False])
def test_tensors_and_plain_values_come_back(tmp_path: Path, in_run: bool) -> None:
    path = written(tmp_path / "a.ckpt", CONTENT)
    assert_same(load_pickled(path, in_run=in_run), CONTENT)


def test_a_checkpoint_of_our_own_is_read_here_and_any_other_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apart = []
    monkeypatch.setattr(pickled, "_loaded_apart", lambda path, _keys: apart.append(path.name) or {})
    load_pickled(written(tmp_path / "own.ckpt", {"step": 3}), in_run=True)
    load_pickled(written(tmp_path / "no_sum.ckpt", {}, with_sum=False), in_run=True)
    assert apart == []
    load_pickled(written(tmp_path / "foreign.pt", {"step": 3}))
    assert apart == ["foreign.pt"]


@pytest.mark.parametrize("in_run", [True, False])
def test_code_in_a_file_is_refused_and_not_run(tmp_path: Path, in_run: bool) -> None:
    marker = tmp_path / "ran"
    path = written(tmp_path / "a.ckpt", {"weight": Stowaway(marker)})
    fault = refusal(path, in_run=in_run)
    assert fault.code == "E_PICKLE"
    assert "no file of tensors" in str(fault)
    assert not marker.exists()


def test_what_gets_past_the_guard_is_still_apart_from_us() -> None:
    """A process that ends without a word, as of broken memory, is told as the file's fault."""
    code = "import os; os.abort()"
    assert pickled._end_of([sys.executable, "-c", code], 30) == -6
    assert pickled._end_of([sys.executable, "-c", "while True: pass"], 0.5) == pickled.TOO_LONG


@pytest.mark.parametrize("code", [-11, 3, pickled.TOO_LONG])
def test_the_end_of_the_process_apart_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(pickled, "_end_of", lambda *_: code)
    fault = refusal(written(tmp_path / "a.pt", {}))
    assert fault.code == "E_PICKLE"
    assert ("more than 60 s" if code == pickled.TOO_LONG else f"with {code}") in str(fault)


def test_a_file_that_swells_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive of zeros, deflated a thousandfold."""
    plain = written(tmp_path / "plain.pt", {"x": torch.zeros(60_000_000)}, with_sum=False)
    path = tmp_path / "bomb.pt"
    with (
        zipfile.ZipFile(plain) as source,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
    plain.unlink()
    assert path.stat().st_size < 1_000_000
    monkeypatch.setattr(pickled, "MEMORY", 100_000_000)
    fault = refusal(path)
    assert fault.code == "E_PICKLE"
    assert "memory" in str(fault)


@pytest.mark.skipif(sys.platform != "linux", reason="network namespaces are of Linux")
def test_the_process_apart_has_no_network() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = (
            "import socket, sys\n"
            "from medseg.io.confined import leave_network\n"
            "print(leave_network())\n"
            "try:\n"
            "    socket.create_connection(('127.0.0.1', int(sys.argv[1])), 5)\n"
            "    print('reached')\n"
            "except OSError:\n"
            "    print('alone')\n"
        )
        port = str(server.getsockname()[1])
        out = subprocess.run([sys.executable, "-c", code, port], capture_output=True, text=True)
    left, reached = out.stdout.split()
    if left == "False":
        pytest.skip("this system gives no network namespaces")
    assert reached == "alone"


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.ckpt", {"weight": torch.zeros(4)})
    load_pickled(path, in_run=True)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    for in_run in (True, False):
        fault = refusal(path, in_run=in_run)
        assert fault.code == "E_SHA256"


def test_a_sum_that_is_no_text_is_no_sum_of_it(tmp_path: Path) -> None:
    path = written(tmp_path / "a.ckpt", {})
    for content in (b"", b"\xff\xfe", b"\n"):
        checksum_path(path).write_bytes(content)
        assert refusal(path, in_run=True).code == "E_SHA256"


@pytest.mark.parametrize("damage", [b"", b"no archive", b"PK\x03\x04", b"\x80\x02}q\x00."])
def test_what_is_no_archive_is_refused(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "a.ckpt"
    path.write_bytes(damage)
    checksum_path(path).write_text(file_sha256(path))
    assert refusal(path, in_run=True).code == "E_PICKLE"


def test_what_is_no_archive_is_refused_by_the_process_apart(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    path.write_bytes(b"no archive")
    assert refusal(path).code == "E_PICKLE"


def test_what_is_no_dictionary_is_refused(tmp_path: Path) -> None:
    fault = refusal(written(tmp_path / "a.ckpt", [1, 2]), in_run=True)
    assert fault.code == "E_PICKLE"
    assert "a list" in str(fault)


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    assert refusal(tmp_path / "absent.ckpt").code == "E_NOTFILE"


class TestPlain:
    @pytest.mark.parametrize(
        "value",
        [
            [],
            [["tensor", "0"]],
            {"dict": {"list": [{}, []]}},
            {1: "a", "1": "b", None: 0, (1, 2): 3},
            (float("nan"),),
            {1, 2},
            10**30,
        ],
    )
    def test_values_come_back_as_they_were(self, tmp_path: Path, value: Any) -> None:
        save_plain(tmp_path, value)
        assert repr(load_plain(tmp_path)) == repr(value)

    def test_tensors_that_share_memory_come_back_apart(self, tmp_path: Path) -> None:
        whole = torch.arange(6)
        save_plain(tmp_path, OrderedDict(a=whole, b=whole[2:4], c=whole))
        found = load_plain(tmp_path)
        assert [found[name].tolist() for name in "abc"] == [[*range(6)], [2, 3], [*range(6)]]
        found["a"][2] = 9
        assert found["b"].tolist() == [2, 3]

    @pytest.mark.parametrize("value", [Path("a"), object(), torch.zeros(2).to_sparse(), 1j])
    def test_anything_else_is_refused_by_its_type(self, tmp_path: Path, value: Any) -> None:
        with pytest.raises(TypeError, match=type(value).__name__):
            save_plain(tmp_path, {"a": [value]})


@pytest.mark.parametrize("at", [0, 200, 20_000])
def test_a_disk_that_changes_bytes_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    def save(content: Any, file: Any) -> None:
        buffer = BytesIO()
        real(content, buffer)
        data = bytearray(buffer.getvalue())
        data[at] ^= 1
        file.write(data)

    real = torch.save
    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(OSError, match="read back"):
        write_pickled(tmp_path / "a.ckpt", {"weight": torch.zeros(10_000)})


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is of Linux")
def test_a_full_disk_is_told_as_one() -> None:
    with pytest.raises(OSError, match="No space left") as caught:
        write_pickled(Path("/dev/full"), {"weight": torch.zeros(10**6)})
    assert caught.value.errno == errno.ENOSPC
