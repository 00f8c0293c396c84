"""Every image and its label map are looked at before the first step of training.

Headers come first: grids and channel counts of all cases are known within seconds. Only then are
voxels read, for label values outside the table and for numbers that are not finite.
"""

from collections.abc import Sequence
from pathlib import Path

from medseg.data.cases import Case, Listing
from medseg.data.entry import is_checked
from medseg.fault import InputFault, all_at_once
from medseg.io.nifti import read_header, read_labels, read_volume
from medseg.progress import Listener, Progress, silent
from medseg.volume import LabelTable, LabelVolume, Volume

SUMMARY = "The images and labels do not fit together; nothing was trained. Mend these cases:"


def check_pairs(
    listing: Listing, *, cache: Path | None = None, listener: Listener = silent
) -> None:
    """Refuse the data set unless each image fits its labels; all faults are told at once.

    Cases that `prepare` has checked in the folder `cache`, and whose files have not changed since,
    are not read again.

    Raises:
        InputFault: E_PAIR, with a line for each fault of each case.
    """
    check_headers(listing, listing.cases, listener=listener)
    faults = []
    for number, case in enumerate(listing.cases, start=1):
        if cache is None or not is_checked(cache, case, listing.labels):
            faults += _voxel_faults(case, listing.channels, listing.labels)
        listener(Progress("check images and labels", number, len(listing.cases)))
    refuse(faults)


def check_headers(listing: Listing, cases: Sequence[Case], *, listener: Listener = silent) -> None:
    """Refuse the cases unless grids and channel counts fit, by the headers alone."""
    faults = []
    for number, case in enumerate(cases, start=1):
        faults += _header_faults(case, listing.channels)
        listener(Progress("check headers", number, len(cases)))
    refuse(faults)


def read_pair(
    case: Case, channels: tuple[str, ...], table: LabelTable
) -> tuple[Volume, LabelVolume]:
    """The image and the labels of a case, on one grid; what is wrong is an InputFault."""
    assert case.label is not None, "a listing for training has labels"
    volume = read_volume(case.images, channels)
    labels = read_labels(case.label, table)
    if volume.grid.difference(labels.grid):
        apart = read_header(case.images[0]).apart(read_header(case.label))
        if apart:
            raise InputFault(_apart(case.label, apart), code="E_PAIR")
    return volume, labels.on(volume.grid)


def refuse(faults: Sequence[str]) -> None:
    """Raise the faults of all cases as one."""
    if faults:
        raise all_at_once(faults, summary=SUMMARY, code="E_PAIR")


def fault_line(case: Case, fault: InputFault) -> str:
    """A fault as one line that opens with the case."""
    return f"{case.id}: {str(fault).replace(chr(10), ' ')} [{fault.code}]"


def _header_faults(case: Case, channels: tuple[str, ...]) -> list[str]:
    faults, headers = [], []
    for path in (*case.images, *([case.label] if case.label else [])):
        try:
            headers.append((path, read_header(path)))
        except InputFault as fault:
            faults.append(fault_line(case, fault))
    if faults:
        return faults
    images = headers[: len(case.images)]
    found = sum(header.channels for _, header in images)
    if found != len(channels):
        faults.append(
            f"{case.id}: {found} channels in {', '.join(path.name for path, _ in images)}; "
            f"{len(channels)} ({', '.join(channels)}) are expected."
        )
    for path, header in headers[1:]:
        apart = images[0][1].apart(header)
        if apart:
            faults.append(f"{case.id}: {_apart(path, apart)}")
    return faults


def _apart(path: Path, apart: str) -> str:
    return f"{path.name} is not on the grid of the image ({apart}); resample it onto that grid."


def _voxel_faults(case: Case, channels: tuple[str, ...], table: LabelTable) -> list[str]:
    """What reading the voxels tells; an image's fault does not hide that of its labels."""
    assert case.label is not None, "a listing for training has labels"
    faults = []
    try:
        read_volume(case.images, channels)
    except InputFault as fault:
        faults.append(fault_line(case, fault))
    try:
        read_labels(case.label, table)
    except InputFault as fault:
        faults.append(fault_line(case, fault))
    return faults
