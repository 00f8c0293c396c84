"""What pydantic finds wrong with a recipe, as sentences: place, key, value, rule, nearest name."""

import difflib
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from medseg.recipe.recipe import Recipe

Where = Callable[[Sequence[str]], str]


def sentences(faults: Sequence[Any], value: Mapping[str, Any], where: Where) -> list[str]:
    """A sentence for each key at fault; alternatives of one key are joined."""
    told: dict[tuple[str, str], list[str]] = {}
    for fault in faults:
        path = _path(fault, value)
        key = ".".join(path)
        rule = _rule(fault, key, value)
        rules = told.setdefault((where(path), key), [])
        if rule not in rules:
            rules.append(rule)
    return [
        f"{place}: {f'{key} ' if key else ''}{_sentence(rules)}"
        for (place, key), rules in told.items()
    ]


def _sentence(rules: Sequence[str]) -> str:
    text = ", or ".join(rules)
    return text if text.endswith("?") else f"{text}."


def _path(fault: Any, value: Any) -> list[str]:
    """The keys of the fault's location that the file has; names of union members are dropped."""
    path: list[str] = []
    for part in fault["loc"] or _named_in(fault["msg"]):
        if _has(value, part):
            value = value[part]
            path.append(str(part))
    return path


def _named_in(message: str) -> list[str]:
    """The key that a rule between sections begins with: "plan.patch_size: ..."."""
    key = message.removeprefix("Value error, ").partition(": ")[0]
    return key.split(".") if key.replace(".", "").isidentifier() else []


def _has(value: Any, part: str | int) -> bool:
    if isinstance(value, list):
        return isinstance(part, int) and part < len(value)
    return isinstance(value, Mapping) and part in value


def _rule(fault: Any, key: str, value: Mapping[str, Any]) -> str:
    kind, context = fault["type"], fault.get("ctx", {})
    last = str(fault["loc"][-1]) if fault["loc"] else ""
    if kind == "extra_forbidden":
        owner, known = _owner(key, value)
        return f"is not a setting of {owner}{_nearest(last, known)}"
    if kind == "missing":
        return f"lacks {last}, which must be said"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        names = [name.strip(" '") for name in context.get("expected_tags", "").split(",")]
        tag = context.get("tag")
        if tag is None:
            names = [name for name in _tags(key) if name]
            return f"lacks its name, one of {', '.join(names)}"
        return f"is {tag!r}, which there is not{_nearest(tag, names)} (one of {', '.join(names)})"
    message = fault["msg"].removeprefix("Value error, ").removesuffix(".")
    if kind == "value_error":
        return message.removeprefix(f"{key}: ")
    return f"is {fault['input']!r}: {message[0].lower()}{message[1:]}"


def _owner(key: str, value: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Which section a stray key stands in, by the name users know, and the keys it may have."""
    outer = key.split(".")[:-1]
    if not outer:
        return "a recipe", list(Recipe.model_fields)
    section = value.get(outer[0])
    name = section.get("name", outer[0]) if isinstance(section, Mapping) else outer[0]
    for model in _sections(Recipe.model_fields[outer[0]].annotation):
        tag = model.model_fields.get("name")
        if tag is None or name in typing.get_args(tag.annotation):
            return str(name), list(model.model_fields)
    return str(name), []


def _tags(key: str) -> list[str]:
    field = Recipe.model_fields.get(key)
    return [
        str(typing.get_args(model.model_fields["name"].annotation)[0])
        for model in (_sections(field.annotation) if field else [])
    ]


def _sections(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated):
        return [model for part in typing.get_args(annotation) for model in _sections(part)]
    return []


def _nearest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"; did you mean {near[0]}?"
    return ""
