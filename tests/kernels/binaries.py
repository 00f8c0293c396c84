"""What Triton's kernels become on NVIDIA GPUs, told from their binaries; no GPU is needed.

The tests' own process runs Triton as an interpreter, so kernels are compiled by a child:
`python binaries.py` reads jobs as JSON from its input and prints what it found.
"""

import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

# Compute capability and the instruction that multiplies matrices there.
TARGETS = {80: "HMMA", 90: "HGMMA", 100: "UTCHMMA"}


@dataclass(frozen=True)
class Job:
    """One kernel for one GPU: `signature` has a type an argument ("*fp16", "i32", "fp32", ...).

    "*fp16:16" is a pointer to a multiple of 16 bytes, as torch's tensors begin at: a call compiles
    for that, and loads vectors where it lets it. `fuses`: a product and a sum may become one.
    """

    module: str
    kernel: str
    signature: dict[str, str]
    constants: dict[str, object]
    capability: int
    warps: int = 4
    stages: int = 2
    fuses: bool = True


@dataclass(frozen=True)
class Binary:
    """Registers of a thread, bytes of its stack (spills), bytes of shared memory, instructions."""

    registers: int
    stack: int
    shared: int
    instructions: list[str] = field(repr=False)


def compiled(jobs: list[Job]) -> list[Binary]:
    """The binaries of `jobs`, or the compiler's words in an AssertionError."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}  # noqa: TID251
    environment["TRITON_DEFAULT_FP_FUSION"] = "1"
    done = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps([asdict(job) for job in jobs]),
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [Binary(**one) for one in json.loads(done.stdout)]


def _main() -> None:
    jobs = [Job(**one) for one in json.load(sys.stdin)]
    json.dump([asdict(_compile(job)) for job in jobs], sys.stdout)


def _compile(job: Job) -> Binary:
    import triton  # noqa: PLC0415
    from triton.backends.compiler import GPUTarget  # noqa: PLC0415
    from triton.compiler import ASTSource  # noqa: PLC0415

    kernel = getattr(importlib.import_module(job.module), job.kernel)
    given = {name: job.signature.get(name, "constexpr") for name in kernel.arg_names}
    aligned = [n for n, kind in enumerate(given.values()) if kind.endswith(":16")]
    signature = {name: kind.removesuffix(":16") for name, kind in given.items()}
    attributes = {(number,): [["tt.divisibility", 16]] for number in aligned}
    made = triton.compile(
        ASTSource(kernel, signature, constexprs=job.constants, attrs=attributes),
        target=GPUTarget("cuda", job.capability, 32),
        options={
            "num_warps": job.warps,
            "num_stages": job.stages,
            "enable_fp_fusion": job.fuses,
        },
    )
    return told(made)


def told(made: Any) -> Binary:
    """What the binary of a compiled kernel says of itself."""
    import triton  # noqa: PLC0415

    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(made.asm["cubin"])
        usage, text = (
            subprocess.run(
                [tools / "cuobjdump", option, file.name], capture_output=True, text=True, check=True
            ).stdout
            for option in ("--dump-resource-usage", "-sass")
        )
    resources = {name: int(value) for name, value in re.findall(r"(REG|STACK):(\d+)", usage)}
    names = sorted(
        set(re.findall(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+ )?(\w+)", text, re.MULTILINE))
    )
    return Binary(resources["REG"], resources["STACK"], made.metadata.shared, names)


if __name__ == "__main__":
    _main()
