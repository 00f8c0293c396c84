"""Files of tensors: read strictly, and a full disk is told as one."""

import errno
import sys
from pathlib import Path

import pytest
import torch

from medseg.fault import InputFault
from medseg.io.pickled import checksum_path, file_sha256, load_pickled, write_pickled


class Stowaway:
    """Would run code when unpickled."""

    def __reduce__(self) -> tuple:
        return print, ("run",)


def test_tensors_and_plain_values_come_back(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    write_pickled(path, {"weight": torch.arange(4.0), "step": 3, "names": ["a", "b"]})
    content = load_pickled(path)
    assert content["weight"].tolist() == [0, 1, 2, 3]
    assert (content["step"], content["names"]) == (3, ["a", "b"])


def test_code_in_a_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.ckpt"
    write_pickled(path, {"weight": Stowaway()})
    with pytest.raises(InputFault, match="no file of tensors") as caught:
        load_pickled(path)
    assert caught.value.code == "E_PICKLE"
    assert capsys.readouterr().out == ""


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    write_pickled(path, {"weight": torch.zeros(4)})
    checksum_path(path).write_text(f"{file_sha256(path)}  a.ckpt\n")
    load_pickled(path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputFault, match="sha256") as caught:
        load_pickled(path)
    assert caught.value.code == "E_SHA256"


@pytest.mark.parametrize("damage", [b"", b"no archive", b"PK\x03\x04"])
def test_what_is_no_archive_is_refused(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "a.ckpt"
    path.write_bytes(damage)
    with pytest.raises(InputFault, match=r"a\.ckpt") as caught:
        load_pickled(path)
    assert caught.value.code == "E_PICKLE"


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is of Linux")
def test_a_full_disk_is_told_as_one() -> None:
    with pytest.raises(OSError, match="No space left") as caught:
        write_pickled(Path("/dev/full"), {"weight": torch.zeros(10**6)})
    assert caught.value.errno == errno.ENOSPC
