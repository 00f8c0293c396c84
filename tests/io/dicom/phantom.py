"""A patient given by a formula in LPS millimeters, and the series a scanner makes of it."""

import struct
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)
from pydicom.valuerep import DSfloat

from tests.io import canary
from tests.io.catalogue.phantom import Truth

CENTER_LPS_MM = np.array([4.0, -7.0, 12.0])
SIGMA_MM = 4.0
PEAK = 900.0
# Both are looked for in messages, as the name and the number of the patient are.
ROOT = "1.2.826.0.1.3680043.8.498.777"
BIRTH = "19330507"
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)
AXIAL = (1.0, 0, 0, 0, 1, 0)
SAGITTAL = (0.0, 1, 0, 0, 0, -1)
CORONAL = (1.0, 0, 0, 0, 0, -1)
Change = Callable[[int, FileDataset], None]


def turned(about_x: float, about_y: float, about_z: float) -> tuple[float, ...]:
    """Direction cosines of axial slices turned by these degrees about each axis."""
    a, b, c = np.radians([about_x, about_y, about_z])
    x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    turn = z @ y @ x
    return (*turn[:, 0], *turn[:, 1])


OBLIQUE = turned(17, -23, 31)


def background(points_lps_mm: np.ndarray) -> np.ndarray:
    """Smooth tissue, 30 to 330, without a symmetry."""
    x, y, z = np.moveaxis(points_lps_mm, -1, 0)
    return 180 + 60 * np.sin(x / 11) + 50 * np.cos(y / 13 + 1) + 40 * np.sin(z / 9 - x / 40)


def tissue(points_lps_mm: np.ndarray) -> np.ndarray:
    """The patient: tissue, and a lesion whose middle is CENTER_LPS_MM."""
    squared = ((points_lps_mm - CENTER_LPS_MM) ** 2).sum(axis=-1)
    return background(points_lps_mm) + PEAK * np.exp(-squared / (2 * SIGMA_MM**2))


@dataclass(frozen=True)
class Layout:
    """How a series lies: slices at `places_mm` along the normal, around the lesion.

    `spacing_mm` is (between rows, between columns) as PixelSpacing has it. `tilt` is the way that
    slices drift along their columns for each millimeter along the normal, as a gantry does.
    """

    cosines: tuple[float, ...] = AXIAL
    rows: int = 20
    columns: int = 24
    spacing_mm: tuple[float, float] = (2.5, 2.0)
    places_mm: tuple[float, ...] = tuple(3.0 * place for place in range(12))
    tilt: float = 0.0
    aside_mm: tuple[float, ...] = (1.3, -0.7, 0.9)

    @property
    def count(self) -> int:
        """Slices."""
        return len(self.places_mm)

    @cached_property
    def axes(self) -> np.ndarray:
        """Unit vectors along a row, along a column, and along the normal, as rows."""
        along_row, along_column = np.array(self.cosines, float).reshape(2, 3)
        return np.array([along_row, along_column, np.cross(along_row, along_column)])

    @cached_property
    def positions_lps_mm(self) -> np.ndarray:
        """The middle of the first pixel of each slice, (k, 3)."""
        places = np.array(self.places_mm)
        middle = (places.max() + places.min()) / 2
        first = np.array(
            [(1 - self.columns) * self.spacing_mm[1], (1 - self.rows) * self.spacing_mm[0], 0]
        )
        inside = np.zeros((self.count, 3)) + first / 2 + np.array(self.aside_mm)
        inside[:, 1] += self.tilt * (places - middle)
        inside[:, 2] += places - middle
        return CENTER_LPS_MM + inside @ self.axes

    @property
    def affine_lps(self) -> np.ndarray:
        """Of column, row and slice, for even gaps without tilt."""
        affine = np.eye(4)
        affine[:3, 0] = self.axes[0] * self.spacing_mm[1]
        affine[:3, 1] = self.axes[1] * self.spacing_mm[0]
        positions = self.positions_lps_mm
        affine[:3, 2] = (positions[-1] - positions[0]) / max(1, self.count - 1)
        affine[:3, 3] = positions[0]
        return affine

    def points_lps_mm(self, place: int) -> np.ndarray:
        """The middles of a slice's pixels, (rows, columns, 3)."""
        row, column = np.indices((self.rows, self.columns))
        along_row = (column * self.spacing_mm[1])[..., None] * self.axes[0]
        along_column = (row * self.spacing_mm[0])[..., None] * self.axes[1]
        return self.positions_lps_mm[place] + along_row + along_column


@dataclass(frozen=True)
class Storing:
    """How values are stored: `slopes` and `intercepts` are taken in turn, a slice each."""

    syntax: str = ExplicitVRLittleEndian
    bits: int = 16
    stored: int = 16
    signed: bool = False
    slopes: tuple[float, ...] = (1.0,)
    intercepts: tuple[float, ...] = (-1024.0,)
    # Bits that devices of old left above those in use.
    spare: int = 0

    def scale(self, place: int) -> tuple[float, float]:
        """Slope and intercept of a slice."""
        return self.slopes[place % len(self.slopes)], self.intercepts[place % len(self.intercepts)]

    @property
    def dtype(self) -> str:
        """Of the stored values, in the file's byte order."""
        order = ">" if self.syntax == ExplicitVRBigEndian else "<"
        return f"{order}{'i' if self.signed else 'u'}{self.bits // 8}"


@dataclass(frozen=True, eq=False)
class Made:
    """A series to be written, one file a slice; `change` has the last word on each header."""

    layout: Layout = field(default_factory=Layout)
    storing: Storing = field(default_factory=Storing)
    header: Mapping[str, Any] = field(default_factory=dict)
    lacks: tuple[str, ...] = ()
    change: Change | None = None
    sop_class: str = CTImageStorage
    study: int = 1
    series: int = 1

    def stored(self, place: int) -> np.ndarray:
        """What the scanner stores of a slice, (rows, columns)."""
        slope, intercept = self.storing.scale(place)
        values = (tissue(self.layout.points_lps_mm(place)) - intercept) / slope
        low = -(1 << self.storing.stored - 1) if self.storing.signed else 0
        whole = np.rint(values).astype(int)
        assert low <= whole.min()
        assert whole.max() < low + (1 << self.storing.stored)
        return whole

    @cached_property
    def array(self) -> np.ndarray:
        """The true values, (columns, rows, slices)."""
        planes = []
        for place in range(self.layout.count):
            slope, intercept = self.storing.scale(place)
            planes.append((self.stored(place) * slope + intercept).T)
        return np.stack(planes, axis=2)

    @property
    def truth(self) -> Truth:
        """What a reader must find of an even series."""
        return Truth(self.array[None], LPS_TO_RAS @ self.layout.affine_lps)

    def datasets(self) -> list[FileDataset]:
        """The files' contents, in the order of the slices."""
        return [self.dataset(place) for place in range(self.layout.count)]

    def dataset(self, place: int) -> FileDataset:
        """One slice."""
        image = started(self, place + 1)
        image.ImagePositionPatient = decimals(self.layout.positions_lps_mm[place])
        image.ImageOrientationPatient = decimals(self.layout.cosines)
        image.PixelSpacing = decimals(self.layout.spacing_mm)
        image.SliceThickness = "3"
        image.RescaleSlope, image.RescaleIntercept = decimals(self.storing.scale(place))
        add_pixels(image, self.storing, self.stored(place)[None])
        for name, value in self.header.items():
            setattr(image, name, value)
        for name in self.lacks:
            delattr(image, name)
        if self.change:
            self.change(place, image)
        return image

    def write(self, folder: Path) -> list[Path]:
        """The files in the order of the slices; their names tell another."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for place, image in enumerate(self.datasets()):
            paths.append(folder / f"IM{place * 7 % self.layout.count:04d}_{self.series}.dcm")
            save(image, paths[-1])
        return paths


def started(made: Made, number: int) -> FileDataset:
    """A header without a place and without pixels."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(made.sop_class)
    uid = f"{ROOT}.{made.study}.{made.series}"
    meta.MediaStorageSOPInstanceUID = UID(f"{uid}.{number}")
    meta.TransferSyntaxUID = UID(made.storing.syntax)
    image = FileDataset(
        "",
        {},
        file_meta=meta,
        preamble=bytes(128),
        is_implicit_VR=made.storing.syntax == ImplicitVRLittleEndian,
        is_little_endian=made.storing.syntax != ExplicitVRBigEndian,
    )
    image.SOPClassUID, image.SOPInstanceUID = made.sop_class, meta.MediaStorageSOPInstanceUID
    image.StudyInstanceUID, image.SeriesInstanceUID = f"{ROOT}.{made.study}", f"{uid}.0"
    image.FrameOfReferenceUID = f"{ROOT}.9"
    image.Modality, image.SeriesNumber = "CT", made.series
    image.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    image.PatientName, image.PatientID = canary.NAME.decode(), canary.IDENTIFIER.decode()
    image.PatientBirthDate, image.AccessionNumber = BIRTH, "CANARY"
    image.StudyDate = image.SeriesDate = image.AcquisitionDate = "20240229"
    image.StudyTime = image.SeriesTime = image.AcquisitionTime = "101500"
    image.AcquisitionNumber, image.InstanceNumber = 1, number
    return image


def add_pixels(image: FileDataset, storing: Storing, values: np.ndarray) -> None:
    """Stored values (frames, rows, columns) as plain pixels, or packed by pydicom's writers."""
    image.Rows, image.Columns = values.shape[1:]
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored = storing.bits, storing.stored
    image.HighBit, image.PixelRepresentation = storing.stored - 1, int(storing.signed)
    kept = (1 << storing.stored) - 1
    words = (values & kept) | (storing.spare << storing.stored)
    if storing.signed and not storing.spare:
        words = values
    words = words.astype(np.int64) & ((1 << storing.bits) - 1)
    data = words.astype(f"<u{storing.bits // 8}").astype(storing.dtype.replace("i", "u")).tobytes()
    if storing.syntax in NATIVE:
        image.PixelData = data + b"\0" * (len(data) % 2)
        image["PixelData"].VR = "OB" if storing.bits == 8 else "OW"
        return
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.PixelData = data
    plugin = "pydicom" if storing.syntax == RLELossless else ""
    image.compress(storing.syntax, encoding_plugin=plugin, generate_instance_uid=False)


def save(image: Dataset, path: Path) -> None:
    """As a file with a preamble, in the transfer syntax that its meta information says."""
    with warnings.catch_warnings():
        # pydicom says of most faults that are made here what they are.
        warnings.simplefilter("ignore")
        image.save_as(path, enforce_file_format=True)


def decimals(numbers: Any) -> list[Any]:
    """Decimal strings of at most 16 characters."""
    return [DSfloat(float(one), auto_format=True) for one in np.ravel(numbers)]


def leaks(text: str) -> bool:
    """Whether something of the patient is told: a name, a number, an identifier, a birthday."""
    return canary.has_word(text.encode()) or ROOT in text or BIRTH in text


def pixels_at(data: bytes) -> int:
    """Where the last explicit little-endian PixelData element of a file begins."""
    return data.rindex(struct.pack("<HH", 0x7FE0, 0x0010))
