"""What a label is in coded terms, for the formats that ask for codes.

The label table's codes are taken as they stand. Where it gives none, the category is "Anatomical
Structure" and the type a private code made of the label's name: a code of a public scheme is never
made up (PS3.16 chapter 8: private schemes begin with 99).
"""

import hashlib
import re
from dataclasses import dataclass

from medseg.fault import InputFault
from medseg.volume.labels import Label

PRIVATE_SCHEME = "99MEDSEG"
PLAIN_CODE = re.compile(r"[A-Za-z0-9._-]{1,16}")
LONGEST_MEANING = 64
PARTS = ("CodingScheme", "CodeValue", "CodeMeaning")


@dataclass(frozen=True)
class Code:
    """A coded term: the scheme's designator, the value in it, and the meaning in words."""

    scheme: str
    value: str
    meaning: str


ANATOMICAL_STRUCTURE = Code("SCT", "123037004", "Anatomical Structure")


@dataclass(frozen=True)
class Terms:
    """What a segment shows: a property of a category and a type, in a region of the body."""

    category: Code
    type: Code
    type_modifier: Code | None = None
    region: Code | None = None
    region_modifier: Code | None = None


def terms_of(label: Label) -> Terms:
    """The codes of a label.

    Raises:
        InputFault: the table gives a part of a code only (E_TABLE).
    """
    return Terms(
        _code(label, "Category") or ANATOMICAL_STRUCTURE,
        _code(label, "Type") or private_code(label.name),
        _code(label, "TypeModifier"),
        _code(label, "Region"),
        _code(label, "RegionModifier"),
    )


def columns_of(terms: Terms) -> dict[str, str]:
    """The terminology columns of a label table; a type that was made of the name is left out."""
    groups = {
        "Category": terms.category,
        "Type": None if terms.type.scheme == PRIVATE_SCHEME else terms.type,
        "TypeModifier": terms.type_modifier,
        "Region": terms.region,
        "RegionModifier": terms.region_modifier,
    }
    return {
        f"{group}_{part}": cell
        for group, code in groups.items()
        if code is not None
        for part, cell in zip(PARTS, (code.scheme, code.value, code.meaning), strict=True)
    }


def private_code(name: str) -> Code:
    """A code of our own scheme that tells names apart, of at most 16 characters."""
    value = name
    if not PLAIN_CODE.fullmatch(name):
        plain = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")
        value = f"{plain[:9]}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"
    return Code(PRIVATE_SCHEME, value, single_line(name, LONGEST_MEANING))


def single_line(text: str, longest: int) -> str:
    """The text without what separates values in DICOM, in at most `longest` characters."""
    return re.sub(r"[\x00-\x1f\x7f\\]+", " ", text).strip()[:longest].strip() or "?"


def _code(label: Label, group: str) -> Code | None:
    cells = [label.codes.get(f"{group}_{part}", "").strip() for part in PARTS]
    if not any(cells):
        return None
    if not all(cells):
        missing = ", ".join(
            f"{group}_{part}" for part, cell in zip(PARTS, cells, strict=True) if not cell
        )
        raise InputFault(
            f"label {label.name}: its {group} code lacks {missing}; a code has a scheme, a value "
            "and a meaning. Complete the label table, or leave all three empty.",
            code="E_TABLE",
        )
    scheme, value, meaning = cells
    return Code(scheme[:16], value, single_line(meaning, LONGEST_MEANING))
