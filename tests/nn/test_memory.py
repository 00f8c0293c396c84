"""Freed memory is used again, and given back in the end."""

import ctypes
import resource
import subprocess
import sys

import pytest
import torch

from medseg.inference.memory import resident
from medseg.nn.memory import reused_memory

BYTES = 64 << 20
# glibc keeps so much at most where it is told a largest number.
MUCH = 2**31 + BYTES

pytestmark = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library has no mallopt"
)


def _faults() -> int:
    """Pages that a large block costs when it is taken, written and freed."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(BYTES, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_blocks_are_soon_found_in_what_was_freed() -> None:
    with reused_memory():
        for _ in range(8):  # small things may come to lie between the first ones
            _faults()
        assert _faults() < 100


@pytest.mark.slow
def test_much_is_kept_too() -> None:
    library = ctypes.CDLL(None)
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    library.free.argtypes = [ctypes.c_void_p]

    def faults() -> int:
        """As above, of a block that nothing small comes to lie behind."""
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        block = library.malloc(MUCH)
        ctypes.memset(block, 1, MUCH)
        library.free(block)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    with reused_memory():
        faults()
        assert faults() < 100


def test_a_thread_keeps_its_blocks_too_where_the_process_was_prepared() -> None:
    program = """
import resource, sys, threading
from medseg.nn.memory import prepare, reused_memory
prepare()
import torch
def run():
    with reused_memory():
        for _ in range(8):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            torch.empty(96 << 20, dtype=torch.uint8).fill_(1)
            found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
found = []
thread = threading.Thread(target=run)
thread.start()
thread.join()
sys.stdout.write(str(found[-1]))
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert int(done.stdout) < 16  # a large page of 2 MB each would be 48


def test_what_is_open_elsewhere_is_not_given_back() -> None:
    with reused_memory():
        with reused_memory():
            _faults()
        for _ in range(8):
            _faults()
        assert _faults() < 100


def test_in_the_end_all_is_given_back_and_the_system_asked_again() -> None:
    with reused_memory():
        _faults()
        held = resident()
    assert resident() <= held - BYTES // 2
    assert _faults() + _faults() > 16  # a fault may bring a page of 2 MB
