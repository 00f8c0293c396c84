"""What files held: a sha256 of their bytes, and a quick look that tells that they are untouched."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medseg.fault import InputFault
from medseg.io.pickled import file_sha256


@dataclass(frozen=True)
class Fingerprint:
    """`sha256` is of the bytes; `stat` of names, sizes, times and inodes.

    Where `stat` is as it was nothing was written since, so the bytes need not be read. It is a
    digest so that names of DICOM files, which may be the patient's, are in no receipt.
    """

    sha256: str
    stat: str


def fingerprint(files: Sequence[Path], *, known: Fingerprint | None = None) -> Fingerprint:
    """That of `files` in their order; `known` is taken over where it is still of the same files.

    A folder stands for all files in it.

    Raises:
        InputFault: a file is not there or cannot be read (E_NOTFILE).
    """
    every = [file for given in files for file in _files_of(given)]
    stat = _digest([_look(file) for file in every])
    if known is not None and known.stat == stat:
        return known
    try:
        sums = [file_sha256(file) for file in every]
    except OSError as error:
        raise _unreadable(error) from error
    return Fingerprint(sums[0] if len(sums) == 1 else _digest(sums), stat)


def _files_of(given: Path) -> list[Path]:
    if not given.is_dir():
        return [given]
    return sorted(path for path in given.rglob("*") if path.is_file())


def _look(file: Path) -> str:
    try:
        seen = file.stat()
    except OSError as error:
        raise _unreadable(error) from error
    # The time of change counts too: unlike that of modification, no tool sets it back.
    numbers = (seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_ino)
    return f"{file.name!r} {numbers}"


def _digest(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _unreadable(error: OSError) -> InputFault:
    return InputFault(
        f"{error.filename}: it cannot be read ({error.strerror or error}); was it moved?",
        code="E_NOTFILE",
    )
