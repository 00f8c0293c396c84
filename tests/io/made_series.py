"""DICOM series made for tests: any direction, single-frame or enhanced, with canaries in them."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    generate_uid,
)

from medseg.volume import Grid, LabelTable, LabelVolume

CANARY_NAME = "Canary^Quetzalcoatl"
CANARY_ID = "CANARY-4711"
CANARY_DATE = "19330507"
CANARY_ROOT = "1.2.826.0.1.3680043.8.498.4711"
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
NAMES = {1: "left kidney", 3: "tumor", 7: "Ümlaut ?/*"}


def oblique(degrees_about_x: float, degrees_about_z: float) -> tuple[float, ...]:
    """Direction cosines of slices turned away from the axial plane."""
    a, b = np.radians([degrees_about_x, degrees_about_z])
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    turn = about_z @ about_x
    return (*turn[:, 0], *turn[:, 1])


@dataclass(frozen=True)
class MadeSeries:
    """How a series lies; 29 x 37 pixels do not fill whole bytes with bits."""

    cosines: tuple[float, ...] = (1, 0, 0, 0, 1, 0)
    rows: int = 29
    columns: int = 37
    count: int = 11
    spacing_mm: tuple[float, float] = (0.9, 0.7)
    gap_mm: float = 2.5
    first_lps_mm: tuple[float, float, float] = (-31.25, 12.5, -700.125)
    multi_frame: bool = False
    header: dict[str, object] = field(default_factory=dict)
    lacks: tuple[str, ...] = ()

    @property
    def grid(self) -> Grid:
        """Columns, rows, slices."""
        return Grid((self.columns, self.rows, self.count), LPS @ self.affine_lps)

    @property
    def affine_lps(self) -> np.ndarray:
        """Of column, row and slice."""
        affine = np.eye(4)
        along_row, along_column = np.array(self.cosines, float).reshape(2, 3)
        affine[:3, 0] = along_row * self.spacing_mm[1]
        affine[:3, 1] = along_column * self.spacing_mm[0]
        affine[:3, 2] = np.cross(along_row, along_column) * self.gap_mm
        affine[:3, 3] = self.first_lps_mm
        return affine

    def write(self, folder: Path) -> list[Path]:
        """The files, in an order that is not that of the slices."""
        folder.mkdir(parents=True, exist_ok=True)
        uids = {key: f"{CANARY_ROOT}.{n}" for n, key in enumerate(("study", "series", "frame"), 1)}
        if self.multi_frame:
            self._enhanced(uids).save_as(folder / "all.dcm", enforce_file_format=True)
            return [folder / "all.dcm"]
        paths = []
        for place in range(self.count):
            image = self._image(CTImageStorage, uids)
            image.ImagePositionPatient = _decimals(self._position(place))
            image.ImageOrientationPatient = _decimals(self.cosines)
            image.PixelSpacing = list(self.spacing_mm)
            image.SliceThickness = 1.0
            self._add_pixels(image, 1)
            # Names in another order than the slices.
            paths.append(folder / f"{(place * 7) % self.count:03d}.dcm")
            image.save_as(paths[-1], enforce_file_format=True)
        return sorted(paths)

    def _position(self, place: int) -> np.ndarray:
        return self.affine_lps[:3, 3] + place * self.affine_lps[:3, 2]

    def _image(self, sop_class: str, uids: dict[str, str]) -> FileDataset:
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = sop_class
        meta.MediaStorageSOPInstanceUID = generate_uid(f"{CANARY_ROOT}.")
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
        image.SOPClassUID, image.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
        image.SpecificCharacterSet = "ISO_IR 100"
        image.PatientName, image.PatientID = CANARY_NAME, CANARY_ID
        image.PatientBirthDate, image.PatientSex = CANARY_DATE, "F"
        image.StudyInstanceUID, image.SeriesInstanceUID = uids["study"], uids["series"]
        image.FrameOfReferenceUID = uids["frame"]
        image.PositionReferenceIndicator = ""
        image.StudyID, image.AccessionNumber = "CANARYSTUDY", "CANARYACC"
        image.StudyDate, image.StudyTime = CANARY_DATE, "101112"
        image.ReferringPhysicianName = "Canary^Doctor"
        image.Modality = "CT" if sop_class == CTImageStorage else "MR"
        image.Manufacturer = "Maker"
        image.SeriesNumber, image.InstanceNumber = 3, 1
        for keyword, value in self.header.items():
            setattr(image, keyword, value)
        for keyword in self.lacks:
            delattr(image, keyword)
        return image

    def _add_pixels(self, image: Dataset, frames: int) -> None:
        image.Rows, image.Columns = self.rows, self.columns
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        image.BitsAllocated, image.BitsStored, image.HighBit = 16, 16, 15
        image.PixelRepresentation = 0
        image.PixelData = np.arange(frames * self.rows * self.columns, dtype="<u2").tobytes()

    def _enhanced(self, uids: dict[str, str]) -> FileDataset:
        image = self._image(EnhancedMRImageStorage, uids)
        measures, turn, shared = Dataset(), Dataset(), Dataset()
        measures.PixelSpacing, measures.SliceThickness = list(self.spacing_mm), 1.0
        turn.ImageOrientationPatient = _decimals(self.cosines)
        shared.PixelMeasuresSequence = [measures]
        image.SharedFunctionalGroupsSequence = [shared]
        groups = []
        for place in sorted(range(self.count), key=lambda number: number * 7 % self.count):
            position, group = Dataset(), Dataset()
            position.ImagePositionPatient = _decimals(self._position(place))
            group.PlanePositionSequence = [position]
            # As some scanners do: what is shared is told frame by frame.
            group.PlaneOrientationSequence = [turn]
            groups.append(group)
        image.PerFrameFunctionalGroupsSequence = groups
        image.NumberOfFrames = self.count
        self._add_pixels(image, self.count)
        return image


def made_labels(grid: Grid, *, seed: int = 0, names: dict[int, str] | None = None) -> LabelVolume:
    """Blobs of each label, with holes, islands and single voxels."""
    names = NAMES if names is None else names
    rng = np.random.default_rng(seed)
    array = np.zeros(grid.shape, np.uint8)
    index = np.indices(grid.shape)
    for value in names:
        center = rng.uniform(0.3, 0.7, 3) * grid.shape
        radius = 0.35 * np.array(grid.shape)
        distance = sum(((index[n] - center[n]) / radius[n]) ** 2 for n in range(3))
        array[(distance < 1) & (rng.random(grid.shape) < 0.8)] = value
        array[distance < 0.1] = 0
    array[:, :, : grid.shape[2] // 4] = 0
    array[0, 0, -1] = array[-1, -1, -1] = min(names)
    return LabelVolume(array, grid, LabelTable.from_names(names))


def turned(labels: LabelVolume, order: tuple[int, ...], flips: tuple[int, ...]) -> LabelVolume:
    """The same voxels at the same places, their axes in another order and direction."""
    affine = labels.grid.affine.copy()
    for axis in flips:
        affine[:3, 3] += affine[:3, axis] * (labels.grid.shape[axis] - 1)
        affine[:3, axis] *= -1
    affine[:3, :3] = affine[:3, list(order)]
    array = np.flip(labels.array, flips).transpose(order)
    return LabelVolume(array, Grid(array.shape, affine), labels.table)


def refuse_moved(
    before: LabelVolume, after: LabelVolume, values: dict[int, int] | None = None
) -> None:
    """Assert that each labeled voxel of one is, by the affines, that of the other, and no more."""
    points = np.argwhere(before.array)
    assert len(points) > 0
    found = after.grid.world_to_voxel(before.grid.voxel_to_world(points))
    assert np.abs(found - np.rint(found)).max() < 1e-4
    found = np.rint(found).astype(int)
    assert (found >= 0).all()
    assert (found < after.grid.shape).all()
    expected = before.array[tuple(points.T)]
    if values:
        expected = np.array([values[int(value)] for value in expected])
    assert np.array_equal(after.array[tuple(found.T)], expected)
    assert np.count_nonzero(after.array) == len(points)


def _decimals(numbers: object) -> list[str]:
    return [f"{float(number):.12g}"[:16] for number in np.asarray(numbers, float).ravel()]
