"""The C sources: each one compiles where there is a compiler, and one that does not is told of."""

import gc
import shutil
import weakref
from pathlib import Path

import pytest
import torch
from torch import Tensor

import medseg_kernels
from medseg_kernels import native

SOURCES = sorted(Path(medseg_kernels.__file__).parent.rglob("*.c"))


@pytest.fixture
def _compiler() -> None:
    if not any(map(shutil.which, native.COMPILERS)):
        pytest.skip(f"needs one of the compilers {', '.join(native.COMPILERS)}")


def test_there_are_sources() -> None:
    assert len(SOURCES) >= 12


@pytest.mark.usefixtures("_compiler")
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_each_source_compiles(source) -> None:
    """Or its tests would be skipped, and every call would be torch's without a word."""
    assert native.missing(source) is None


def test_what_cannot_be_compiled_keeps_nothing_of_its_calls(tmp_path) -> None:
    broken = tmp_path / "broken.c"
    broken.write_text("not C")

    def called() -> weakref.ref[Tensor]:
        tensor = torch.zeros(3)
        assert native.missing(broken) is not None
        with pytest.raises(native.NotCompiledError):
            native.library(broken)
        return weakref.ref(tensor)

    held = [called() for _ in range(2)]
    gc.collect()
    assert all(one() is None for one in held)
