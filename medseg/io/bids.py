"""Label maps as derivatives in the Brain Imaging Data Structure: `_dseg` files and their sidecars.

BIDS 1.10, "Imaging data type: segmentations". The sidecars are written first and the image last, so
an image that is there is whole and explained.
"""

import re
from pathlib import Path

from medseg import __version__
from medseg.fault import InputFault
from medseg.io.atomic import write_json, write_text
from medseg.io.nifti import read_labels, write_labels
from medseg.io.terminology import single_line
from medseg.volume import Label, LabelTable, LabelVolume

VERSION = "1.10.0"
SUFFIX = "_dseg.nii.gz"
DESCRIPTION = "dataset_description.json"
COLUMNS = ("index", "name", "color")
ENTITY = re.compile(r"(sub|ses|acq|ce|rec|run|echo|part|chunk|space|res)-([A-Za-z0-9]+)")
LONGEST_NAME = 255


def bids_path(folder: Path, case: str) -> Path:
    """Where the label map of a case lies in a derivative data set in `folder`.

    A name with BIDS entities (sub-01_ses-2_T1w) keeps them; of any other the letters and digits
    become the subject.
    """
    entities = dict(ENTITY.findall(case)) if case.startswith("sub-") else {}
    subject = entities.pop("sub", "") or re.sub(r"[^A-Za-z0-9]", "", case)
    if not subject:
        raise InputFault(
            f"{case}: its name has no letter or digit for a BIDS subject; rename it.",
            code="E_CASES",
        )
    parts = [f"sub-{subject}", *(f"{key}-{value}" for key, value in entities.items())]
    place = folder / parts[0]
    if "ses" in entities:
        place /= f"ses-{entities['ses']}"
    return place / "anat" / f"{'_'.join(parts)}_desc-medseg{SUFFIX}"


def write_bids(path: Path, labels: LabelVolume, *, model_name: str, model_version: str) -> None:
    """Write a label map at the path that `bids_path` gives, with its sidecars and the data set's.

    Raises:
        InputFault: another name (E_SUFFIX), or a place that cannot be written (E_DISKFULL,
            E_WRITE).
    """
    if not path.name.endswith(SUFFIX):
        raise InputFault(f"{path}: a BIDS segmentation is named {SUFFIX}.", code="E_SUFFIX")
    root = next((p.parent for p in path.parents if p.name.startswith("sub-")), path.parent)
    if not (root / DESCRIPTION).exists():
        write_json(root / DESCRIPTION, _description())
    write_text(_beside(path, ".tsv"), _tsv(labels.table))
    write_json(_beside(path, ".json"), _sidecar(model_name, model_version))
    write_labels(path, labels)


def read_bids(path: Path) -> LabelVolume:
    """The label map in a `_dseg` file, with the names and colors of the table beside it.

    Raises:
        InputFault: what `read_labels` refuses, or no table that can be read (E_TABLE).
    """
    return read_labels(path, _table(_beside(path, ".tsv")))


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name.removesuffix(".nii.gz") + suffix)


def _description() -> dict[str, object]:
    return {
        "Name": "Segmentations by medseg",
        "BIDSVersion": VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "medseg", "Version": __version__}],
    }


def _sidecar(model_name: str, model_version: str) -> dict[str, object]:
    return {
        "Description": f"Labels by {model_name} {model_version} with medseg {__version__}",
        "Manual": False,
        "SpatialReference": "orig",
    }


def _tsv(table: LabelTable) -> str:
    rows = ["\t".join(COLUMNS)]
    for label in table.labels:
        red, green, blue = label.color
        name = single_line(label.name, LONGEST_NAME)
        rows.append(f"{label.value}\t{name}\t#{red:02x}{green:02x}{blue:02x}")
    return "\n".join(rows) + "\n"


def _table(path: Path) -> LabelTable:
    try:
        head, *rows = path.read_text("utf-8").splitlines()
        columns = head.split("\t")
        cells = [dict(zip(columns, row.split("\t"), strict=True)) for row in rows if row]
        labels = [
            Label(int(cell["index"]), cell["name"], _rgb(cell.get("color", "#808080")))
            for cell in cells
            if int(cell["index"]) != 0
        ]
    except (OSError, ValueError, KeyError) as error:
        raise InputFault(
            f"{path}: it is no table of labels (index, name, color, separated by tabs).",
            code="E_TABLE",
        ) from error
    return LabelTable(labels)


def _rgb(text: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(text.lstrip("#"))
    return red, green, blue
