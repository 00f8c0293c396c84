"""The one module that reads and writes a pickle, and only of tensors and plain values.

A pickle is a program for torch's unpickler. It is read with `weights_only`, which runs none of
its calls; but that guard was broken twice (CVE-2025-32434, CVE-2026-24747), so a file is read in a
process of its own, without network and with bounds on memory and time, which hands back JSON and
safetensors (`plain`).

A checkpoint of our own run (`in_run`) is read in this process, after its sha256 where one stands
beside it: resuming then costs no second import of torch (two seconds or more) and no copy of the
optimizer's state, and its tensors keep their layout. The sum tells damage, not who wrote the file:
whoever can change a checkpoint in a run's folder can change its sum, and the recipe, there too. So
a run's folder is trusted as a whole, and only what comes from elsewhere is read apart.
"""

import codecs
import hashlib
import json
import pickle
import re
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError

from medseg.fault import InputFault
from medseg.io.confined import limit_memory, limit_time
from medseg.io.plain import load_plain, save_plain

FAULT = "fault.json"
# The file is in memory once as read and once to be handed on.
MEMORY = 1 << 30
MEMORY_A_BYTE = 4
SECONDS = 60
TOO_LONG = 124
BYTES_A_SECOND = 20_000_000
# The network is left before torch starts threads; the way to its modules is that of this process.
CHILD = """
import sys
sys.path[:] = sys.argv[6:]
from medseg.io.confined import leave_network
leave_network()
from medseg.io.pickled import unpickle
unpickle(*sys.argv[1:6])
"""


def load_pickled(path: Path, *, in_run: bool = False, keys: Sequence[str] = ()) -> dict[str, Any]:
    """The dictionary of tensors and plain values in a torch file, on the CPU.

    Beside it `<name>.sha256` is checked where it exists. No code in the file is run. `in_run` says
    that the file is a checkpoint in the folder of our own run. With `keys` only these come back,
    as far as they are there (`outer.inner` is a key of the mapping `outer`); what else is in the
    file need not be plain.

    Raises:
        InputFault: missing (E_NOTFILE), changed since it was written (E_SHA256), no such file, or
            one that takes more memory or time than its size allows (E_PICKLE).
    """
    if not path.is_file():
        raise InputFault(f"{path}: there is no such file.", code="E_NOTFILE")
    _refuse_changed(path)
    content = _loaded(path) if in_run else _loaded_apart(path, keys)
    if not isinstance(content, dict):
        raise InputFault(
            f"{path}: it holds a {type(content).__name__}, no dictionary.", code="E_PICKLE"
        )
    return content


def write_pickled(path: Path, content: dict[str, Any]) -> None:
    """Write `content` as a torch file, and read it back by the sums within.

    Raises:
        OSError: what the system refused, or that the file is not what was written.
    """
    try:
        with path.open("wb") as file:
            torch.save(content, file)
    except RuntimeError as error:
        # torch closes its archive even so, and that fault hides the one of a full disk.
        if isinstance(error.__context__, OSError):
            raise error.__context__ from error
        raise
    if not _is_whole(path):
        raise OSError("what was read back differs from what was written; the disk fails")


def _is_whole(path: Path) -> bool:
    """Whether each part of the archive has its CRC-32, which torch writes and never looks at."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except zipfile.BadZipFile:
        return False


def checksum_path(path: Path) -> Path:
    """Where the sha256 of `path` stands."""
    return path.with_name(f"{path.name}.sha256")


def file_sha256(path: Path) -> str:
    """The sha256 of a file, in hexadecimal.

    Raises:
        InputFault: there is no such file (E_NOTFILE).
    """
    try:
        with path.open("rb") as source:
            return hashlib.file_digest(source, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise InputFault(f"{path}: there is no such file.", code="E_NOTFILE") from error


def unpickle(path: str, folder: str, memory: str, seconds: str, keys: str) -> None:
    """What the process apart does: read the file, and write what it holds into `folder`.

    `keys` (JSON) are those that are wanted, all where it is empty. A fault of the file is written
    there as a sentence.
    """
    limit_memory(int(memory))
    limit_time(int(seconds))
    reason = _handed_on(Path(path), Path(folder), json.loads(keys))
    if reason:
        (Path(folder) / FAULT).write_text(json.dumps(reason))


def _handed_on(path: Path, folder: Path, keys: Sequence[str]) -> str | None:
    """Why not, as a sentence."""
    try:
        content = _loaded(path)
        if keys and isinstance(content, dict):
            content = _chosen(content, keys)
        save_plain(folder, content)
    except InputFault as fault:
        return str(fault)
    except TypeError as error:
        return f"{path}: {error}; it is no file of tensors."
    except MemoryError:
        return f"{path}: it takes more memory than a file of its size can need; it is damaged."
    except (OSError, SafetensorError) as error:
        return f"{path}: what it holds cannot be handed on ({error}); free space for {folder}."
    return None


def _chosen(content: dict[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    chosen = {}
    for key in keys:
        outer, _, inner = key.partition(".")
        within = content.get(outer) if inner else content
        if isinstance(within, dict) and (inner or outer) in within:
            chosen[key] = within[inner or outer]
    return chosen


def _refuse_changed(path: Path) -> None:
    expected = checksum_path(path)
    if expected.is_file() and expected.read_bytes().split()[:1] != [file_sha256(path).encode()]:
        raise InputFault(
            f"{path}: its sha256 is not the one in {expected.name}; it was changed or damaged "
            "after it was written.",
            code="E_SHA256",
        )


def _loaded(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(_numbers_of_numpy()):
            return torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError) as error:
        called = re.search(r"(?:GLOBAL|Unsupported (?:class|global)) ([\w.]+)", str(error))
        if called:
            raise InputFault(
                f"{path}: it is no file of tensors alone, it names {called.group(1)}; what might "
                "want code to run is not read. Save the weights without it.",
                code="E_PICKLE",
            ) from error
        reason = str(error).partition("\n")[0][:100] or type(error).__name__
        raise InputFault(
            f"{path}: it is damaged or no file of tensors ({reason}).", code="E_PICKLE"
        ) from error


def _numbers_of_numpy() -> list[Any]:
    """What a pickled number of numpy calls (nnU-Net's log is full of them), under both names.

    They make a number of bytes; none of them looks anything up or runs what it is given.
    """
    scalar = np.float64(0).__reduce__()[0]
    kinds = {type(np.dtype(code)) for code in "?bBhHiIlLqQefd"}
    return [
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
        (np.dtype, "numpy.dtype"),
        *kinds,
        codecs.encode,
    ]


def _loaded_apart(path: Path, keys: Sequence[str]) -> Any:
    """What the process apart found; its end without a word is the file's fault as well."""
    size = path.stat().st_size
    memory, seconds = MEMORY + MEMORY_A_BYTE * size, SECONDS + size // BYTES_A_SECOND
    with tempfile.TemporaryDirectory(prefix="medseg-") as name:
        folder = Path(name)
        given = [str(path), name, str(memory), str(seconds), json.dumps(list(keys)), *sys.path]
        code = _end_of([sys.executable, "-P", "-c", CHILD, *given], seconds)
        if (folder / FAULT).exists():
            raise InputFault(json.loads((folder / FAULT).read_text()), code="E_PICKLE")
        if code:
            how = f"took more than {seconds} s" if code == TOO_LONG else f"ended it with {code}"
            raise InputFault(
                f"{path}: reading it in a process apart {how}; it is no file of tensors.",
                code="E_PICKLE",
            )
        return load_plain(folder)


def _end_of(command: list[str], seconds: float) -> int:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return TOO_LONG
    return TOO_LONG if done.returncode == -signal.SIGXCPU else done.returncode
