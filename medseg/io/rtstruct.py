"""RT Structure Sets: each label as closed planar contours on the slices (PS3.3 A.19, C.8.8.5 to 8).

Coordinates are LPS millimeters in at most 16 characters, the most a DS may have (PS3.5 6.2). The
object is written in Implicit VR Little Endian: in explicit ones a contour of more than 64 KiB does
not fit its length.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from medseg import __version__
from medseg.io.atomic import write_bytes
from medseg.io.contours import outlines
from medseg.io.dicom.elements import quietly
from medseg.io.dicom_header import restore_identity
from medseg.io.dicom_source import (
    Planes,
    SourcePlane,
    SourceSeries,
    planes_along,
    read_source,
)
from medseg.io.terminology import (
    LONGEST_MEANING,
    PRIVATE_SCHEME,
    Code,
    single_line,
    terms_of,
)
from medseg.volume import Label, LabelVolume

SERIES_NUMBER = 901
STUDY_COMPONENT = "1.2.840.10008.3.1.2.3.1"
LONGEST_SHORT = 16
DECIMALS = 6
SAME_PLANE_MM = 1e-2
CONTOUR_DATA = Tag("ContourData")


def write_rtstruct(
    path: Path,
    labels: LabelVolume,
    sources: Sequence[Path],
    *,
    model_name: str,
    model_version: str = __version__,
    series_number: int = SERIES_NUMBER,
) -> None:
    """Write a label map as RTSTRUCT, whole or not at all; it is read back before it counts.

    An ROI has the number of its label's value; one that is nowhere has no contour. Holes are
    keyholes (see `medseg.io.contours`). Contours lie in the planes of the label grid that run as
    the slices of `sources` do, and refer to a slice where they lie in it.

    Raises:
        InputFault: what `read_source` and `terms_of` refuse, or a place that cannot be written
            (E_DISKFULL, E_WRITE).
    """
    series = read_source(sources)
    with quietly():
        result = _structure_set(labels, series, single_line(model_name, LONGEST_MEANING))
        result.SoftwareVersions = single_line(model_version, LONGEST_MEANING)
        result.SeriesNumber = series_number
        restore_identity(result, series)
        packed = BytesIO()
        result.save_as(packed, enforce_file_format=True)
    write_bytes(path, packed.getvalue())


def _structure_set(labels: LabelVolume, series: SourceSeries, model: str) -> FileDataset:
    result = _empty(model)
    result.StudyInstanceUID = series.header.StudyInstanceUID
    if "StudyDescription" in series.header:
        result["StudyDescription"] = series.header["StudyDescription"]
    frame_of_reference = series.header.FrameOfReferenceUID
    result.FrameOfReferenceUID = frame_of_reference
    result.PositionReferenceIndicator = series.header.get("PositionReferenceIndicator")
    result.ReferencedFrameOfReferenceSequence = [_references(series)]
    table = labels.table.labels
    result.StructureSetROISequence = [_region(label, frame_of_reference) for label in table]
    contours = _contours(labels, series)
    result.ROIContourSequence = [_shown(label, contours[label.value]) for label in table]
    result.RTROIObservationsSequence = [_observed(label) for label in table]
    if any(terms_of(label).type.scheme == PRIVATE_SCHEME for label in table):
        result.CodingSchemeIdentificationSequence = [
            _dataset(
                CodingSchemeDesignator=PRIVATE_SCHEME,
                CodingSchemeName="Label names of medseg",
                CodingSchemeResponsibleOrganization="medseg",
            )
        ]
    return result


def _empty(model: str) -> FileDataset:
    now = datetime.now()
    date, time = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = RTStructureSetStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ImplicitVRLittleEndian
    result = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    result.SOPClassUID = RTStructureSetStorage
    result.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    result.InstanceCreationDate, result.InstanceCreationTime = date, time
    result.Modality = "RTSTRUCT"
    result.SeriesInstanceUID = generate_uid()
    result.SeriesDescription = model
    result.SeriesDate, result.SeriesTime = date, time
    result.OperatorsName = None
    result.Manufacturer = "medseg"
    result.ManufacturerModelName = model
    result.InstanceNumber = 1
    result.StructureSetLabel = "medseg"
    result.StructureSetName = model
    result.StructureSetDate, result.StructureSetTime = date, time
    result.ApprovalStatus = "UNAPPROVED"
    return result


def _references(series: SourceSeries) -> Dataset:
    """The whole source, down from its frame of reference."""
    images = [_image(plane) for plane in series.planes]
    of_series = _dataset(
        SeriesInstanceUID=series.header.SeriesInstanceUID, ContourImageSequence=images
    )
    of_study = _dataset(
        ReferencedSOPClassUID=STUDY_COMPONENT,
        ReferencedSOPInstanceUID=series.header.StudyInstanceUID,
        RTReferencedSeriesSequence=[of_series],
    )
    return _dataset(
        FrameOfReferenceUID=series.header.FrameOfReferenceUID,
        RTReferencedStudySequence=[of_study],
    )


def _image(plane: SourcePlane) -> Dataset:
    image = _dataset(
        ReferencedSOPClassUID=plane.sop_class_uid, ReferencedSOPInstanceUID=plane.sop_instance_uid
    )
    if plane.frame_number is not None:
        image.ReferencedFrameNumber = plane.frame_number
    return image


def _region(label: Label, frame_of_reference: str) -> Dataset:
    return _dataset(
        ROINumber=label.value,
        ReferencedFrameOfReferenceUID=frame_of_reference,
        ROIName=single_line(label.name, LONGEST_MEANING),
        ROIGenerationAlgorithm="AUTOMATIC",
    )


def _shown(label: Label, contours: list[Dataset]) -> Dataset:
    item = _dataset(ReferencedROINumber=label.value, ROIDisplayColor=list(label.color))
    if contours:
        item.ContourSequence = contours
    return item


def _observed(label: Label) -> Dataset:
    item = _dataset(
        ObservationNumber=label.value,
        ReferencedROINumber=label.value,
        ROIObservationLabel=single_line(label.name, LONGEST_SHORT),
        RTROIInterpretedType=None,
        ROIInterpreter=None,
    )
    item.RTROIIdentificationCodeSequence = [_coded(terms_of(label).type)]
    return item


def _coded(code: Code) -> Dataset:
    item = _dataset(CodingSchemeDesignator=code.scheme, CodeMeaning=code.meaning)
    if len(code.value) > LONGEST_SHORT:
        item.LongCodeValue = code.value
    else:
        item.CodeValue = code.value
    return item


def _contours(labels: LabelVolume, series: SourceSeries) -> dict[int, list[Dataset]]:
    planes = planes_along(labels.grid, series)
    found: dict[int, list[Dataset]] = {value: [] for value in labels.table.values}
    source_of = _slice_at(planes, series)
    for place, plane in enumerate(planes.of(labels.array)):
        for value in np.flatnonzero(np.bincount(plane.ravel())):
            if value:
                for points_lps_mm in _polygons(plane == value, planes, place):
                    contours = found[int(value)]
                    contours.append(_contour(points_lps_mm, source_of[place], len(contours) + 1))
    return found


def _polygons(
    mask: UInt[np.ndarray, "rows columns"], planes: Planes, place: int
) -> Iterator[Float[np.ndarray, "n 3"]]:
    for polygon in outlines(mask):
        voxels = np.column_stack([polygon, np.full(len(polygon), place)])
        yield voxels @ planes.affine_lps[:3, :3].T + planes.affine_lps[:3, 3]


def _contour(
    points_lps_mm: Float[np.ndarray, "n 3"], source: SourcePlane | None, number: int
) -> Dataset:
    contour = Dataset()
    if source is not None:
        contour.ContourImageSequence = [_image(source)]
    contour.ContourGeometricType = "CLOSED_PLANAR"
    contour.NumberOfContourPoints = len(points_lps_mm)
    contour.ContourNumber = number
    text = "\\".join(_decimal(number) for number in points_lps_mm.ravel())
    # As bytes: pydicom would look at each number, for minutes.
    data = text.encode() + b" " * (len(text) % 2)
    contour[CONTOUR_DATA] = RawDataElement(
        CONTOUR_DATA, "DS", len(data), data, 0, is_implicit_VR=True, is_little_endian=True
    )
    return contour


def _decimal(number: float) -> str:
    # The millimeters of a body have four digits at most: 12 characters.
    text = f"{number:.{DECIMALS}f}".rstrip("0").rstrip(".")
    assert len(text) <= LONGEST_SHORT
    return "0" if text in ("-0", "") else text


def _slice_at(planes: Planes, series: SourceSeries) -> list[SourcePlane | None]:
    """The source's slice in which each plane lies; none where the planes run otherwise."""
    offset = planes.positions_lps_mm()
    corners = np.array([[0, 0], [planes.shape[2] - 1, planes.shape[1] - 1]])
    spans = corners @ planes.affine_lps[:3, :2].T
    found: list[SourcePlane | None] = []
    places_mm = np.array([series.normal @ plane.position_lps_mm for plane in series.planes])
    for position in offset:
        ends_mm = (position + spans) @ series.normal
        off = np.abs(places_mm[:, None] - ends_mm).max(axis=1)
        nearest = int(np.argmin(off))
        found.append(series.planes[nearest] if off[nearest] < SAME_PLANE_MM else None)
    return found


def _dataset(**elements: object) -> Dataset:
    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return item
