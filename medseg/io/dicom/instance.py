"""What one DICOM file says of its frames, read without its pixels.

Whatever a file claims, no more is read or allocated than it holds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset, FileDataset

from medseg.fault import InputFault
from medseg.io.dicom.bounded import Bounded
from medseg.io.dicom.channels import RULE_TAGS
from medseg.io.dicom.elements import DAMAGE, quietly, text_of, whole
from medseg.io.dicom.frame import VOLUME_TAGS, Frame, frame_of
from medseg.io.dicom.pet import PET_TAGS
from medseg.io.dicom.stored import Pixels, pixels_of

IMAGE_TAGS = (
    "SpecificCharacterSet",
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "AcquisitionNumber",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "RescaleSlope",
    "RescaleIntercept",
    "ModalityLUTSequence",
    "PerFrameFunctionalGroupsSequence",
    "SharedFunctionalGroupsSequence",
)
TAGS = tuple(dict.fromkeys((*IMAGE_TAGS, *RULE_TAGS, *VOLUME_TAGS, *PET_TAGS)))
# Modalities of objects that hold no scan, though some of them hold pixels.
NO_SCANS = frozenset(
    [
        *("AU", "CTPROTOCOL", "DOC", "ECG", "FID", "HD", "KO", "M3D", "OPT", "PLAN", "PR", "REG"),
        *("RTDOSE", "RTIMAGE", "RTPLAN", "RTRECORD", "RTSTRUCT", "RWV", "SEG", "SMR", "SR"),
        *("STAIN", "TEXTUREMAP"),
    ]
)
# Images of scanners that medseg reads: CT, MR and PET, plain, enhanced, and converted to that. A
# file of these classes that says nothing of its pixels is a damaged slice, not another object.
SCANS = frozenset(
    f"1.2.840.10008.5.1.4.1.1.{end}"
    for end in ("2", "2.1", "2.2", "4", "4.1", "4.4", "128", "128.1", "130")
)
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


START = 2048
UID_ROOT = b"1.2.840.10008."


class InstanceFault(InputFault):
    """A file that cannot be read. `belongs` is its study and series, where it says so.

    Pictures (color, secondary captures) lie in many folders and are no slices of a scan.
    """

    def __init__(
        self, message: str, *, code: str, file: Path, belongs: tuple[str, str] | None, picture: bool
    ) -> None:
        super().__init__(message, code=code)
        self.file = file
        self.belongs = belongs
        self.is_picture = picture

    def __reduce__(self) -> tuple[Any, ...]:
        """Whole again in another process: cases of a study travel with the faults of its files."""
        facts = {"file": self.file, "belongs": self.belongs, "picture": self.is_picture}
        return partial(InstanceFault, code=self.code, **facts), (str(self),)


@dataclass(frozen=True)
class Instance:
    """The header of one image file: whose series it is, and its frames."""

    file: Path
    uid: str
    study_uid: str
    series_uid: str
    frame_of_reference_uid: str
    acquisition: str
    rows: int
    columns: int
    is_inverted: bool
    facts: Mapping[str, str]
    pixels: Pixels
    frames: tuple[Frame, ...]

    @property
    def is_localizer(self) -> bool:
        """Whether it is a scout, on which other images were planned (PS3.3 C.7.6.1.1.2)."""
        return "LOCALIZER" in self.facts.get("ImageType", "").upper().split("\\")


def looks_like_dicom(file: Path) -> bool:
    """Whether the first bytes are DICOM's, with or without its preamble, or were so once.

    A slice whose first bytes are damaged is a damaged slice, not another file to pass over.

    Raises:
        InputFault: it cannot be opened (E_NOTFILE).
    """
    try:
        with file.open("rb") as source:
            start = source.read(START)
    except OSError as error:
        raise _unopened(file, error) from error
    if start[128:132] == b"DICM" or _starts_bare(start):
        return True
    # Texts speak of DICOM's identifiers too, but hold no zero bytes. Zeros alone are a preamble, or
    # a slice that a crash left without its content.
    return (UID_ROOT in start and b"\0" in start) or (bool(start) and not any(start))


def _starts_bare(start: bytes) -> bool:
    """Whether an element of group 2 or 8 stands first: a file without a preamble."""
    if len(start) < 12:
        return False
    for order in ("little", "big"):
        group, element = (int.from_bytes(start[at : at + 2], order) for at in (0, 2))
        length = int.from_bytes(start[4:8], order)
        is_explicit = start[4:6].isalpha() and start[4:6].isupper()
        if group in (2, 8) and element < 0x3000 and (is_explicit or length <= 1024):
            return True
    return False


def _unopened(file: Path, error: OSError) -> InputFault:
    return InputFault(f"{file}: it cannot be opened ({error.strerror}).", code="E_NOTFILE")


def read_instance(file: Path) -> Instance | None:
    """The header of an image file; None for an object that holds no image (a report, a plan).

    Raises:
        InputFault: the file is damaged or cut (E_DICOM, E_TRUNC), says too little to place its
            slices (E_NOPOSITION, E_NOSPACING), or holds what medseg does not read (E_COLOR,
            E_SYNTAX, E_DTYPE, E_SCALE, E_SUV).
    """
    header: FileDataset | None = None
    try:
        source = file.open("rb")
    except OSError as error:
        raise _unopened(file, error) from error
    try:
        with source, quietly():
            bounded = Bounded(source, file.stat().st_size)
            header = pydicom.dcmread(
                bounded, stop_before_pixels=True, force=True, specific_tags=list(TAGS)
            )
            return _instance(file, header, bounded) if _holds_image(header) else None
    except InputFault as fault:
        raise _instance_fault(f"{file}: {fault}", fault.code, file, header) from fault
    except (*DAMAGE, OSError) as error:
        message = (
            f"{file}: its header is damaged ({type(error).__name__}); copy it from the archive "
            "again."
        )
        raise _instance_fault(message, "E_DICOM", file, header) from error


def _instance_fault(
    message: str, code: str, file: Path, header: FileDataset | None
) -> InstanceFault:
    """What cannot be read, and whose it is as far as that can be told."""
    belongs, sop_class = None, ""
    if header is not None:
        with quietly():
            try:
                uids = tuple(text_of(header, f"{kind}InstanceUID") for kind in ("Study", "Series"))
                sop_class = text_of(header, "SOPClassUID")
            except DAMAGE:
                uids = ("", "")
        belongs = (uids[0], uids[1]) if all(uids) else None
    # A picture says of which series it is, another than the slices'; what does not is damaged.
    looks_so = code == "E_COLOR" or sop_class.startswith(SECONDARY_CAPTURE)
    picture = looks_so and belongs is not None
    return InstanceFault(message, code=code, file=file, belongs=belongs, picture=picture)


def _holds_image(header: FileDataset) -> bool:
    sop_class = text_of(header, "SOPClassUID")
    # A scanner's slice is one, whatever its modality was damaged into.
    is_other = text_of(header, "Modality") in NO_SCANS and sop_class not in SCANS
    if "Rows" in header and not is_other:
        return True
    # It stands behind both: where it is missing, they may be anything.
    is_whole = bool(text_of(header, "SeriesInstanceUID"))
    is_class = sop_class.replace(".", "").isdecimal()
    if is_whole and (is_other or (is_class and sop_class not in SCANS)):
        return False
    raise InputFault(
        "it is cut or damaged (it does not say how many Rows it has); copy it from the archive "
        "again.",
        code="E_DICOM",
    )


def _instance(file: Path, header: FileDataset, source: Bounded) -> Instance:
    _refuse_color(header)
    rows, columns = whole(header, "Rows"), whole(header, "Columns")
    count = whole(header, "NumberOfFrames") if header.get("NumberOfFrames") else 1
    # Frames are counted before a list of them is made: each one has its pixels in the file.
    pixels = pixels_of(header, source, rows * columns, count)
    _refuse_groups(header, count)
    return Instance(
        file=file,
        uid=text_of(header, "SOPInstanceUID"),
        study_uid=_identity(header, "StudyInstanceUID"),
        series_uid=_identity(header, "SeriesInstanceUID"),
        frame_of_reference_uid=text_of(header, "FrameOfReferenceUID"),
        acquisition=text_of(header, "AcquisitionNumber"),
        rows=rows,
        columns=columns,
        is_inverted=text_of(header, "PhotometricInterpretation") == "MONOCHROME1",
        facts={name: text for name in RULE_TAGS if (text := text_of(header, name))},
        pixels=pixels,
        frames=tuple(frame_of(header, number) for number in range(count)),
    )


def _identity(header: Dataset, name: str) -> str:
    uid = text_of(header, name)
    if not uid:
        raise InputFault(
            f"it has no {name}, so nobody knows which slices are of one volume; export it again.",
            code="E_DICOM",
        )
    return uid


def _refuse_groups(header: Dataset, count: int) -> None:
    groups = header.get("PerFrameFunctionalGroupsSequence")
    told = 1 if groups is None else len(groups)
    if told != count:
        raise InputFault(
            f"it has {count} frames and says of {told} where they lie "
            "(PerFrameFunctionalGroupsSequence); export it again.",
            code="E_DICOM",
        )


def _refuse_color(header: Dataset) -> None:
    samples = header.get("SamplesPerPixel", 1)
    kind = text_of(header, "PhotometricInterpretation") or "MONOCHROME2"
    if samples != 1 or kind not in ("MONOCHROME1", "MONOCHROME2"):
        raise InputFault(
            f"its pixels are {kind} with {samples} samples; a volume has one gray value a voxel. "
            "Leave it out (it is a picture of something, not a scan).",
            code="E_COLOR",
        )
    if "ModalityLUTSequence" in header:
        raise InputFault(
            "its values go through a Modality LUT, a table; only RescaleSlope and "
            "RescaleIntercept are read. Export the series with linear values.",
            code="E_SCALE",
        )
