"""One slice of a file: its place in the patient and the scale of its values.

Frames are placed by ImagePositionPatient, ImageOrientationPatient and PixelSpacing (PS3.3 C.7.6.2),
in enhanced multi-frame objects by their functional groups (PS3.3 C.7.6.16).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset

from medseg.fault import InputFault
from medseg.io.dicom.elements import Numbers, numbers, text_of
from medseg.io.dicom.pet import suv_factor

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
    # Which of the two the header tells.
    told_scale: tuple[str, ...]
    volume_tags: Mapping[str, str]


def frame_of(header: Dataset, number: int) -> Frame:
    """The frame of that number, from 0.

    Raises:
        InputFault: it has no place (E_NOPOSITION), no pixel size (E_NOSPACING), or values that
            cannot be used (E_DICOM, E_ORIENTATION, E_SCALE, E_SUV).
    """
    plane = _group(header, number, "PlanePositionSequence")
    turn = _group(header, number, "PlaneOrientationSequence")
    measures = _group(header, number, "PixelMeasuresSequence")
    scaling = _group(header, number, "PixelValueTransformationSequence")
    position = numbers(plane, "ImagePositionPatient", 3)
    cosines = numbers(turn, "ImageOrientationPatient", 6)
    spacing = numbers(measures, "PixelSpacing", 2)
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
    thickness = numbers(measures, "SliceThickness", 1)
    slope, intercept = _scaling(header, scaling)
    told = tuple(name for name in ("RescaleSlope", "RescaleIntercept") if name in scaling)
    return Frame(
        number=number,
        position_lps_mm=position,
        cosines=_unit(cosines),
        spacing_mm=spacing,
        thickness_mm=thickness[0] if thickness and thickness[0] > 0 else None,
        slope=slope,
        intercept=intercept,
        told_scale=told,
        volume_tags=_volume_tags(header, number),
    )


def _scaling(header: Dataset, scaling: Dataset) -> tuple[float, float]:
    slope = (numbers(scaling, "RescaleSlope", 1) or (1.0,))[0]
    intercept = (numbers(scaling, "RescaleIntercept", 1) or (0.0,))[0]
    if slope == 0:
        raise InputFault("RescaleSlope is 0; all its values would be the same.", code="E_SCALE")
    factor = suv_factor(header) if text_of(header, "Modality") == "PT" else 1.0
    return slope * factor, intercept * factor


def _volume_tags(header: Dataset, number: int) -> dict[str, str]:
    content = _group(header, number, "FrameContentSequence")
    echo = _group(header, number, "MREchoSequence")
    diffusion = _group(header, number, "MRDiffusionSequence")
    found = {}
    for name in VOLUME_TAGS:
        text = next((t for part in (content, echo, diffusion) if (t := text_of(part, name))), "")
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
