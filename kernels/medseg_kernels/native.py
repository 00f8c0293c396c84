"""C sources of this package, compiled once for this machine where it has a compiler.

They are plain C without any header of Python or torch, so a compiler is all that is needed; the
result is kept in the user's cache under a name that changes with the source, the headers beside it
and beside this file, the compiler and the processor.
"""

import ctypes
import hashlib
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import chain, pairwise
from pathlib import Path

import torch
from torch import Tensor

COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fPIC", "-shared")
CACHE = Path("~/.cache/medseg_kernels")
SECONDS = 120


class NotCompiledError(RuntimeError):
    """There is no compiled form; the message says why."""


def library(source: Path) -> ctypes.CDLL:
    """The compiled form of a C source; it is tried once in a process.

    Raises:
        NotCompiledError: no compiler, or it fails, or the cache cannot be written or is others'.
    """
    found = _tried(source)
    if isinstance(found, str):
        raise NotCompiledError(found)
    return found


def missing(source: Path) -> str | None:
    """Why there is no compiled form of a C source, or None."""
    found = _tried(source)
    return found if isinstance(found, str) else None


def forget() -> None:
    """Try all sources anew."""
    _tried.cache_clear()


def address(tensor: Tensor | None, first: int = 0) -> ctypes.c_void_p:
    """Where the tensor's number `first` lies in memory; NULL for None."""
    if tensor is None:
        return ctypes.c_void_p()
    return ctypes.c_void_p(tensor.data_ptr() + first * tensor.element_size())


def ranges(count: int) -> list[tuple[int, int]]:
    """`count` things in as many even ranges as torch has threads, or fewer."""
    number = max(1, min(count, torch.get_num_threads()))
    return list(pairwise(count * n // number for n in range(number + 1)))


def in_threads(count: int, work: Callable[[int, int], None]) -> None:
    """Call work(begin, end) for each range of `count` things, each in a thread of its own."""
    parts = ranges(count)
    if len(parts) == 1:
        work(*parts[0])
        return
    with ThreadPoolExecutor(len(parts)) as pool:
        for done in [pool.submit(work, *part) for part in parts]:
            done.result()


@cache
def _tried(source: Path) -> ctypes.CDLL | str:
    # What fails would fail again, at the price of a compiler's run for every call. The reason is
    # kept, not the error: that would keep the frames of all calls, and their tensors.
    try:
        return _loaded(source)
    except NotCompiledError as error:
        return str(error)


def _loaded(source: Path) -> ctypes.CDLL:
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        raise NotCompiledError(f"none of the compilers {', '.join(COMPILERS)} is installed")
    folder = _own_folder()
    compiled = folder / f"{source.stem}-{_fingerprint(source, compiler)}.so"
    try:
        if not compiled.exists():
            _compile(compiler, source, compiled)
        return ctypes.CDLL(str(compiled))
    except OSError as error:
        raise NotCompiledError(f"{compiled} cannot be made or loaded ({error})") from error


def _own_folder() -> Path:
    """A folder that nobody else can put a library into."""
    try:
        folder = CACHE.expanduser()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        told = folder.stat()
    except (OSError, RuntimeError) as error:
        raise NotCompiledError(f"{CACHE} cannot be used ({error})") from error
    if told.st_uid != os.getuid() or told.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise NotCompiledError(f"{folder} can be written by others; remove it")
    return folder


def _fingerprint(source: Path, compiler: str) -> str:
    version = subprocess.run([compiler, "--version"], capture_output=True, check=False).stdout
    cpuinfo = Path("/proc/cpuinfo")
    processor = cpuinfo.read_text().split("\n\n")[0] if cpuinfo.is_file() else ""
    # Clock and load change from one moment to the next; the model and its flags do not.
    fixed = [line for line in processor.splitlines() if line.startswith(("flags", "model"))]
    headers = (sorted(folder.glob("*.h")) for folder in (source.parent, Path(__file__).parent))
    files = (source, *chain.from_iterable(headers))
    told = (version, " ".join(FLAGS).encode(), "\n".join(fixed).encode())
    parts = (*(file.read_bytes() for file in files), *told)
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _compile(compiler: str, source: Path, target: Path) -> None:
    """Write the library whole or not at all; two processes may do it at once."""
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder) / target.name
        command = [compiler, *FLAGS, str(source), "-o", str(made)]
        try:
            done = subprocess.run(command, capture_output=True, check=False, timeout=SECONDS)
        except subprocess.TimeoutExpired as error:
            raise NotCompiledError(f"{compiler} took more than {SECONDS} s") from error
        if done.returncode:
            told = done.stderr.decode(errors="replace").strip().splitlines()
            raise NotCompiledError(f"{compiler} failed ({told[0] if told else done.returncode})")
        made.replace(target)
