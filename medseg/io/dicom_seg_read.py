"""DICOM SEG objects read back to a label map: BINARY and LABELMAP (PS3.3 A.51, C.8.20).

Frames are placed by their positions, never by their order. What a voxel cannot hold, two segments,
is refused.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from jaxtyping import Shaped
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException
from pydicom.pixels.utils import iter_pixels
from pydicom.uid import RLELossless

from medseg.fault import InputFault
from medseg.io.dicom.elements import quietly
from medseg.io.dicom.instance import DAMAGE
from medseg.io.dicom.read import LPS_TO_RAS
from medseg.io.dicom_segments import segments_of, table_of
from medseg.volume import Grid, Label, LabelTable, LabelVolume

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
LABELMAP = "1.2.840.10008.5.1.4.1.1.66.7"
SAME_DIRECTION = 1e-4
# Of a step between planes: farther from an even place than this, a frame is on no grid.
EVEN = 0.02
DRIFT_MM = 0.02
# Empty frames are left out of a file, but not this many of them for each that is there.
MOST_EMPTY = 1000
# Of damaged bytes, beside `DAMAGE`: of sequences, of lengths, of packed frames.
DAMAGED = (*DAMAGE, OSError, BytesLengthException, RuntimeError)
Frame = Shaped[np.ndarray, "rows columns"]


@dataclass(frozen=True, eq=False)
class _Place:
    """The grid that the frames span, and the plane of each frame."""

    grid: Grid
    planes: np.ndarray


def read_dicom_seg(path: Path, *, table: LabelTable | None = None) -> LabelVolume:
    """The label map in a DICOM SEG, on the smallest grid that holds its frames.

    Values are the segments' numbers, or with `table` those of its labels of the same names.

    Raises:
        InputFault: no DICOM (E_DICOM), no label map (E_FORMAT), a compression that is not read
            (E_SYNTAX), frames on no common grid (E_NOPOSITION, E_GAP), segments that overlap
            (E_OVERLAP), or a segment that is not in `table` (E_LABEL).
    """
    with quietly():
        try:
            seg = pydicom.dcmread(path)
            return _label_volume(path, seg, table)
        except InputFault as fault:
            text = str(fault)
            raise InputFault(
                text if text.startswith(str(path)) else f"{path}: {text}", code=fault.code
            ) from fault
        except MemoryError as error:
            raise InputFault(
                f"{path}: its voxels do not fit into memory; it is damaged, or needs a larger "
                "machine.",
                code="E_TOOBIG",
            ) from error
        except DAMAGED as error:
            # What the system says has a number; pydicom raises the same class without one.
            if isinstance(error, OSError) and error.errno is not None:
                raise InputFault(
                    f"{path}: it cannot be read ({error.strerror}); check the path and its rights.",
                    code="E_NOTFILE",
                ) from error
            raise InputFault(
                f"{path}: it is damaged, or no DICOM ({type(error).__name__}); export it again.",
                code="E_DICOM",
            ) from error


def _label_volume(path: Path, seg: Dataset, table: LabelTable | None) -> LabelVolume:
    kind = _kind(seg)
    segments = segments_of(seg)
    values = {number: number for number in segments}
    if table is None:
        table = table_of(segments)
    else:
        values = _values_of(segments, table)
    groups = list(seg.PerFrameFunctionalGroupsSequence)
    if len(groups) != int(seg.NumberOfFrames):
        raise InputFault(
            f"it announces {seg.NumberOfFrames} frames and describes {len(groups)}; export it "
            "again.",
            code="E_DICOM",
        )
    shared = seg.SharedFunctionalGroupsSequence[0]
    place = _place(seg, groups, shared)
    columns, rows, count = place.grid.shape
    dtype = np.dtype(np.uint8 if max(values.values()) < 256 else np.uint16)
    labels = np.zeros((count, rows, columns), dtype)
    lookup = _lookup(values, dtype)
    frames = _frames(path, seg, rows * columns)
    for group, plane, stored in zip(groups, place.planes, frames, strict=True):
        frame = stored.reshape(rows, columns)
        if kind == "LABELMAP":
            _add(labels[plane], frame != 0, _looked_up(frame, lookup), table)
        else:
            named = _group(group, shared, "SegmentIdentificationSequence")
            value = values[int(named.ReferencedSegmentNumber)]
            _add(labels[plane], frame != 0, np.full_like(frame, value, dtype), table)
    return LabelVolume(np.ascontiguousarray(labels.transpose()), place.grid, table)


def _kind(seg: Dataset) -> str:
    sop_class, kind = str(seg.get("SOPClassUID", "")), str(seg.get("SegmentationType", ""))
    if sop_class not in (SEGMENTATION, LABELMAP):
        raise InputFault("it is no DICOM SEG; name the segmentation.", code="E_FORMAT")
    if kind not in ("BINARY", "LABELMAP"):
        raise InputFault(
            f"it is a {kind} segmentation, which holds no label map; a BINARY or LABELMAP one is "
            "read.",
            code="E_FORMAT",
        )
    return kind


def _values_of(segments: Mapping[int, Label], table: LabelTable) -> dict[int, int]:
    by_name = {label.name.lower(): label.value for label in table.labels}
    names = {number: label.name for number, label in segments.items()}
    strays = [name for name in names.values() if name.lower() not in by_name]
    if strays:
        raise InputFault(
            f"segment {strays[0]} is not in the label table ({', '.join(table.names)}).",
            code="E_LABEL",
        )
    return {number: by_name[name.lower()] for number, name in names.items()}


def _place(seg: Dataset, groups: list[Dataset], shared: Dataset) -> _Place:
    turn = _common(groups, shared, "PlaneOrientationSequence", "ImageOrientationPatient")
    spacing = _common(groups, shared, "PixelMeasuresSequence", "PixelSpacing")
    positions = np.array(
        [_group(group, shared, "PlanePositionSequence").ImagePositionPatient for group in groups],
        dtype=float,
    )
    if positions.shape != (len(groups), 3) or not np.isfinite(positions).all():
        raise InputFault("its frames have no positions; export it again.", code="E_NOPOSITION")
    cosines = turn.reshape(2, 3)
    normal = np.cross(cosines[0], cosines[1])
    places_mm = positions @ normal
    lowest = positions[np.argmin(places_mm)]
    step_mm = _step_mm(groups, shared, places_mm)
    planes = np.rint((places_mm - places_mm.min()) / step_mm).astype(int)
    off = positions - (lowest + planes[:, None] * step_mm * normal)
    if np.abs(off @ normal).max() > EVEN * step_mm or np.abs(off @ cosines.T).max() > DRIFT_MM:
        raise InputFault(
            "its frames do not lie on one grid of equal steps; resample it first.", code="E_GAP"
        )
    if planes.max() > MOST_EMPTY * len(groups):
        raise InputFault("its frames lie too far apart; it is damaged.", code="E_GAP")
    affine = np.eye(4)
    affine[:3, 0] = cosines[0] * spacing[1]
    affine[:3, 1] = cosines[1] * spacing[0]
    affine[:3, 2] = normal * step_mm
    affine[:3, 3] = lowest
    shape = (int(seg.Columns), int(seg.Rows), int(planes.max()) + 1)
    return _Place(Grid(shape, LPS_TO_RAS @ affine), planes)


def _step_mm(groups: list[Dataset], shared: Dataset, places_mm: np.ndarray) -> float:
    """Between planes: what the file says, where its planes fit it; else their smallest gap."""
    measures = _group(groups[0], shared, "PixelMeasuresSequence")
    gaps = np.diff(np.sort(places_mm))
    gaps = gaps[gaps > 1e-3]
    said = abs(float(measures.get("SpacingBetweenSlices") or 0))
    if said > 0 and _even(gaps, said):
        return said
    if gaps.size:
        return float(gaps.min())
    thickness = said or float(measures.get("SliceThickness") or 0)
    if thickness <= 0:
        raise InputFault(
            "it has one plane and does not say how thick it is (SpacingBetweenSlices, "
            "SliceThickness).",
            code="E_NOSPACING",
        )
    return thickness


def _even(gaps: np.ndarray, step_mm: float) -> bool:
    return not gaps.size or bool(np.abs(gaps / step_mm - np.rint(gaps / step_mm)).max() < EVEN)


def _common(groups: list[Dataset], shared: Dataset, sequence: str, keyword: str) -> np.ndarray:
    values = np.array(
        [_group(group, shared, sequence)[keyword].value for group in groups], dtype=float
    )
    if np.abs(values - values[0]).max() > SAME_DIRECTION:
        raise InputFault(
            f"its frames have several values of {keyword}; they are no one volume.", code="E_MIXED"
        )
    return values[0]


def _group(group: Dataset, shared: Dataset, sequence: str) -> Dataset:
    for part in (group, shared):
        if part.get(sequence):
            return part[sequence][0]
    raise InputFault(f"a frame has no {sequence}; export it again.", code="E_NOPOSITION")


def _frames(path: Path, seg: Dataset, size: int) -> Iterator[np.ndarray]:
    """The stored values of each frame, flat."""
    syntax = seg.file_meta.TransferSyntaxUID
    if syntax == RLELossless:
        yield from (frame.ravel() for frame in iter_pixels(path, raw=True))
        return
    if syntax.is_compressed and not syntax.is_deflated:
        raise InputFault(
            f"its frames are packed with {syntax.name}; store it uncompressed first, for example "
            "with dcmdjpeg or gdcmconv --raw.",
            code="E_SYNTAX",
        )
    count, bits = int(seg.NumberOfFrames), int(seg.BitsAllocated)
    data = np.frombuffer(seg.PixelData, np.uint8)
    if bits not in (1, 8, 16) or data.size * 8 < count * size * bits:
        raise InputFault(
            f"{count} frames of {size} pixels of {bits} bits are not in its {data.size} bytes; "
            "it was cut short. Export it again.",
            code="E_TRUNC",
        )
    order = ">" if not syntax.is_little_endian else "<"
    for number in range(count):
        low, high = number * size * bits, (number + 1) * size * bits
        part = data[low // 8 : -(-high // 8)]
        if bits == 1:
            # Frames follow each other bit by bit, the lowest bit first (PS3.5 8.1.1, D.2).
            yield np.unpackbits(part, bitorder="little")[low % 8 :][:size]
        else:
            yield part.view(f"{order}u{bits // 8}")


def _lookup(values: Mapping[int, int], dtype: np.dtype) -> np.ndarray:
    lookup = np.zeros(max(values) + 1, dtype)
    lookup[list(values)] = list(values.values())
    return lookup


def _looked_up(frame: Frame, lookup: np.ndarray) -> Frame:
    highest = int(frame.max())
    inside = frame[frame != 0]
    if highest >= len(lookup) or (lookup[inside] == 0).any():
        raise InputFault(
            "it holds values that are no segment of it; export it again.", code="E_LABEL"
        )
    return lookup[frame]


def _add(plane: Frame, where: Frame, new: Frame, table: LabelTable) -> None:
    both = plane[where] != 0
    if both.any():
        value, other = int(plane[where][both][0]), int(new[where][both][0])
        raise InputFault(
            f"segments {table[value].name} and {table[other].name} overlap (a label map has one "
            "label a voxel); export them as files of their own.",
            code="E_OVERLAP",
        )
    np.copyto(plane, new, where=where)
