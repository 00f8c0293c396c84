"""The files of a folder: what each is by name and place, and which image a label map is of."""

import fnmatch
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medseg.data.card import load_card
from medseg.data.cases import Listing, open_listing
from medseg.doctor.finding import Finding, Kind, remedy_of
from medseg.fault import InputFault
from medseg.io.dicom.instance import looks_like_dicom
from medseg.io.nifti import is_nifti, stem
from medseg.volume import LabelTable

DATASET = "dataset.json"
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
LABEL_FOLDER = re.compile(r"(labels?|masks?|segmentations?)(tr|ts|va)?$", re.IGNORECASE)
LABEL_NAME = re.compile(r"[-_.](d?seg|labels?|masks?)$", re.IGNORECASE)


@dataclass(frozen=True)
class Patient:
    """One NIfTI file to be examined; `image` is the path of the image that its labels are of."""

    path: Path
    name: str
    kind: Kind
    image: Path | None = None
    table: LabelTable | None = None


@dataclass
class Folder:
    """What a folder holds. `told` is what is known without reading further."""

    root: Path
    files: list[Patient] = field(default_factory=list)
    dicom: list[Path] = field(default_factory=list)
    told: list[Finding] = field(default_factory=list)


def look_into(
    root: Path, *, card: str | None, table: LabelTable | None, labels: Sequence[str] = ()
) -> Folder:
    """Every file below `root` by its kind; images before label maps. No pipe is opened.

    `labels` are patterns (`*_gt.nii.gz`) of names that are label maps.

    Raises:
        InputFault: `root` is no folder (E_NOTFILE), or the card is not known.
    """
    if not root.is_dir():
        raise InputFault(f"{root}: it is no folder that is there; name one.", code="E_NOTFILE")
    folder = Folder(root)
    listing = _listing(folder, card)
    if table is None and listing is not None:
        table = listing.labels
    paired = _paired(listing)
    for path in _below(root):
        # A name that is no UTF-8 could not be written into a report.
        name = os.fsencode(path.relative_to(root)).decode("utf-8", "backslashreplace")
        if is_nifti(path):
            is_labels = path in paired or _says_labels(path, name, labels)
            image = paired.get(path) or (_neighbor(path) if is_labels else None)
            kind: Kind = "labels" if is_labels else "image"
            folder.files.append(Patient(path, name, kind, image, table if is_labels else None))
        else:
            _sort(folder, path, name)
    folder.files.sort(key=lambda patient: (patient.kind == "labels", patient.name))
    return folder


def _below(root: Path) -> Iterator[Path]:
    """Every file, sorted; links to folders are not followed, so none leads round."""
    for place, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            yield Path(place) / name


def _sort(folder: Folder, path: Path, name: str) -> None:
    """A file that is no NIfTI by its name: DICOM, or passed over with its kind."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode) and not path.name.startswith("."):
            if path.suffix.lower() in DICOM_SUFFIXES or looks_like_dicom(path):
                folder.dicom.append(path)
                return
            if fault := _hidden_nifti(path):
                folder.told.append(fault_of(name, "image", fault))
                return
        kind = _kind(path, mode)
    except (OSError, InputFault):
        kind = "a link to nothing" if path.is_symlink() else "a file that cannot be opened"
    folder.told.append(Finding(name, "other", "passed over", sentence=f"{kind}."))


def _hidden_nifti(path: Path) -> InputFault | None:
    with path.open("rb") as source:
        start = source.read(348)
    if start[344:348] != b"n+1\0":
        return None
    return InputFault(
        f"{path}: it is a NIfTI file under another name; readers pass over it.", code="E_SUFFIX"
    )


def _kind(path: Path, mode: int) -> str:
    if not stat.S_ISREG(mode):
        return "no regular file (a pipe, a socket or a device)"
    if path.name.startswith("._") or path.name == ".DS_Store":
        return "what macOS leaves beside files"
    if path.name.startswith("."):
        return "a hidden file"
    return f"a {path.suffix.lower()} file" if path.suffix else "a file of another kind"


def fault_of(name: str, kind: Kind, fault: InputFault, path: Path | None = None) -> Finding:
    """A finding of a fault; the path, which the table shows already, is cut off its sentence."""
    sentence = str(fault).removeprefix(f"{path}: ") if path else str(fault).partition(": ")[2]
    return Finding(name, kind, "wrong", fault.code, sentence, remedy_of(fault.code))


def _listing(folder: Folder, card: str | None) -> Listing | None:
    facts = folder.root / DATASET
    if card is None and not facts.is_file():
        return None
    if card is None:
        card = "nnunet" if b'"channel_names"' in facts.read_bytes() else "msd"
    opened = load_card(card)
    try:
        return open_listing(opened, folder.root)
    except InputFault as fault:
        folder.told.append(fault_of(DATASET, "data set", fault))
        return None


def _paired(listing: Listing | None) -> dict[Path, Path]:
    if listing is None:
        return {}
    return {case.label: case.images[0] for case in listing.cases if case.label is not None}


def _says_labels(path: Path, name: str, patterns: Sequence[str]) -> bool:
    return (
        any(fnmatch.fnmatch(name, p) or fnmatch.fnmatch(path.name, p) for p in patterns)
        or LABEL_FOLDER.match(path.parent.name) is not None
        or LABEL_NAME.search(stem(path)) is not None
    )


def _neighbor(path: Path) -> Path | None:
    """The image of the same name: in imagesTr for labelsTr, or beside it without its ending."""
    folder = path.parent.with_name(re.sub("^(label|mask)", "image", path.parent.name))
    base = LABEL_NAME.sub("", stem(path))
    for name in (base, f"{base}_0000"):
        for suffix in (".nii.gz", ".nii"):
            other = folder / f"{name}{suffix}"
            if other != path and other.is_file():
                return other
    return None
