"""The segments of a DICOM SEG as labels: names, colors and codes (PS3.3 C.8.20.2, C.8.20.4)."""

from collections.abc import Iterable, Mapping

from highdicom.color import CIELabColor
from pydicom.dataset import Dataset

from medseg.fault import InputFault
from medseg.io.terminology import Code, Terms, columns_of
from medseg.volume import Label, LabelTable

GRAY = (128, 128, 128)


def segments_of(seg: Dataset) -> dict[int, Label]:
    """The label of each segment number, background (0, in label maps) left out.

    Names that stand several times get the segment's number.
    """
    items = [item for item in seg.SegmentSequence if int(item.SegmentNumber) != 0]
    names = [_name(item) for item in items]
    labels = {}
    for item, name in zip(items, names, strict=True):
        number = int(item.SegmentNumber)
        alone = sum(other.lower() == name.lower() for other in names) == 1
        terms = _terms(item)
        labels[number] = Label(
            number,
            name if alone else f"{name} {number}",
            _color(item),
            columns_of(terms) if terms else {},
        )
    if not labels or len(labels) < len(items):
        raise InputFault(
            "its segments are none, or have a number twice; export it again.", code="E_DICOM"
        )
    return labels


def table_of(segments: Mapping[int, Label]) -> LabelTable:
    """The table of all segments."""
    return LabelTable(segments.values())


def _name(item: Dataset) -> str:
    name = str(item.get("SegmentLabel") or "").strip()
    # What was too long for a label (64 characters) stands in the description.
    longer = str(item.get("SegmentDescription") or "").strip()
    if len(name) == 64 and longer.startswith(name):
        name = longer
    return name or f"Segment {int(item.SegmentNumber)}"


def _color(item: Dataset) -> tuple[int, int, int]:
    value = item.get("RecommendedDisplayCIELabValue")
    if not value or len(value) != 3:
        return GRAY
    red, green, blue = CIELabColor.from_dicom_value(tuple(int(part) for part in value)).to_rgb()
    return red, green, blue


def _terms(item: Dataset) -> Terms | None:
    category = _code(item.get("SegmentedPropertyCategoryCodeSequence"))
    kind = _code(item.get("SegmentedPropertyTypeCodeSequence"))
    if category is None or kind is None:
        return None
    type_item = item.SegmentedPropertyTypeCodeSequence[0]
    region = item.get("AnatomicRegionSequence")
    return Terms(
        category,
        kind,
        _code(type_item.get("SegmentedPropertyTypeModifierCodeSequence")),
        _code(region),
        _code(region[0].get("AnatomicRegionModifierSequence")) if region else None,
    )


def _code(sequence: Iterable[Dataset] | None) -> Code | None:
    for item in sequence or ():
        value = item.get("CodeValue") or item.get("LongCodeValue") or item.get("URNCodeValue")
        scheme, meaning = item.get("CodingSchemeDesignator"), item.get("CodeMeaning")
        if value and meaning:
            return Code(str(scheme or ""), str(value), str(meaning)) if scheme else None
    return None
