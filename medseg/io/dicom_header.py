"""Patient and study of the source, in what is derived from it.

Headers of hospitals lack fields, or hold dates and codes that are none. highdicom refuses such
values, so it is given clean ones, and the source's own are put in place afterwards: an archive must
find one patient, not two.
"""

from collections.abc import Sequence
from copy import deepcopy

import numpy as np
from pydicom.dataset import Dataset
from pydicom.valuerep import DA, TM, PersonName, format_number_as_ds

from medseg.io.dicom_source import SourceSeries

# Type 2 in the Patient and General Study modules: there, though perhaps empty.
IDENTITY = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
)
SEXES = ("M", "F", "O")
UTF8 = "ISO_IR 192"
TEXTS = ("LO", "SH", "ST", "LT", "UT", "UC")


def cleaned_source(series: SourceSeries, along_mm: float) -> list[Dataset]:
    """The source as highdicom takes it; planes that follow each other lie `along_mm` apart."""
    header = _clean_header(series)
    if series.planes[0].frame_number is not None:
        return [_multi_frame(header, series, along_mm)]
    images = []
    for place, plane in enumerate(series.planes):
        image = header if place == 0 else _same_series(header)
        image.SOPClassUID, image.SOPInstanceUID = plane.sop_class_uid, plane.sop_instance_uid
        image.ImagePositionPatient = _decimals(plane.position_lps_mm)
        image.ImageOrientationPatient = _decimals(series.cosines)
        _add_measures(image, series, along_mm)
        images.append(image)
    return images


def restore_identity(result: Dataset, series: SourceSeries) -> None:
    """Give a derived object the patient, the study and the character set of its source.

    Where its own texts (names of labels) need more letters, the character set becomes UTF-8.
    """
    for keyword in IDENTITY:
        if keyword in series.header:
            result[keyword] = series.header[keyword]
        else:
            setattr(result, keyword, None)
    charset = series.header.get("SpecificCharacterSet")
    if not _is_ascii(result):
        charset = UTF8
    if charset:
        result.SpecificCharacterSet = charset


def _clean_header(series: SourceSeries) -> Dataset:
    # A copy of each element: setting a value in a shared one would change the source's.
    header = deepcopy(series.header)
    for keyword in IDENTITY:
        if keyword not in header:
            setattr(header, keyword, "")
    for keyword, kind in (("PatientBirthDate", DA), ("StudyDate", DA), ("StudyTime", TM)):
        if not _is(kind, header[keyword].value):
            setattr(header, keyword, "")
    for keyword in ("PatientName", "ReferringPhysicianName"):
        if not isinstance(header[keyword].value, str | PersonName):
            setattr(header, keyword, "")
    if header.PatientSex not in SEXES:
        header.PatientSex = ""
    header.Modality = header.get("Modality") or "OT"
    header.Rows, header.Columns = series.rows, series.columns
    return header


def _is(kind: type, value: object) -> bool:
    try:
        kind(value)
    except (ValueError, TypeError, OverflowError):
        return False
    return True


def _same_series(header: Dataset) -> Dataset:
    image = Dataset()
    for keyword in (
        "StudyInstanceUID",
        "SeriesInstanceUID",
        "FrameOfReferenceUID",
        "Rows",
        "Columns",
    ):
        image[keyword] = header[keyword]
    return image


def _add_measures(part: Dataset, series: SourceSeries, along_mm: float) -> None:
    part.PixelSpacing = _decimals(series.spacing_mm)
    (part.SliceThickness,) = (part.SpacingBetweenSlices,) = _decimals([along_mm])


def _decimals(numbers: Sequence[float] | np.ndarray) -> list[str]:
    """As highdicom takes them over unseen: of at most 16 characters (PS3.5 6.2)."""
    return [format_number_as_ds(float(number)) for number in np.ravel(numbers)]


def _multi_frame(header: Dataset, series: SourceSeries, along_mm: float) -> Dataset:
    header.NumberOfFrames = len(series.planes)
    orientation, measures, shared = Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = _decimals(series.cosines)
    _add_measures(measures, series, along_mm)
    shared.PlaneOrientationSequence = [orientation]
    shared.PixelMeasuresSequence = [measures]
    header.SharedFunctionalGroupsSequence = [shared]
    groups = []
    for plane in series.planes:
        position, group = Dataset(), Dataset()
        position.ImagePositionPatient = _decimals(plane.position_lps_mm)
        group.PlanePositionSequence = [position]
        groups.append(group)
    header.PerFrameFunctionalGroupsSequence = groups
    return header


def _is_ascii(part: Dataset) -> bool:
    return all(
        all(_is_ascii(item) for item in element.value)
        if element.VR == "SQ"
        else element.VR not in TEXTS or str(element.value).isascii()
        for element in part
        if element.keyword not in IDENTITY
    )
