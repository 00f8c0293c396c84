import platform
from collections.abc import Iterator

import pytest

from medseg_kernels import native


@pytest.fixture(params=[("-mno-avx512f",), ("-mno-avx512f", "-mno-fma", "-mno-avx2")], ids=str)
def narrow_vectors(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """C sources compiled for shorter vectors than this machine's."""
    if platform.machine() != "x86_64":
        pytest.skip("these widths are of x86")
    monkeypatch.setattr(native, "FLAGS", (*native.FLAGS, *request.param))
    native.forget()
    yield
    native.forget()
