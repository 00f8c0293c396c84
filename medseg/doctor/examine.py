"""One NIfTI file held to the strict reader, and to what other readers stumble over."""

from functools import cache
from pathlib import Path

import numpy as np

from medseg.doctor.draft import raw_header
from medseg.doctor.finding import Choices, Kind
from medseg.fault import InputFault
from medseg.io.nifti import read_header, read_labels, read_volume
from medseg.io.nifti_header import Header
from medseg.io.nifti_place import Form
from medseg.io.stream import GZIP_MAGIC, GzipMembers, open_stream
from medseg.volume import LabelTable

BLOCK = 1 << 20


def fault_in(
    path: Path,
    kind: Kind,
    choices: Choices,
    *,
    table: LabelTable | None = None,
    image: Header | None = None,
    form: Form | None = None,
) -> InputFault | None:
    """The first fault of a file, None where it has none; labels are held to `image`'s grid."""
    try:
        header = read_header(path, form=form)
        if kind == "labels":
            _refuse_labels(path, choices, table, form)
        else:
            names = tuple(str(number) for number in range(header.channels))
            read_volume((path,), names, form=form)
        if image is not None:
            _refuse_apart(path, header, image)
        _refuse_oddities(path)
    except InputFault as fault:
        return fault
    return None


def _refuse_apart(path: Path, own: Header, image: Header) -> None:
    apart = image.apart(own)
    if apart:
        raise InputFault(f"{path}: it is not on the grid of its image ({apart}).", code="E_PAIR")


def _refuse_labels(
    path: Path, choices: Choices, table: LabelTable | None, form: Form | None
) -> None:
    labels = read_labels(path, every_label(), form=form).array
    asked = [value for value in choices.label_map if value >= 0 and (labels == value).any()]
    if asked:
        raise InputFault(
            f"{path}: it holds the values {', '.join(map(str, asked))}, which --map renames.",
            code="E_LABEL",
        )
    if table is not None:
        try:
            table.refuse_unknown(labels)
        except InputFault as fault:
            raise InputFault(f"{path}: {fault}", code=fault.code) from fault


@cache
def every_label() -> LabelTable:
    """A table that knows every value: for label maps whose table is not known."""
    return LabelTable.from_names({value: str(value) for value in range(1, 65_536)})


def _refuse_oddities(path: Path) -> None:
    """What medseg reads rightly and other readers refuse or read otherwise."""
    with path.open("rb") as source:
        packed = source.read(2) == GZIP_MAGIC
    if packed != path.name.lower().endswith(".gz"):
        said, held = ("plain", "packed by gzip") if packed else ("packed", "plain")
        raise InputFault(
            f"{path}: it is {held}, and its name says {said}; other readers refuse it.",
            code="E_SUFFIX",
        )
    if packed and _has_tail(path):
        raise InputFault(
            f"{path}: bytes that are no gzip follow its data; other readers refuse it.",
            code="E_TAIL",
        )
    with open_stream(path) as stream:
        dim = np.asarray(raw_header(stream)["dim"])
    if dim[0] > 3 and (dim[4 : dim[0] + 1] == 1).all():
        raise InputFault(
            f"{path}: it has {dim[0]} axes, of which those after the third are 1 long; other "
            "readers take it for a series.",
            code="E_SINGLETON",
        )


def _has_tail(path: Path) -> bool:
    with path.open("rb") as raw:
        members = GzipMembers(raw)
        while members.read(BLOCK):
            pass
        return members.has_tail
