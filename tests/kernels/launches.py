"""What a call of a Triton form launches: its kernels as they are compiled for that very call.

Triton is told of a GPU that need not be there, and compiles where it would launch, so types,
alignment and the numbers that it compiles for are those of the call. `python -m
tests.kernels.launches` reads jobs as JSON from its input and prints what it found.
"""

import importlib
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.kernels.binaries import Binary, told


@dataclass(frozen=True)
class Call:
    """A function of a module, its arguments, and the GPU's compute capability."""

    module: str
    function: str
    arguments: dict[str, Any]
    capability: int


@dataclass(frozen=True)
class Launch:
    """A kernel, the number of its programs, and its binary."""

    kernel: str
    programs: int
    binary: Binary


def launched(calls: list[Call]) -> list[list[Launch]]:
    """What each call launches, or the child's words in an AssertionError."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}  # noqa: TID251
    done = subprocess.run(
        [sys.executable, "-m", "tests.kernels.launches"],
        input=json.dumps([asdict(call) for call in calls]),
        capture_output=True,
        text=True,
        env=environment,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [
        [Launch(kernel, programs, Binary(**binary)) for kernel, programs, binary in launches]
        for launches in json.loads(done.stdout)
    ]


def _main() -> None:
    json.dump([_launches(Call(**one)) for one in json.load(sys.stdin)], sys.stdout)


def _launches(call: Call) -> list[tuple[str, int, dict[str, Any]]]:
    from triton.runtime import driver  # noqa: PLC0415
    from triton.runtime.jit import JITFunction  # noqa: PLC0415

    driver.set_active(_Device(call.capability))
    launch, found = JITFunction.run, []

    def compile_only(kernel: Any, *args: Any, grid: tuple[int, ...], **options: Any) -> None:
        made = launch(kernel, *args, grid=grid, **{**options, "warmup": True})
        found.append((kernel.__name__, grid[0], asdict(told(made))))

    JITFunction.run = compile_only
    try:
        getattr(importlib.import_module(call.module), call.function)(**call.arguments)
    finally:
        JITFunction.run = launch
    return found


class _Device:
    """What Triton asks of a GPU in order to compile for it; each kind has a number of its own."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget  # noqa: PLC0415

        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return self.capability

    def get_current_stream(self, _device: int) -> int:
        return 0


if __name__ == "__main__":
    _main()
