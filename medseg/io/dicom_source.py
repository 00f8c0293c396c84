"""The series a result was made from, as far as DICOM objects derived from it must know it.

Its planes are placed as in `medseg.io.dicom`; patient and study are carried over as they stand, for
an archive files a result by them (PS3.3 C.7.1.1, C.7.2.1).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from jaxtyping import Shaped
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException
from pydicom.uid import UID

from medseg.fault import InputFault
from medseg.io.dicom.elements import quietly
from medseg.io.dicom.instance import DAMAGE, Instance, read_instance
from medseg.io.dicom.read import LPS_TO_RAS
from medseg.io.dicom.stack import SAME_DIRECTION, SAME_SPACING
from medseg.volume import Grid

# Groups that tell of the image, not of patient and study: but for the loss of its compression.
OF_THE_IMAGE = (0x0028, 0x0040, 0x0048, 0x5200)
LOSS = "LossyImageCompression"


@dataclass(frozen=True)
class SourcePlane:
    """A slice: the instance it is in, its frame there (None for single-frame), and its place."""

    sop_class_uid: str
    sop_instance_uid: str
    frame_number: int | None
    position_lps_mm: np.ndarray


@dataclass(frozen=True, eq=False)
class SourceSeries:
    """The planes of one series, and the header of one of its files (without its pixels).

    `spacing_mm` is the distance of rows, then that of columns, as in PixelSpacing.
    """

    header: Dataset
    planes: tuple[SourcePlane, ...]
    cosines: np.ndarray
    spacing_mm: tuple[float, float]
    rows: int
    columns: int

    @property
    def normal(self) -> np.ndarray:
        """The direction in which slices follow each other."""
        return np.cross(self.cosines[0], self.cosines[1])


@dataclass(frozen=True, eq=False)
class Planes:
    """An array as slices that run as those of a series: axes (planes, rows, columns).

    `affine_lps` maps (column, row, plane) to LPS millimeters.
    """

    order: tuple[int, int, int]
    flips: tuple[int, ...]
    shape: tuple[int, int, int]
    affine_lps: np.ndarray

    def of(self, array: Shaped[np.ndarray, "i j k"]) -> Shaped[np.ndarray, "planes rows columns"]:
        """The array's slices, each in one piece of memory, for they are looked at one by one."""
        return np.ascontiguousarray(np.flip(array.transpose(self.order), self.flips))

    @property
    def cosines(self) -> np.ndarray:
        """Directions along a row and along a column, (2, 3)."""
        axes = self.affine_lps[:3, :2].T
        return axes / np.linalg.norm(axes, axis=1, keepdims=True)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Between columns, rows and planes."""
        across, down, along = np.linalg.norm(self.affine_lps[:3, :3], axis=0)
        return float(across), float(down), float(along)

    def positions_lps_mm(self) -> np.ndarray:
        """The center of the first pixel of each plane, (planes, 3)."""
        steps = np.arange(self.shape[0])[:, None] * self.affine_lps[:3, 2]
        return self.affine_lps[:3, 3] + steps


def read_source(sources: Sequence[Path]) -> SourceSeries:
    """The series in `sources`: single-frame files in any order, or one multi-frame file.

    Raises:
        InputFault: no file (E_NOSOURCE), a damaged one or one that is no image (E_DICOM), several
            series (E_SERIES), slices of several kinds (E_MIXED), or no FrameOfReferenceUID or SOP
            class that others can refer to (E_NOFRAME).
    """
    if not sources:
        raise InputFault(
            "There are no DICOM files of the image, and this format refers to them; choose "
            "nifti or seg.nrrd, or give the series.",
            code="E_NOSOURCE",
        )
    instances: dict[str, Instance] = {}
    classes: dict[str, str] = {}
    with quietly():
        for path in sources:
            instance = read_instance(path)
            if instance is None:
                raise InputFault(f"{path}: it holds no image.", code="E_DICOM")
            instances.setdefault(instance.uid, instance)
            classes[instance.uid] = _sop_class(path)
        first = next(iter(instances.values()))
        _refuse_mixed(first, list(instances.values()))
        _refuse_unnamed(list(instances.values()), classes)
        header = _header(first.file)
    frame = first.frames[0]
    return SourceSeries(
        header=header,
        planes=tuple(_planes(list(instances.values()), classes)),
        cosines=np.array(frame.cosines).reshape(2, 3),
        spacing_mm=(frame.spacing_mm[0], frame.spacing_mm[1]),
        rows=first.rows,
        columns=first.columns,
    )


def planes_along(grid: Grid, series: SourceSeries) -> Planes:
    """How an array on `grid` is cut into slices that run as those of the series, as nearly so."""
    affine = LPS_TO_RAS @ grid.affine
    turned = np.eye(4)
    turned[:3, :3] = np.stack([*series.cosines, series.normal]) @ affine[:3, :3]
    toward, signs = Grid(grid.shape, turned).nearest_axes()
    # For column, row and plane the array axis that runs along it.
    along = [toward.index(axis) for axis in range(3)]
    result = np.eye(4)
    result[:3, 3] = affine[:3, 3]
    flips = []
    for place, axis in enumerate(along):
        result[:3, place] = signs[axis] * affine[:3, axis]
        if signs[axis] < 0:
            result[:3, 3] += (grid.shape[axis] - 1) * affine[:3, axis]
            flips.append(2 - place)
    order = (along[2], along[1], along[0])
    shape = (grid.shape[order[0]], grid.shape[order[1]], grid.shape[order[2]])
    return Planes(order, tuple(flips), shape, result)


def _sop_class(path: Path) -> str:
    return str(_read(path, ["SOPClassUID"]).get("SOPClassUID", ""))


def _header(path: Path) -> Dataset:
    header = _read(path, None)
    # Decoded here, with the character set of this file.
    header.decode()
    kept = Dataset()
    kept.update(
        {
            element.tag: element
            for element in header
            if element.tag.group not in OF_THE_IMAGE or element.keyword.startswith(LOSS)
        }
    )
    return kept


def _read(path: Path, tags: list[str] | None) -> Dataset:
    try:
        return pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=tags)
    except (*DAMAGE, BytesLengthException) as error:
        raise InputFault(
            f"{path}: its header is damaged ({type(error).__name__}); copy it from the archive "
            "again.",
            code="E_DICOM",
        ) from error


def _planes(instances: Sequence[Instance], classes: dict[str, str]) -> Iterator[SourcePlane]:
    for instance in instances:
        for frame in instance.frames:
            number = frame.number + 1 if len(instance.frames) > 1 else None
            position = np.array(frame.position_lps_mm)
            yield SourcePlane(classes[instance.uid], instance.uid, number, position)


def _refuse_mixed(first: Instance, instances: Sequence[Instance]) -> None:
    for other in instances:
        if (other.study_uid, other.series_uid) != (first.study_uid, first.series_uid):
            raise InputFault(
                f"{other.file}: it is of another series than {first.file.name}; a result refers "
                "to the slices of one.",
                code="E_SERIES",
            )
        if len(instances) > 1 and len(other.frames) > 1:
            raise InputFault(
                f"{other.file}: it holds {len(other.frames)} frames and is not the only file of "
                "its series; give one multi-frame file, or single slices.",
                code="E_MIXED",
            )
        alike = (other.rows, other.columns) == (first.rows, first.columns) and all(
            np.allclose(frame.cosines, first.frames[0].cosines, atol=SAME_DIRECTION)
            and np.allclose(frame.spacing_mm, first.frames[0].spacing_mm, rtol=SAME_SPACING)
            for frame in other.frames
        )
        if not alike or other.frame_of_reference_uid != first.frame_of_reference_uid:
            raise InputFault(
                f"{other.file}: its slice differs from that of {first.file.name} (size, pixel "
                "spacing, direction or frame of reference); leave out what is no slice of the "
                "volume.",
                code="E_MIXED",
            )


def _refuse_unnamed(instances: Sequence[Instance], classes: dict[str, str]) -> None:
    for one in instances:
        missing = [
            name
            for name, value in (
                ("FrameOfReferenceUID", one.frame_of_reference_uid),
                ("SOPInstanceUID", one.uid),
                ("StudyInstanceUID", one.study_uid),
                ("SeriesInstanceUID", one.series_uid),
            )
            if not value or "\\" in value
        ]
        if UID(classes[one.uid]).type != "SOP Class":
            missing.append("SOPClassUID")
        if missing:
            raise InputFault(
                f"{one.file}: it has no {', '.join(missing)} that is known, so a DICOM object "
                "cannot refer to it; choose nifti or seg.nrrd.",
                code="E_NOFRAME",
            )
