"""A codec that dies, hangs or lies ends in a sentence, and the next series is read."""

import sys
import time
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import JPEGLSLossless

from medseg.fault import InputFault
from medseg.io.dicom import pixels
from tests.io.dicom.case import found_by_medseg
from tests.io.dicom.phantom import Made, Storing

PACKED = Made(storing=Storing(JPEGLSLossless))
HEADER = '{"shape": [20, 24], "dtype": "<u2", "bytes": 960}'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    PACKED.write(tmp_path / "in")
    return tmp_path / "in"


def stand_in(program: str, monkeypatch: pytest.MonkeyPatch, longest_s: float = 20.0) -> None:
    """Another program in the codec's place."""
    run = pixels.subprocess.Popen

    def start(command: list[str], **options):
        assert command[1:] == ["-m", "medseg.io.dicom.codec"]
        return run([sys.executable, "-c", program], **options)

    monkeypatch.setattr(pixels.subprocess, "Popen", start)
    monkeypatch.setattr(pixels, "LONGEST_S", longest_s)


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("import os; input(); os.abort()", "died"),
        ("import os; input(); os._exit(0)", "died"),
        ("import os; os._exit(1)", "died"),
        (f"input(); print('{HEADER}'); print('x' * 100)", "died"),
        ("input(); print('no json')", "died"),
        (f"input(); print('{HEADER}'.replace('20', '24'))", "its header says otherwise"),
        (f"input(); print('{HEADER}'.replace('<u2', '<f4'))", "its header says otherwise"),
        (f"input(); print('{HEADER}'.replace('960', '9600000000000'))", "its header says"),
        ("print('{}'); input()", "died"),
        ("print('[]'); input()", "died"),
        ('print(\'{"shape": 3, "dtype": "??", "bytes": "x"}\'); input()', "died"),
    ],
)
def test_one_that_dies_or_lies_is_told(
    program: str, said: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(program, monkeypatch)
    with pytest.raises(InputFault) as fault:
        found_by_medseg(folder)
    assert fault.value.code == "E_CODEC"
    assert said in str(fault.value)
    assert str(folder) in str(fault.value)


@pytest.mark.parametrize("program", ["input(); import time; time.sleep(99)", ""])
def test_one_that_hangs_is_ended(
    program: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The other one sends a line that has no end, a byte now and then.
    endless = (
        "import sys, time; input()\nwhile True: sys.stdout.write('1'); sys.stdout.flush(); "
        "time.sleep(0.01)"
    )
    stand_in(program or endless, monkeypatch, longest_s=0.5)
    began = time.monotonic()
    with pytest.raises(InputFault) as fault:
        found_by_medseg(folder)
    assert fault.value.code == "E_CODEC"
    assert "needs more than" in str(fault.value)
    assert time.monotonic() - began < 5


def test_after_a_dead_codec_the_next_series_is_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stand_in("import os; input(); os.abort()", patch)
        with pytest.raises(InputFault):
            found_by_medseg(folder)
    volume, _ = found_by_medseg(folder)
    assert np.array_equal(volume.array[0], PACKED.array.astype(np.float32))
