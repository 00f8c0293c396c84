"""DICOM Segmentation objects: a label map (BINARY, LABELMAP) or probabilities (FRACTIONAL).

Segmentation IOD, PS3.3 A.51 and C.8.20; written with highdicom. Frames lie on the source's slices
where the label grid is theirs, up to turned axes, and refer to them; elsewhere on their own planes
in the same frame of reference. `medseg.io.dicom_seg_read` reads them back.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Literal

import highdicom as hd
import numpy as np
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.color import CIELabColor
from highdicom.seg import Segmentation, SegmentDescription
from highdicom.sr import CodedConcept
from jaxtyping import Float, UInt8
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, RLELossless, generate_uid

from medseg import __version__
from medseg.io.atomic import write_bytes
from medseg.io.dicom.elements import quietly
from medseg.io.dicom_header import cleaned_source, restore_identity
from medseg.io.dicom_source import Planes, SourceSeries, planes_along, read_source
from medseg.io.terminology import LONGEST_MEANING, PRIVATE_SCHEME, Code, single_line, terms_of
from medseg.volume import Grid, Label, LabelTable, LabelVolume

FULL = 255
SERIES_NUMBER = 900
OUTSIDE = 1e-3


@dataclass(frozen=True)
class _Maker:
    """Who made an object: the model, as short as a header wants it, and the series' number."""

    model_name: str
    model_version: str
    series_number: int

    @property
    def name(self) -> str:
        return single_line(self.model_name, LONGEST_MEANING)

    @property
    def version(self) -> str:
        return single_line(self.model_version, LONGEST_MEANING)


def write_dicom_seg(
    path: Path,
    labels: LabelVolume,
    sources: Sequence[Path],
    *,
    kind: Literal["binary", "labelmap"] = "binary",
    model_name: str,
    model_version: str = __version__,
    series_number: int = SERIES_NUMBER,
) -> None:
    """Write a label map as DICOM SEG, whole or not at all; it is read back before it counts.

    `sources` are the files of the series it was made from. BINARY numbers its segments 1, 2, ...
    in the order of the table (the standard wants it so) and leaves out empty frames; LABELMAP, of
    2024 and not yet read everywhere, keeps the values and all planes.

    Raises:
        InputFault: what `read_source` and `terms_of` refuse, or a place that cannot be written
            (E_DISKFULL, E_WRITE).
    """
    series = read_source(sources)
    planes = planes_along(labels.grid, series)
    values = labels.table.values
    numbers = range(1, len(values) + 1) if kind == "binary" else values
    maker = _Maker(model_name, model_version, series_number)
    segments = _segments(labels.table, numbers, maker)
    if kind == "binary":
        frames, first = _occupied(planes.of(_numbered(labels)))
    else:
        frames, first = planes.of(labels.array), 0
    seg = _segmentation(series, planes, frames, first, segments, kind, maker)
    _write(path, seg)


def write_fractional_seg(
    path: Path,
    probabilities: Float[np.ndarray, "c i j k"],
    grid: Grid,
    table: LabelTable,
    sources: Sequence[Path],
    *,
    model_name: str,
    model_version: str = __version__,
    series_number: int = SERIES_NUMBER,
) -> None:
    """Write probabilities of the labels of `table`, in its order, as FRACTIONAL DICOM SEG.

    They are stored in steps of 1/255; frames in which all round to 0 are left out.

    Raises:
        InputFault: see `write_dicom_seg`.
    """
    assert probabilities.shape == (len(table), *grid.shape)
    assert probabilities.min() >= -OUTSIDE
    assert probabilities.max() <= 1 + OUTSIDE
    series = read_source(sources)
    planes = planes_along(grid, series)
    stored = np.stack([planes.of(_in_steps(one)) for one in probabilities])
    maker = _Maker(model_name, model_version, series_number)
    segments = _segments(table, range(1, len(table) + 1), maker)
    # highdicom sorts all of a floating array, so it is told only where something is.
    frames, first = _occupied(np.moveaxis(stored > 0, 0, -1))
    seg = _segmentation(series, planes, frames, first, segments, "fractional", maker)
    seg.SegmentsOverlap = "UNDEFINED"
    _replace_pixels(seg, stored, planes)
    _write(path, seg)


def _numbered(labels: LabelVolume) -> np.ndarray:
    """The label map with its values replaced by 1, 2, ... in the order of the table."""
    values = labels.table.values
    if values == tuple(range(1, len(values) + 1)):
        return labels.array
    numbers = np.zeros(max(values) + 1, np.uint8 if len(values) < 256 else np.uint16)
    numbers[list(values)] = np.arange(1, len(values) + 1)
    return numbers[labels.array]


def _in_steps(probability: Float[np.ndarray, "i j k"]) -> UInt8[np.ndarray, "i j k"]:
    return np.rint(np.clip(probability, 0, 1) * FULL).astype(np.uint8)


def _occupied(frames: np.ndarray) -> tuple[np.ndarray, int]:
    """The planes from the first to the last that hold something, and the first one's number.

    Of an empty array one plane stays: an object needs a frame, and highdicom would write them all.
    """
    full = np.flatnonzero(frames.any(axis=tuple(range(1, frames.ndim))))
    first, last = (int(full[0]), int(full[-1])) if full.size else (0, 0)
    return frames[first : last + 1], first


def _segments(table: LabelTable, numbers: Sequence[int], maker: _Maker) -> list[SegmentDescription]:
    algorithm = hd.AlgorithmIdentificationSequence(
        name=maker.name,
        family=codes.cid7162.ArtificialIntelligence,
        version=maker.version,
        source="medseg",
    )
    return [
        _segment(number, label, algorithm)
        for number, label in zip(numbers, table.labels, strict=True)
    ]


def _segment(
    number: int, label: Label, algorithm: hd.AlgorithmIdentificationSequence
) -> SegmentDescription:
    terms = terms_of(label)
    name = single_line(label.name, LONGEST_MEANING)
    segment = SegmentDescription(
        segment_number=number,
        segment_label=name,
        segmented_property_category=_concept(terms.category),
        segmented_property_type=_concept(terms.type),
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm,
        anatomic_regions=[_concept(terms.region)] if terms.region else None,
        display_color=CIELabColor.from_rgb(*label.color),
    )
    if name != label.name:
        segment.SegmentDescription = label.name[:1024]
    if terms.type_modifier:
        kind = segment.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [_concept(terms.type_modifier)]
    if terms.region and terms.region_modifier:
        region = segment.AnatomicRegionSequence[0]
        region.AnatomicRegionModifierSequence = [_concept(terms.region_modifier)]
    return segment


def _concept(code: Code) -> CodedConcept:
    return CodedConcept(code.value, code.scheme, code.meaning)


def _segmentation(
    series: SourceSeries,
    planes: Planes,
    frames: np.ndarray,
    first: int,
    segments: Sequence[SegmentDescription],
    kind: str,
    maker: _Maker,
) -> Segmentation:
    across, down, along = planes.spacing_mm
    cosines = planes.cosines.ravel().tolist()
    positions = planes.positions_lps_mm()[first : first + len(frames)]
    with quietly(), _unlogged():
        seg = Segmentation(
            source_images=cleaned_source(series, along),
            pixel_array=frames,
            segmentation_type=kind.upper(),
            segment_descriptions=segments,
            series_instance_uid=generate_uid(),
            series_number=maker.series_number,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer="medseg",
            manufacturer_model_name=maker.name,
            software_versions=maker.version,
            device_serial_number="none",
            max_fractional_value=FULL,
            content_label="SEGMENTATION",
            content_description=maker.name,
            transfer_syntax_uid=RLELossless if kind == "labelmap" else ExplicitVRLittleEndian,
            pixel_measures=hd.PixelMeasuresSequence((down, across), along, along),
            plane_orientation=hd.PlaneOrientationSequence("PATIENT", cosines),
            plane_positions=[hd.PlanePositionSequence("PATIENT", one) for one in positions],
            omit_empty_frames=kind != "labelmap",
            series_description=maker.name,
            specific_character_set=None,
            coding_schemes=[
                CodingSchemeIdentificationItem(
                    PRIVATE_SCHEME, name="Label names of medseg", responsible_organization="medseg"
                )
            ],
        )
    restore_identity(seg, series)
    return seg


def _replace_pixels(
    seg: Segmentation, stored: UInt8[np.ndarray, "c planes rows columns"], planes: Planes
) -> None:
    """Put the steps of probability in place of what told highdicom where something is."""
    direction = np.cross(*planes.cosines)
    start, along = float(direction @ planes.affine_lps[:3, 3]), planes.spacing_mm[2]
    shared = seg.SharedFunctionalGroupsSequence[0]
    frames = []
    for group in seg.PerFrameFunctionalGroupsSequence:
        named = group if "SegmentIdentificationSequence" in group else shared
        number = int(named.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        position = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        place = round((float(direction @ position) - start) / along)
        frames.append(stored[number - 1, place].tobytes())
    seg.PixelData = b"".join(frames)
    seg.compress(RLELossless, generate_instance_uid=False)


def _write(path: Path, seg: Segmentation) -> None:
    packed = BytesIO()
    with quietly():
        seg.save_as(packed, enforce_file_format=True)
    write_bytes(path, packed.getvalue())


@contextmanager
def _unlogged() -> Iterator[None]:
    """Without highdicom's log, which holds the UIDs of what it copies."""
    logger = logging.getLogger("highdicom")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
