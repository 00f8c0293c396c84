"""The one way medseg writes a file: whole or not at all.

A temporary file in the same folder is written, synced and renamed over the final name, and the
folder is synced. A process killed at any moment, or a full disk, leaves the old file or none.

What a killed process leaves is a hidden temporary file. Its writer held a lock on it, which ended
with the process, so the next writing into the same folder can tell it from one that is being
written, and removes it.
"""

import contextlib
import errno
import fcntl
import json
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medseg.fault import InputFault

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
TEMPORARY = ".medseg-"
LEFTOVER = re.compile(r"\.medseg-[0-9a-f]{16}(?![0-9a-f])")
LONGEST_SUFFIX = 20
# A new file is there a moment before it is locked.
YOUNG_S = 60.0


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it becomes `path`, else it is removed.

    The temporary name begins with a dot and keeps the last two suffixes, by which some writers
    choose their format. Missing parent folders are made.

    Raises:
        InputFault: the disk is full (E_DISKFULL) or the folder cannot be written (E_WRITE).
    """
    temporary = _temporary_beside(path)
    with contextlib.ExitStack() as last:
        last.callback(_removed, temporary)
        try:
            last.callback(_closed, _locked_new(path, temporary))
            yield temporary
            _sync(temporary)
            temporary.replace(path)
            _sync(path.parent)
        except OSError as error:
            raise _in_words(path, temporary, error) from error


def remove_leftovers(folder: Path, *, older_than_s: float = YOUNG_S) -> int:
    """Remove the temporary files in `folder` that no living process writes; how many there were.

    Where the file system knows no locks, or forbids their removal, they stay.
    """
    count = 0
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if LEFTOVER.match(entry.name):
                count += _removed_if_left(Path(entry.path), older_than_s)
    return count


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all; it is read back before it gets its name."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
        if temporary.read_bytes() != data:
            raise OSError("what was read back differs from what was written; the disk fails")


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
    return path.with_name(f"{TEMPORARY}{secrets.token_hex(8)}{suffix}")


def _locked_new(path: Path, temporary: Path) -> int:
    """A handle of the new temporary file; while it is open no one else takes it for left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)
    # 0o666 less the umask, as any other file: tempfile would keep it from all other users.
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    with contextlib.suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return handle


def _closed(handle: int) -> None:
    # Nothing was written through it, so there is nothing that a fault here could lose.
    with contextlib.suppress(OSError):
        os.close(handle)


def _removed(path: Path) -> None:
    # What cannot be removed now is removed by the next writing; the fault that led here is told.
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def _removed_if_left(path: Path, older_than_s: float) -> bool:
    with contextlib.suppress(OSError):
        if time.time() - path.stat().st_mtime < older_than_s:
            return False
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
        finally:
            os.close(handle)
        return True
    return False


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
