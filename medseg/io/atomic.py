"""The one way medseg writes a file: whole or not at all.

A temporary file in the same folder is written, synced and renamed over the final name, and the
folder is synced. A process killed at any moment, or a full disk, leaves the old file or none.
"""

import errno
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medseg.fault import InputFault

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it becomes `path`, else it is removed.

    Raises:
        InputFault: the disk is full (E_DISKFULL) or the folder cannot be written (E_WRITE).
    """
    temporary = _temporary_beside(path)
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        raise _in_words(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8 to `path`, whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, data: Any) -> None:
    """Write `data` as readable JSON to `path`, whole or not at all."""
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _temporary_beside(path: Path) -> Path:
    # The suffix stays at the end: writers such as nibabel choose the format by it.
    suffix = "".join(path.suffixes[-2:])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            prefix=f".{path.name[:80]}.", suffix=suffix, dir=path.parent
        )
    except OSError as error:
        raise _in_words(path, error) from error
    os.close(handle)
    temporary = Path(name)
    temporary.chmod(0o666 & ~_umask())
    return temporary


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _in_words(path: Path, error: OSError) -> InputFault:
    if error.errno in FULL:
        return InputFault(
            f"{path}: the disk is full; nothing was written. Free some space, or choose another "
            "folder, and run the command again.",
            code="E_DISKFULL",
        )
    return InputFault(
        f"{path}: cannot be written ({error.strerror or error}); choose another folder.",
        code="E_WRITE",
    )
