"""The DICOM files behind what a user names: folders, files, a DICOMDIR, a zip."""

import lzma
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import pydicom
from pydicom.dataset import Dataset

from medseg.fault import InputFault
from medseg.io.dicom.bounded import Bounded
from medseg.io.dicom.elements import DAMAGE, quietly
from medseg.io.dicom.instance import looks_like_dicom

MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"
# Scans pack to a tenth at best. An archive that grows more than this was made to fill a disk.
MOST_GROWTH = 200
CHUNK = 1 << 20
SUFFIXES = (".dcm", ".dicom", ".ima")
BROKEN_ZIP = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    RuntimeError,
    NotImplementedError,
    EOFError,
)


@contextmanager
def dicom_files(inputs: Sequence[Path]) -> Iterator[list[Path]]:
    """Every DICOM file of `inputs`, sorted; what is in a zip is unpacked until the block ends.

    Files that are not DICOM are passed over in a folder and refused when named themselves.

    Raises:
        InputFault: a path that is not there or no file (E_NOTFILE), a named file that is not
            DICOM (E_MAGIC), a DICOMDIR or zip that cannot be used (E_DICOMDIR, E_ZIP, E_BOMB).
    """
    with tempfile.TemporaryDirectory(prefix="medseg-zip-") as folder:
        found: dict[Path, None] = {}
        for place, given in enumerate(inputs):
            found.update(dict.fromkeys(_files_of(given, Path(folder) / str(place))))
        yield sorted(found)


def _files_of(given: Path, unpacked: Path) -> list[Path]:
    if given.is_dir():
        return [path for path in sorted(given.rglob("*")) if _is_instance(path)]
    _refuse_no_file(given)
    if looks_like_dicom(given):
        return _listed(given) if _is_directory_file(given) else [given]
    if zipfile.is_zipfile(given) or _starts_as_zip(given):
        return _unpacked(given, unpacked)
    raise InputFault(f"{given}: it is not a DICOM file.", code="E_MAGIC")


def _starts_as_zip(given: Path) -> bool:
    with given.open("rb") as source:
        return source.read(4) == b"PK\x03\x04"


def _refuse_no_file(given: Path) -> None:
    try:
        mode = given.stat().st_mode
    except OSError as error:
        raise InputFault(
            f"{given}: it cannot be opened ({error.strerror}).", code="E_NOTFILE"
        ) from error
    if not stat.S_ISREG(mode):
        raise InputFault(f"{given}: it is no regular file.", code="E_NOTFILE")


def _is_instance(path: Path) -> bool:
    # stat before open: a pipe would wait for ever.
    return path.is_file() and _is_or_was_dicom(path, path.name) and not _is_directory_file(path)


def _is_or_was_dicom(path: Path, name: str) -> bool:
    """Whether it is DICOM, or is named so: an empty slice is a lost one, not another file."""
    # What macOS keeps beside a file has its name behind "._".
    is_named = name.lower().endswith(SUFFIXES) and not name.startswith(".")
    return is_named or looks_like_dicom(path)


def _is_directory_file(path: Path) -> bool:
    """Whether it is a DICOMDIR, by what it says of itself."""
    if path.name.upper() == "DICOMDIR":
        return True
    with path.open("rb") as source:
        return MEDIA_DIRECTORY.encode() in source.read(512)


def _listed(directory_file: Path) -> list[Path]:
    """The images that a DICOMDIR lists, none of them outside its own folder (PS3.10 8.6)."""
    root = directory_file.parent.resolve()
    try:
        names = _names_in(directory_file)
    except DAMAGE as error:
        raise InputFault(
            f"{directory_file}: the DICOMDIR is damaged; name its folder instead.",
            code="E_DICOMDIR",
        ) from error
    files = [root.joinpath(*parts) for parts in names if parts]
    for file in files:
        if not file.resolve().is_relative_to(root):
            raise InputFault(
                f"{directory_file}: it points outside its own folder; name the folder instead.",
                code="E_DICOMDIR",
            )
    missing = [file for file in files if not file.is_file()]
    if missing or not files:
        raise InputFault(
            f"{directory_file}: {len(missing)} of the {len(files)} images it lists are not there; "
            "copy the whole medium, or name its folder.",
            code="E_DICOMDIR",
        )
    return files


def _names_in(directory_file: Path) -> list[list[str]]:
    """The file IDs of its images.

    Raises:
        ValueError: one holds a zero byte, or pydicom's errors for damage.
    """
    with directory_file.open("rb") as source, quietly():
        bounded = Bounded(source, directory_file.stat().st_size)
        records = pydicom.dcmread(bounded, force=True).get("DirectoryRecordSequence") or ()
        names = [
            _parts(record) for record in records if record.get("DirectoryRecordType") == "IMAGE"
        ]
    if any("\0" in part for parts in names for part in parts):
        raise ValueError("a zero byte in a file ID")
    return names


def _parts(record: Dataset) -> list[str]:
    name = record.get("ReferencedFileID")
    if name is None:
        return []
    return [name] if isinstance(name, str) else [str(part) for part in name]


def _unpacked(archive: Path, folder: Path) -> list[Path]:
    """The DICOM members of a zip, under names of our own: none can leave the folder."""
    folder.mkdir(parents=True)
    room = MOST_GROWTH * archive.stat().st_size
    files = []
    try:
        with zipfile.ZipFile(archive) as members:
            for place, member in enumerate(m for m in members.infolist() if not m.is_dir()):
                target = folder / f"{place:06d}_{_plain(member.filename)}"
                room -= _extract(members, member, target, room, archive)
                name = PurePosixPath(member.filename).name
                if _is_or_was_dicom(target, name) and not _is_directory_file(target):
                    files.append(target)
                else:
                    target.unlink()
    except BROKEN_ZIP as error:
        raise _broken_zip(archive) from error
    except OSError as error:
        # bz2 says in an OSError without a number that its stream is damaged.
        if error.errno is None:
            raise _broken_zip(archive) from error
        raise InputFault(
            f"{archive}: it cannot be unpacked ({error.strerror}); unpack it where there is room, "
            "and name the folder.",
            code="E_DISKFULL",
        ) from error
    return files


def _broken_zip(archive: Path) -> InputFault:
    return InputFault(
        f"{archive}: the zip is damaged or encrypted; unpack it and name the folder.",
        code="E_ZIP",
    )


def _extract(
    members: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, room: int, archive: Path
) -> int:
    with members.open(member) as source, target.open("wb") as sink:
        while chunk := source.read(CHUNK):
            if sink.tell() + len(chunk) > room:
                raise InputFault(
                    f"{archive}: it unpacks to more than {MOST_GROWTH} times its size; no scan "
                    "does.",
                    code="E_BOMB",
                )
            sink.write(chunk)
        return sink.tell()


def _plain(name: str) -> str:
    last = PurePosixPath(name.replace("\\", "/")).name
    return "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in last)[-40:]
