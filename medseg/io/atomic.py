"""The one way medseg writes a file: whole or not at all.

A temporary file in the same folder is written, synced and renamed over the final name, and the
folder is synced. A process killed at any moment, or a full disk, leaves the old file or none.
"""

import errno
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medseg.fault import InputFault

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
TEMPORARY = ".medseg-"
LONGEST_SUFFIX = 20


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it becomes `path`, else it is removed.

    The temporary name begins with a dot and keeps the last two suffixes, by which some writers
    choose their format. Missing parent folders are made.

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
        raise _in_words(path, temporary, error) from error
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
    suffix = "".join(path.suffixes[-2:])
    if len(os.fsencode(suffix)) > LONGEST_SUFFIX:
        suffix = ""
    temporary = path.with_name(f"{TEMPORARY}{secrets.token_hex(8)}{suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # 0o666 less the umask, as any other file: tempfile would keep it from all other users.
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    except OSError as error:
        raise _in_words(path, temporary, error) from error
    return temporary


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _in_words(path: Path, temporary: Path, error: OSError) -> InputFault:
    if error.errno in FULL or _is_short_write(error):
        return InputFault(
            f"{path}: the disk is full or a quota is reached; nothing was written. Free some "
            "space, or choose another folder, and run the command again.",
            code="E_DISKFULL",
        )
    reason = error.strerror or str(error)
    if error.filename not in (None, str(temporary), str(path), str(path.parent)):
        reason = f"{reason}: {error.filename}"
    return InputFault(
        f"{path}: cannot be written ({reason}); check the folder, or choose another.",
        code="E_WRITE",
    )


def _is_short_write(error: OSError) -> bool:
    """Whether numpy says that the system took a part of an array; it drops the system's reason."""
    return error.errno is None and str(error).endswith(" written")
