"""Values of header elements as they are needed, whatever a file holds in their place."""

import logging
import math
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError

from medseg.fault import InputFault

# What pydicom raises on damaged bytes; nothing of it is a fault of ours.
DAMAGE = (
    BytesLengthException,
    InvalidDicomError,
    EOFError,
    KeyError,
    IndexError,
    ValueError,
    TypeError,
    AttributeError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    struct.error,
)
Numbers = tuple[float, ...]


@contextmanager
def quietly() -> Iterator[None]:
    """Without pydicom's warnings and log lines: they quote what stands in the header."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def numbers(part: Dataset, name: str, count: int) -> Numbers | None:
    """The finite numbers of an element, None where it is absent or empty.

    Raises:
        InputFault: there are more or fewer, or one is not finite (E_DICOM).
    """
    value = part.get(name)
    if value is None or value == "":
        return None
    values = [value] if isinstance(value, int | float | str) else list(value)
    found = tuple(float(number) for number in values)
    if len(found) != count or not all(math.isfinite(number) for number in found):
        raise InputFault(
            f"{name} is {list(found)}; {count} finite numbers are expected.", code="E_DICOM"
        )
    return found


def whole(header: Dataset, name: str) -> int:
    """A whole number of 1 or more.

    Raises:
        InputFault: it is less, or absent (E_DICOM).
    """
    value = int(header.get(name) or 0)
    if value < 1:
        raise InputFault(f"{name} is {value}; it is 1 or more.", code="E_DICOM")
    return value


def text_of(part: Dataset, name: str) -> str:
    """The element as text, its values parted by backslashes; "" where it is absent."""
    value = part.get(name)
    if value is None:
        return ""
    if isinstance(value, str | int | float):
        return str(value).strip()
    return "\\".join(str(one) for one in value)
