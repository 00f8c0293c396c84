"""Objects that lie beside scans and are none: reports, structures, pictures, segmentations."""

from dataclasses import replace

import numpy as np
from pydicom.dataset import Dataset, FileDataset

from tests.io.dicom.phantom import Layout, Made, Storing, add_pixels, started

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


def _object(sop_class: str, modality: str) -> FileDataset:
    made = Made(sop_class=sop_class, series=77)
    image = started(made, 1)
    image.Modality = modality
    del image.ImageType
    return image


def report() -> FileDataset:
    """A dose report as a structured report."""
    image = _object("1.2.840.10008.5.1.4.1.1.88.67", "SR")
    image.ValueType, image.CompletionFlag = "CONTAINER", "COMPLETE"
    text = Dataset()
    text.ValueType, text.TextValue = "TEXT", "DLP 700 mGy cm"
    image.ContentSequence = [text]
    return image


def structures() -> FileDataset:
    """Contours for a radiotherapy."""
    image = _object("1.2.840.10008.5.1.4.1.1.481.3", "RTSTRUCT")
    image.StructureSetLabel = "PLAN"
    return image


def document() -> FileDataset:
    """A letter."""
    image = _object("1.2.840.10008.5.1.4.1.1.104.1", "DOC")
    image.MIMETypeOfEncapsulatedDocument = "application/pdf"
    image.EncapsulatedDocument = b"%PDF-1.4 nothing "
    return image


def spectrum() -> FileDataset:
    """Raw data of a scanner, of modality MR as some store it."""
    return _object("1.2.840.10008.5.1.4.1.1.66", "MR")


def segmentation() -> FileDataset:
    """A mask: pixels that are no scan."""
    image = _object("1.2.840.10008.5.1.4.1.1.66.4", "SEG")
    add_pixels(image, Storing(bits=8, stored=8), np.ones((1, 16, 16), int))
    return image


def color_picture() -> FileDataset:
    """A screenshot of a workstation, with the modality of the scan."""
    image = _object(SECONDARY_CAPTURE, "CT")
    image.Rows, image.Columns, image.SamplesPerPixel = 16, 16, 3
    image.PhotometricInterpretation, image.PlanarConfiguration = "RGB", 0
    image.BitsAllocated, image.BitsStored, image.HighBit = 8, 8, 7
    image.PixelRepresentation = 0
    image.PixelData = bytes(16 * 16 * 3)
    return image


def dose_picture(*, placed: bool) -> FileDataset:
    """A gray page of text, of modality CT, on a place in the patient or on none."""
    made = replace(Made(Layout(), sop_class=SECONDARY_CAPTURE), series=78)
    image = made.dataset(0)
    image.ImageType = ["DERIVED", "SECONDARY"]
    if not placed:
        del image.ImagePositionPatient, image.ImageOrientationPatient, image.PixelSpacing
    return image
