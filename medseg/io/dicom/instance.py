"""What one DICOM file says of its frames, read without its pixels.

Frames are placed by ImagePositionPatient, ImageOrientationPatient and PixelSpacing (PS3.3 C.7.6.2),
in enhanced multi-frame objects by their functional groups (PS3.3 C.7.6.16). Whatever a file claims,
no more is read or allocated than it holds.
"""

import math
import struct
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.tag import Tag

from medseg.fault import InputFault
from medseg.io.dicom.bounded import Bounded
from medseg.io.dicom.channels import RULE_TAGS
from medseg.io.dicom.pet import PET_TAGS, suv_factor

# Within one volume these have one value; two of them are two volumes in one series.
VOLUME_TAGS = (
    "TemporalPositionIdentifier",
    "TemporalPositionIndex",
    "EchoTime",
    "EffectiveEchoTime",
    "DiffusionBValue",
    "ConvolutionKernel",
    "StackID",
)
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
PIXEL_DATA = Tag("PixelData")
UNDEFINED = 0xFFFFFFFF
DEFLATED = "1.2.840.10008.1.2.1.99"
NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
BIG_ENDIAN = "1.2.840.10008.1.2.2"
# Modalities of objects that hold no scan, though some of them hold pixels.
NO_SCANS = frozenset(
    [
        *("AU", "CTPROTOCOL", "DOC", "ECG", "FID", "HD", "KO", "M3D", "OPT", "PLAN", "PR", "REG"),
        *("RTDOSE", "RTIMAGE", "RTPLAN", "RTRECORD", "RTSTRUCT", "RWV", "SEG", "SMR", "SR"),
        *("STAIN", "TEXTUREMAP"),
    ]
)
# What pydicom raises on damaged bytes; nothing of it is a fault of ours.
DAMAGE = (
    BytesLengthException,
    InvalidDicomError,
    EOFError,
    KeyError,
    IndexError,
    ValueError,
    TypeError,
    AttributeError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    struct.error,
)
Numbers = tuple[float, ...]


@dataclass(frozen=True)
class Pixels:
    """How the stored values lie in a file; `length` is None where they are compressed."""

    syntax: str
    offset: int
    length: int | None
    bits_allocated: int
    bits_stored: int
    signed: bool

    @property
    def dtype(self) -> np.dtype:
        """The type of a stored value, in the byte order of the file."""
        order = ">" if self.syntax == BIG_ENDIAN else "<"
        return np.dtype(f"{order}{'i' if self.signed else 'u'}{self.bits_allocated // 8}")


@dataclass(frozen=True)
class Frame:
    """One slice: its place in the patient (LPS, mm) and how its values are scaled."""

    number: int
    position_lps_mm: Numbers
    cosines: Numbers
    spacing_mm: Numbers
    thickness_mm: float | None
    slope: float
    intercept: float
    volume_tags: Mapping[str, str]


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
    """Whether the first bytes are DICOM's, with or without its preamble."""
    with file.open("rb") as source:
        start = source.read(132)
    if start[128:132] == b"DICM":
        return True
    # Without a preamble a file begins with an element of group 2 or 8 in either byte order.
    return len(start) >= 8 and start[:4] in {
        b"\x02\x00\x00\x00",
        b"\x02\x00\x01\x00",
        b"\x08\x00\x00\x00",
        b"\x08\x00\x05\x00",
        b"\x08\x00\x08\x00",
        b"\x08\x00\x16\x00",
        b"\x00\x08\x00\x05",
        b"\x00\x08\x00\x08",
        b"\x00\x08\x00\x16",
    }


def read_instance(file: Path) -> Instance | None:
    """The header of an image file; None for an object that holds no image (a report, a plan).

    Raises:
        InputFault: the file is damaged or cut (E_DICOM, E_TRUNC), says too little to place its
            slices (E_NOPOSITION, E_NOSPACING), or holds what medseg does not read (E_COLOR,
            E_SYNTAX, E_DTYPE, E_SCALE, E_SUV).
    """
    with file.open("rb") as source, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bounded = Bounded(source, file.stat().st_size)
        try:
            header = pydicom.dcmread(
                bounded, stop_before_pixels=True, force=True, specific_tags=list(TAGS)
            )
            if not _holds_image(header):
                return None
            return _instance(file, header, bounded)
        except InputFault as fault:
            raise InputFault(f"{file}: {fault}", code=fault.code) from fault
        except DAMAGE as error:
            raise InputFault(
                f"{file}: its header is damaged ({type(error).__name__}); copy it from the "
                "archive again.",
                code="E_DICOM",
            ) from error


def _holds_image(header: FileDataset) -> bool:
    return "Rows" in header and str(header.get("Modality", "")) not in NO_SCANS


def _instance(file: Path, header: FileDataset, source: Bounded) -> Instance:
    _refuse_color(header)
    rows, columns = _whole(header, "Rows"), _whole(header, "Columns")
    count = _whole(header, "NumberOfFrames") if header.get("NumberOfFrames") else 1
    # Frames are counted before a list of them is made: each one has its pixels in the file.
    pixels = _pixels(header, source, rows * columns, count)
    frames = tuple(_frame(header, number) for number in range(count))
    return Instance(
        file=file,
        uid=_text(header, "SOPInstanceUID"),
        study_uid=_text(header, "StudyInstanceUID"),
        series_uid=_text(header, "SeriesInstanceUID"),
        frame_of_reference_uid=_text(header, "FrameOfReferenceUID"),
        acquisition=_text(header, "AcquisitionNumber"),
        rows=rows,
        columns=columns,
        is_inverted=_text(header, "PhotometricInterpretation") == "MONOCHROME1",
        facts={name: text for name in RULE_TAGS if (text := _text(header, name))},
        pixels=pixels,
        frames=frames,
    )


def _refuse_color(header: Dataset) -> None:
    samples = header.get("SamplesPerPixel", 1)
    kind = _text(header, "PhotometricInterpretation") or "MONOCHROME2"
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


def _pixels(header: FileDataset, source: Bounded, size: int, count: int) -> Pixels:
    syntax = str(header.file_meta.get("TransferSyntaxUID") or "") or _guessed_syntax(header)
    if syntax == DEFLATED:
        raise InputFault(
            "it is deflated as a whole (transfer syntax 1.2.840.10008.1.2.1.99); store it "
            "uncompressed first, for example with dcmconv.",
            code="E_SYNTAX",
        )
    length = _pixel_length(source, syntax)
    allocated, stored = _whole(header, "BitsAllocated"), _whole(header, "BitsStored")
    high = header.get("HighBit", stored - 1)
    if allocated not in (8, 16, 32) or stored > allocated or high != stored - 1:
        raise InputFault(
            f"BitsAllocated {allocated}, BitsStored {stored}, HighBit {high}: values of 8, 16 or "
            "32 bits that begin at bit 0 are read.",
            code="E_DTYPE",
        )
    pixels = Pixels(
        syntax, source.tell(), length, allocated, stored, header.get("PixelRepresentation", 0) == 1
    )
    _refuse_length(pixels, size * count * allocated // 8, source.size)
    return pixels


def _guessed_syntax(header: FileDataset) -> str:
    """What pydicom found where a file without meta information does not say it."""
    implicit, little = header.original_encoding
    if implicit:
        return NATIVE[0]
    return NATIVE[1] if little else BIG_ENDIAN


def _pixel_length(source: Bounded, syntax: str) -> int | None:
    """Bytes of the pixels that begin at `source` (left there), None where compressed."""
    order = ">" if syntax == BIG_ENDIAN else "<"
    start = source.read(8)
    if len(start) < 8 or Tag(struct.unpack(f"{order}HH", start[:4])) != PIXEL_DATA:
        raise InputFault(
            "it ends before its pixels, or holds none of whole numbers; copy it from the archive "
            "again.",
            code="E_TRUNC",
        )
    if syntax == NATIVE[0]:
        length = struct.unpack("<I", start[4:])[0]
    else:
        length = struct.unpack(f"{order}I", source.read(4))[0]
    compressed = length == UNDEFINED
    if compressed == (syntax in NATIVE):
        raise InputFault(
            f"its pixels are {'packed' if compressed else 'plain'}, but its transfer syntax "
            f"({syntax}) says otherwise; export it again.",
            code="E_SYNTAX",
        )
    return None if compressed else length


def _refuse_length(pixels: Pixels, needed: int, file_size: int) -> None:
    left = file_size - pixels.offset
    if pixels.length is None:
        # A frame of one value packs to some hundred bytes; beyond this the header lies.
        if needed > 5000 * left:
            raise InputFault(
                f"its header asks for {needed} bytes of pixels out of {left} packed ones; the "
                "header is damaged.",
                code="E_BOMB",
            )
        return
    if not needed <= pixels.length <= needed + needed % 2 or pixels.length > left:
        raise InputFault(
            f"its header asks for {needed} bytes of pixels, it announces {pixels.length} and "
            f"holds {left}; copy it from the archive again.",
            code="E_TRUNC",
        )


def _frame(header: Dataset, number: int) -> Frame:
    plane = _group(header, number, "PlanePositionSequence")
    turn = _group(header, number, "PlaneOrientationSequence")
    measures = _group(header, number, "PixelMeasuresSequence")
    scaling = _group(header, number, "PixelValueTransformationSequence")
    position = _numbers(plane, "ImagePositionPatient", 3)
    cosines = _numbers(turn, "ImageOrientationPatient", 6)
    spacing = _numbers(measures, "PixelSpacing", 2)
    if position is None or cosines is None:
        raise InputFault(
            "it does not say where its slice lies (ImagePositionPatient, "
            "ImageOrientationPatient); medseg never guesses it.",
            code="E_NOPOSITION",
        )
    if spacing is None or min(spacing) <= 0:
        raise InputFault(
            "it does not say how large a pixel is (PixelSpacing above 0); the spacing at the "
            "detector is another thing, and medseg never guesses.",
            code="E_NOSPACING",
        )
    thickness = _numbers(measures, "SliceThickness", 1)
    slope, intercept = _scaling(header, scaling)
    return Frame(
        number=number,
        position_lps_mm=position,
        cosines=_unit(cosines),
        spacing_mm=spacing,
        thickness_mm=thickness[0] if thickness and thickness[0] > 0 else None,
        slope=slope,
        intercept=intercept,
        volume_tags=_volume_tags(header, number),
    )


def _scaling(header: Dataset, scaling: Dataset) -> tuple[float, float]:
    slope = (_numbers(scaling, "RescaleSlope", 1) or (1.0,))[0]
    intercept = (_numbers(scaling, "RescaleIntercept", 1) or (0.0,))[0]
    if slope == 0:
        raise InputFault("RescaleSlope is 0; all its values would be the same.", code="E_SCALE")
    factor = suv_factor(header) if _text(header, "Modality") == "PT" else 1.0
    return slope * factor, intercept * factor


def _volume_tags(header: Dataset, number: int) -> dict[str, str]:
    content = _group(header, number, "FrameContentSequence")
    echo = _group(header, number, "MREchoSequence")
    diffusion = _group(header, number, "MRDiffusionSequence")
    found = {}
    for name in VOLUME_TAGS:
        text = next((t for part in (content, echo, diffusion) if (t := _text(part, name))), "")
        if text:
            found[name] = text
    return found


def _group(header: Dataset, number: int, name: str) -> Dataset:
    """The functional group of a frame: its own, else the shared one, else the header itself."""
    own = header.get("PerFrameFunctionalGroupsSequence")
    shared = header.get("SharedFunctionalGroupsSequence")
    if own is not None and number < len(own) and own[number].get(name):
        return own[number][name][0]
    if shared and shared[0].get(name):
        return shared[0][name][0]
    return header


def _numbers(part: Dataset, name: str, count: int) -> Numbers | None:
    value = part.get(name)
    if value is None or value == "":
        return None
    values = [value] if isinstance(value, int | float | str) else list(value)
    numbers = tuple(float(number) for number in values)
    if len(numbers) != count or not all(math.isfinite(number) for number in numbers):
        raise InputFault(
            f"{name} is {list(numbers)}; {count} finite numbers are expected.", code="E_DICOM"
        )
    return numbers


def _unit(cosines: Sequence[float]) -> Numbers:
    """Row and column direction made exactly orthonormal, if they are but rounded."""
    along_row, along_column = np.asarray(cosines).reshape(2, 3)
    lengths = np.linalg.norm(along_row), np.linalg.norm(along_column)
    if max(abs(length - 1) for length in lengths) > 1e-3 or abs(along_row @ along_column) > 1e-3:
        raise InputFault(
            f"ImageOrientationPatient {list(cosines)} is not two unit vectors at a right angle; "
            "the header is damaged.",
            code="E_ORIENTATION",
        )
    along_row = along_row / lengths[0]
    along_column = along_column - along_row * (along_row @ along_column)
    along_column = along_column / np.linalg.norm(along_column)
    return tuple(float(part) for part in (*along_row, *along_column))


def _whole(header: Dataset, name: str) -> int:
    value = int(header.get(name) or 0)
    if value < 1:
        raise InputFault(f"{name} is {value}; it is 1 or more.", code="E_DICOM")
    return value


def _text(part: Dataset, name: str) -> str:
    value = part.get(name)
    if value is None:
        return ""
    if isinstance(value, str | int | float):
        return str(value).strip()
    return "\\".join(str(one) for one in value)
