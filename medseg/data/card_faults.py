"""What pydantic finds wrong with a card, as sentences with file, line, key, value and rule."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from medseg.data.located import Located

UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
MISSING = ("missing", "missing_argument")


def sentences(
    faults: Sequence[Any], located: Located, keys_of: Mapping[str, Sequence[str]], *, place: str
) -> list[str]:
    """A sentence for each key at fault, in the order of the file.

    `keys_of` gives the keys that a section (by its name; "" is the card) may have.
    """
    told: dict[tuple[int, str], list[str]] = {}
    for fault in faults:
        path = _path_in_file(fault, located)
        rule = _rule(fault, keys_of)
        told.setdefault((located.line(path), ".".join(path)), []).append(rule)
    return [
        f"{place}:{line}: {key}{': ' if key else ''}{', or '.join(rules)}."
        for (line, key), rules in sorted(told.items())
    ]


def nearest(name: str, known: Sequence[str]) -> str:
    """The nearest of the known names, as a parenthesis; nothing where none is near."""
    near = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def _path_in_file(fault: Any, located: Located) -> tuple[str, ...]:
    """The fault's location less what is no key: names of types, and what is missing."""
    path: tuple[str, ...] = ()
    for part in map(str, fault["loc"]):
        if (*path, part) in located.lines:
            path = (*path, part)
    return path


def _rule(fault: Any, keys_of: Mapping[str, Sequence[str]]) -> str:
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "value_error":
        return message.removesuffix(".")
    *outer, last = fault["loc"]
    if fault["type"] in UNKNOWN:
        sections = [str(part) for part in outer if str(part) in keys_of]
        known = keys_of[sections[-1] if sections else ""]
        return f"this key is unknown{nearest(str(last), known)}"
    if fault["type"] in MISSING:
        return "an item is missing" if isinstance(last, int) else f"{last} is missing"
    return f"{fault['input']!r}: {message[0].lower()}{message[1:]}"
