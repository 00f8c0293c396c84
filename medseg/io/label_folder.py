"""A folder with one 0/1 NIfTI file a label, as TotalSegmentator writes it.

Each file is written whole. `labels.csv`, the label table, is removed first and written last: a
folder that lacks it is half-written, and is not read. Masks that an older table names and the new
one does not are removed, for nobody can tell a stale mask from a fresh one; a folder with other
images is left alone.
"""

import re
import unicodedata
from pathlib import Path

import numpy as np

from medseg.fault import InputFault
from medseg.io.atomic import write_text
from medseg.io.nifti import is_nifti, read_labels, write_labels
from medseg.volume import LabelTable, LabelVolume

INDEX = "labels.csv"
SUFFIX = ".nii.gz"
LONGEST_NAME = 100
# Names of devices in Windows, whatever follows the dot.
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)")


def write_label_folder(folder: Path, labels: LabelVolume) -> None:
    """Write each label as FOLDER/NAME.nii.gz with the values 0 and 1, absent labels included.

    Raises:
        InputFault: the folder holds NIfTI files that are not of such a folder (E_EXISTS), two
            labels come to one file name (E_TABLE), or it cannot be written (E_DISKFULL, E_WRITE).
    """
    names = file_names(labels.table)
    _clear(folder, set(names.values()))
    # In the order of the file, so that it is turned once and not for each label.
    array = np.asfortranarray(labels.array)
    for label in labels.table.labels:
        mask = (array == label.value).view(np.uint8)
        one = LabelVolume(mask, labels.grid, LabelTable.from_names({1: label.name}))
        write_labels(folder / names[label.value], one)
    write_text(folder / INDEX, labels.table.to_csv())


def read_label_folder(folder: Path) -> LabelVolume:
    """The label map in a folder that `write_label_folder` wrote.

    Raises:
        InputFault: a folder without its table (E_PARTIAL), a mask that is missing (E_NOTFILE) or
            on another grid (E_PAIR), or masks that overlap (E_OVERLAP).
    """
    table = _index(folder)
    merged: np.ndarray | None = None
    grid = None
    for label in table.labels:
        path = folder / file_names(table)[label.value]
        one = read_labels(path, LabelTable.from_names({1: label.name}))
        if merged is None or grid is None:
            grid = one.grid
            merged = np.zeros(grid.shape, np.uint8 if max(table.values) < 256 else np.uint16)
        if difference := grid.difference(one.grid):
            raise InputFault(
                f"{path}: it lies on another grid than the masks beside it ({difference}).",
                code="E_PAIR",
            )
        mask = one.array > 0
        if (merged[mask] != 0).any():
            other = table[int(merged[mask].max())].name
            raise InputFault(
                f"{path}: it overlaps with {other}; a label map has one label a voxel.",
                code="E_OVERLAP",
            )
        merged[mask] = label.value
    assert merged is not None
    assert grid is not None
    return LabelVolume(merged, grid, table)


def file_names(table: LabelTable) -> dict[int, str]:
    """A file name for each value, made of its label's name: a-z, 0-9 and _.

    Raises:
        InputFault: two labels come to one name (E_TABLE).
    """
    names: dict[int, str] = {}
    taken: dict[str, str] = {}
    for label in table.labels:
        name = _plain(label.name) or f"label_{label.value}"
        if name in taken:
            raise InputFault(
                f"labels {taken[name]} and {label.name} would both be {name}{SUFFIX}; rename one "
                "in the label table.",
                code="E_TABLE",
            )
        taken[name] = label.name
        names[label.value] = f"{name}{SUFFIX}"
    return names


def _plain(name: str) -> str:
    letters = unicodedata.normalize("NFKD", name.lower()).encode("ascii", "ignore").decode()
    plain = re.sub(r"[^a-z0-9]+", "_", letters).strip("_")[:LONGEST_NAME].strip("_")
    return f"label_{plain}" if RESERVED.fullmatch(plain) else plain


def _index(folder: Path) -> LabelTable:
    index = folder / INDEX
    try:
        text = index.read_text("utf-8")
    except FileNotFoundError as error:
        raise InputFault(
            f"{folder}: it has no {INDEX}, which is written last, so its masks may not all be "
            "there; write it again.",
            code="E_PARTIAL",
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputFault(
            f"{index}: it cannot be read; write it again.", code="E_NOTFILE"
        ) from error
    return LabelTable.from_csv(text, place=str(index))


def _clear(folder: Path, wanted: set[str]) -> None:
    """Take away what an older writing left, its table first."""
    if not folder.is_dir():
        return
    ours = set(file_names(_index(folder)).values()) if (folder / INDEX).exists() else set()
    present = {path.name for path in folder.iterdir() if is_nifti(path)}
    strangers = sorted(present - ours - wanted)
    if strangers:
        raise InputFault(
            f"{folder}: it holds {len(strangers)} images that are no masks of these labels "
            f"({', '.join(strangers[:3])}); choose another folder, or empty it.",
            code="E_EXISTS",
        )
    (folder / INDEX).unlink(missing_ok=True)
    for name in (present & ours) - wanted:
        (folder / name).unlink()
