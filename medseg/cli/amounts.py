"""What a person writes for an amount: 8GB, 1h30m, i,j, 0,2."""

import re

from medseg.fault import InputFault

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
BINARY = {"KI": 1 << 10, "MI": 1 << 20, "GI": 1 << 30, "TI": 1 << 40}
SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0}
AXES = {"i": 0, "j": 1, "k": 2}


def size_bytes(option: str, text: str) -> int:
    """The bytes of 8GB, 512MB, 4G or 2GiB.

    Raises:
        InputFault: it is no size (E_USE).
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?I?)B?", text.strip().upper())
    factor = match and (UNITS | BINARY).get(match[2])
    if not match or not factor or float(match[1]) * factor < 1:
        raise InputFault(f"{option} {text}: write a size as 8GB or 512MB.", code="E_USE")
    return int(float(match[1]) * factor)


def duration_s(option: str, text: str) -> float:
    """The seconds of 30m, 1h30m or 90s.

    Raises:
        InputFault: it is no duration (E_USE).
    """
    parts = re.findall(r"([0-9]+(?:\.[0-9]+)?)([hms])", text)
    seconds = sum(float(number) * SECONDS[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != text.strip() or seconds <= 0:
        raise InputFault(f"{option} {text}: write a time as 90s, 30m or 1h30m.", code="E_USE")
    return seconds


def axes(option: str, text: str) -> tuple[int, ...]:
    """The axes of all, none, or a choice as i,j.

    Raises:
        InputFault: it is no choice of axes (E_USE).
    """
    if text in ("all", "none"):
        return (0, 1, 2) if text == "all" else ()
    names = [name.strip() for name in text.split(",")]
    if not set(names) <= set(AXES):
        raise InputFault(
            f"{option} {text}: it is all, none, or some of i (left to right), j (back to front) "
            "and k (feet to head), with commas.",
            code="E_USE",
        )
    return tuple(sorted({AXES[name] for name in names}))


def numbers(option: str, text: str) -> tuple[int, ...] | None:
    """The numbers of 0,2; None for all.

    Raises:
        InputFault: they are no numbers (E_USE).
    """
    if text == "all":
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise InputFault(f"{option} {text}: write numbers as 0,2, or all.", code="E_USE")
    return tuple(sorted({int(part) for part in parts}))
