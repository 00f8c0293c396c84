"""What pydantic finds wrong with a recipe, in words: the value, the rule, the nearest name."""

import difflib
import json
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from medseg.recipe.recipe import Recipe

Path = tuple[str, ...]

NEEDED = {
    "int_type": "a whole number is needed",
    "int_from_float": "a whole number is needed",
    "float_type": "a number is needed",
    "finite_number": "a finite number is needed",
    "bool_type": "true or false is needed",
    "string_type": "text is needed (put it in quotes)",
    "tuple_type": "a list is needed",
    "list_type": "a list is needed",
    "model_type": "a section (`key: value`) is needed",
    "model_attributes_type": "a section (`key: value`) is needed",
    "dict_type": "a section (`key: value`) is needed",
    "greater_than": "it must be above {gt}",
    "greater_than_equal": "it must be at least {ge}",
    "less_than": "it must be below {lt}",
    "less_than_equal": "it must be at most {le}",
    "multiple_of": "it must be a multiple of {multiple_of}",
    "too_short": "at least {min_length} items are needed",
    "too_long": "at most {max_length} items are taken",
}
SECTION_NEEDED = ("model_type", "model_attributes_type", "dict_type")
LONGEST_SHOWN = 60


@dataclass(frozen=True)
class Mistake:
    """What is wrong with the setting at `path`, told as the end of a sentence."""

    path: Path
    told: str


def mistakes(faults: Sequence[Any], value: Mapping[str, Any]) -> Iterator[Mistake]:
    """One for each setting at fault in `value`; the alternatives of one setting are joined."""
    groups: dict[Path, list[Any]] = {}
    for fault in faults:
        groups.setdefault(_path(fault, value), []).append(fault)
    for path, group in groups.items():
        deeper = any(len(other) > len(path) and other[: len(path)] == path for other in groups)
        told = _told(path, _telling(group, deeper=deeper), value)
        if told:
            yield Mistake(path, told)


def _path(fault: Any, value: Any) -> Path:
    """The keys of the fault's location that the file has; names of union members are dropped."""
    path: Path = ()
    for part in fault["loc"]:
        if _has(value, part):
            value = value[part]
            path = (*path, str(part))
    return path


def _has(value: Any, part: str | int) -> bool:
    if isinstance(value, list):
        return isinstance(part, int) and part < len(value)
    return isinstance(value, Mapping) and part in value


def _telling(group: Sequence[Any], *, deeper: bool) -> Sequence[Any]:
    """The group without the words it might have been, where it plainly was to be something else."""
    others = [fault for fault in group if fault["type"] != "literal_error"]
    is_word = any(isinstance(fault["input"], str) for fault in group)
    return group if is_word or not (others or deeper) else others


def _told(path: Path, group: Sequence[Any], value: Mapping[str, Any]) -> str:
    if not group:
        return ""
    first = group[0]
    if first["type"] == "extra_forbidden":
        return f"is not a setting of {_unknown(path, value)}"
    if first["type"] == "missing":
        return _lacking(path, [fault["loc"][-1] for fault in group if fault["type"] == "missing"])
    if first["type"] in ("union_tag_invalid", "union_tag_not_found"):
        return _unnamed(path, first)
    if first["type"] == "value_error":
        return f"is {_shown(first['input'])}: {_message(first)}"
    if first["type"] == "string_pattern_mismatch":
        return f"is {_shown(first['input'])}, which does not fit. {_description(path, value)}"
    needs = list(dict.fromkeys(_need(path, fault) for fault in group))
    words = [word for fault in group for word in _words(fault)]
    near = _nearest(first["input"], words) if isinstance(first["input"], str) else ""
    return f"is {_shown(first['input'])}: {', or '.join(needs)}{near}"


def _need(path: Path, fault: Any) -> str:
    kind = fault["type"]
    if kind == "literal_error":
        *most, last = _words(fault)
        return f"it must be {', '.join(most)}{' or ' if most else ''}{last}"
    needed = NEEDED.get(kind)
    if needed is None:
        return _message(fault)
    if kind in SECTION_NEEDED and isinstance(fault["input"], str) and len(path) == 1:
        tags = _tags(path[0])
        near = difflib.get_close_matches(fault["input"], tags, n=1) or tags[:1]
        such = f", such as {{name: {near[0]}}}" if near else ""
        return f"a section is needed{such}{', or auto' if path == ('plan',) else ''}"
    return needed.format(**fault.get("ctx", {}))


def _words(fault: Any) -> list[str]:
    if fault["type"] != "literal_error":
        return []
    return [word.strip("'") for word in re.split(r", | or ", fault["ctx"]["expected"])]


def _message(fault: Any) -> str:
    message = fault["msg"].removeprefix("Value error, ").removesuffix(".")
    return f"{message[0].lower()}{message[1:]}"


def _lacking(path: Path, names: Sequence[str | int]) -> str:
    places = [name for name in names if isinstance(name, int)]
    if places:
        return f"has {places[0]} items: {places[-1] + 1} are needed"
    tags = {} if path else {str(name): _tags(str(name)) for name in names}
    such = [f"{name}: {{name: {known[0]}}}" for name, known in tags.items() if known]
    example = f", such as {', '.join(such)}" if such else ""
    return f"lacks {', '.join(map(str, names))}, which must be said{example}"


def _unnamed(path: Path, fault: Any) -> str:
    names, tag = _tags(path[0]), fault["ctx"].get("tag")
    if tag is None:
        return f"lacks its name, one of {', '.join(names)}"
    near = _nearest(tag, names)
    return f"is {tag!r}, which there is not (there are {', '.join(names)}){near}"


def _unknown(path: Path, value: Mapping[str, Any]) -> str:
    """What a stray key is no setting of, and what may have been meant."""
    *outer, last = path
    owners = _sections_at(outer, value)
    known = [name for owner in owners for name in owner.model_fields]
    near = _nearest(last, known)
    if not near and outer:
        elsewhere = [
            f"{name}.{last}"
            for name in Recipe.model_fields
            if any(last in section.model_fields for section in _sections_at([name], value))
        ]
        near = f"; there is {' and '.join(elsewhere)}" if elsewhere else ""
    return f"{_title(outer, value)}{near}"


def _title(path: Sequence[str], value: Mapping[str, Any]) -> str:
    inside: Any = value
    for part in path:
        inside = inside[int(part) if isinstance(inside, list) else part]
    if not path:
        return "a recipe"
    name = inside.get("name") if isinstance(inside, Mapping) else None
    return name if isinstance(name, str) else ".".join(path)


def _sections_at(path: Sequence[str], value: Any) -> list[type[BaseModel]]:
    """The classes a section at `path` may have; by its name, where it has one."""
    classes: list[type[BaseModel]] = [Recipe]
    for part in path:
        fields = [c.model_fields[part].annotation for c in classes if part in c.model_fields]
        classes = [found for annotation in fields for found in _sections(annotation)]
        value = value.get(part) if isinstance(value, Mapping) else None
    name = value.get("name") if isinstance(value, Mapping) else None
    named = [c for c in classes if "name" in c.model_fields and name in _names(c)]
    return named or classes


def _sections(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated):
        return [found for part in typing.get_args(annotation) for found in _sections(part)]
    return []


def _description(path: Path, value: Mapping[str, Any]) -> str:
    fields = [
        section.model_fields[path[-1]]
        for section in _sections_at(path[:-1], value)
        if path[-1] in section.model_fields
    ]
    return " ".join(field.description or "" for field in fields)


def _tags(key: str) -> list[str]:
    """The names that the section `key` may have."""
    sections = _sections(Recipe.model_fields[key].annotation) if key in Recipe.model_fields else []
    return [name for section in sections for name in _names(section)]


def _names(section: type[BaseModel]) -> list[str]:
    field = section.model_fields.get("name")
    return list(typing.get_args(field.annotation)) if field else []


def _nearest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."
