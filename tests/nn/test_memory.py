"""Freed memory is used again, and given back in the end."""

import ctypes
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from medseg.inference.memory import resident
from medseg.nn.memory import reused_memory

BYTES = 64 << 20
# glibc keeps so much at most where it is told a largest number.
MUCH = 2**31 + BYTES
# Pages that come for other reasons while a block is taken, written and freed.
FEW = 16

pytestmark = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library has no mallopt"
)


def _faults(size: int = BYTES) -> int:
    """Faults of a block that is taken, written and freed.

    Not a tensor's: glibc gives the place of an aligned block to the next one only after some
    rounds, when small things no longer come to lie behind it.
    """
    library = ctypes.CDLL(None)
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    library.free.argtypes = [ctypes.c_void_p]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = library.malloc(size)
    ctypes.memset(block, 1, size)
    library.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_blocks_are_found_in_what_was_freed() -> None:
    with reused_memory():
        _faults()
        assert _faults() < FEW


@pytest.mark.slow
def test_much_is_kept_too() -> None:
    with reused_memory():
        _faults(MUCH)
        assert _faults(MUCH) < FEW


@pytest.mark.parametrize("heaps", [None, "0", "2"])
def test_a_thread_keeps_its_blocks_too_where_the_process_was_prepared(
    heaps: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Machines with little memory are often told to have two heaps: medseg has one all the same."""
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    if heaps is not None:
        monkeypatch.setenv("MALLOC_ARENA_MAX", heaps)
    program = """
import sys, threading
from medseg.nn.memory import prepare, reused_memory
prepare()
from tests.nn.test_memory import _faults
def run():
    with reused_memory():
        found.extend([_faults(), _faults()])
found = []
thread = threading.Thread(target=run)
thread.start()
thread.join()
sys.stdout.write(str(found[-1]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert int(done.stdout) < FEW


def test_what_is_open_elsewhere_is_not_given_back() -> None:
    with reused_memory():
        with reused_memory():
            _faults()
        assert _faults() < FEW


def test_in_the_end_all_is_given_back_and_the_system_asked_again() -> None:
    with reused_memory():
        _faults()
        held = resident()
    assert resident() <= held - BYTES // 2
    assert _faults() + _faults() > FEW  # a fault may bring a page of 2 MB
