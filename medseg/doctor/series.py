"""The DICOM series of a folder: each is read as a prediction would read it."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from medseg.doctor.finding import Finding, Mend, remedy_of
from medseg.fault import InputFault
from medseg.io.dicom.read import read_series
from medseg.io.dicom.series import Series, find_series
from medseg.io.nifti import write_volume


def examined_series(files: Sequence[Path], root: Path, out: Path | None) -> Iterator[Finding]:
    """A finding for each series; one that is read with repairs is written below `out` as NIfTI.

    Raises:
        InputFault: the copy cannot be written (E_DISKFULL, E_WRITE).
    """
    if not files:
        return
    try:
        found = find_series(files)
    except InputFault as fault:
        name = files[0].parent.relative_to(root).as_posix()
        if fault.code == "E_NODATA":
            yield Finding(name, "other", "passed over", sentence="DICOM without images.")
        else:
            yield _wrong(name, fault, root)
        return
    for number, series in enumerate(found, start=1):
        name = f"{series.folder.relative_to(root).as_posix()}/series {number}"
        yield _examined(series, name.removeprefix("./"), root, out)


def _examined(series: Series, name: str, root: Path, out: Path | None) -> Finding:
    try:
        reading = read_series(series, "image")
    except InputFault as fault:
        return _wrong(name, fault, root)
    notes = tuple(note.removeprefix(f"{series.folder}: ") for note in reading.repairs)
    if not notes:
        return Finding(name, "series", "fine")
    sentence = " ".join(note[:1].upper() + note[1:].rstrip(".") + "." for note in notes)
    if out is None:
        remedy = "medseg mends it while it reads; --repair writes the volume as NIfTI."
        return Finding(name, "series", "note", "N_MENDED", sentence, remedy)
    copy = f"{name.replace(' ', '_')}.nii.gz"
    write_volume(out / copy, reading.volume)
    mends = tuple(Mend("N_MENDED", "the series was resampled or sorted", n, "NIfTI") for n in notes)
    return Finding(name, "series", "mended", "N_MENDED", sentence, "", copy, mends)


def _wrong(name: str, fault: InputFault, root: Path) -> Finding:
    sentence = str(fault).replace(f"{root}/", "")
    return Finding(name, "series", "wrong", fault.code, sentence, remedy_of(fault.code))
