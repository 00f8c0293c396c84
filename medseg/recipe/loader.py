"""A recipe file and overrides in, a checked Recipe out, or all their mistakes at once."""

import difflib
import json
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

from pydantic import TypeAdapter, ValidationError

from medseg.data.located import Located, read_located
from medseg.fault import InputFault, all_at_once
from medseg.recipe.faults import Path, mistakes
from medseg.recipe.recipe import Recipe
from medseg.recipe.rules import contradictions
from medseg.recipe.section import AUTO
from medseg.shipped import shipped_files, shipped_folder

AFTER_THE_FILE = 1_000_000
SWAPPED_BY_NAME = ("model", "loss", "optimizer", "schedule")


@dataclass
class Settings:
    """Raw settings, and where each of them was said."""

    value: dict[str, Any]
    place: str
    located: Located
    overridden: dict[tuple[str, ...], str] = field(default_factory=dict)

    def said_at(self, path: Path, because: Sequence[Path] = ()) -> tuple[int, str]:
        """`file:line`, or the override that set it, after a number to sort by.

        Where `path` contradicts settings `because` of which it is wrong, and only one of them was
        overridden, the override is what is told.
        """
        blamed = self._override_of(path)
        for other in because if blamed is None else ():
            blamed = self.overridden.get(other) if blamed is None else blamed
        if blamed is not None:
            return AFTER_THE_FILE + list(self.overridden.values()).index(blamed), blamed
        line = self.located.line(path)
        return line, f"{self.place}:{line}"

    def _override_of(self, path: Path) -> str | None:
        for length in range(len(path), 0, -1):
            if path[:length] in self.overridden:
                return self.overridden[path[:length]]
        if len(path) > 1 or (path and path not in self.located.lines):
            # An override below changed it, or made what the file does not have.
            inner = [key for key in self.overridden if key[: len(path)] == path]
            return self.overridden[inner[0]] if inner else None
        return None


def load_recipe(path: str | PathLike[str], overrides: Sequence[str] = ()) -> Recipe:
    """The recipe at `path` (or the shipped one of that name) with `key=value` overrides.

    `model=NAME` swaps the whole section for that name's defaults; so do loss, optimizer and
    schedule. List items go by their number. Later overrides win.

    Raises:
        InputFault: every mistake of file and overrides at once, each with its line (E_RECIPE), or
            a file that is no YAML (E_YAML).
    """
    located = read_located(_text_of(find_recipe(path)), place=str(path))
    settings = Settings(json.loads(json.dumps(located.value)), str(path), located)
    refused = [fault for text in overrides if (fault := _override(settings, text))]
    if settings.value.get("plan") == AUTO:
        settings.value["plan"] = {}
    recipe, told = _checked(settings)
    if recipe is not None and not refused:
        return recipe
    told = [text for _, text in sorted(told)] + refused
    summary = f"{path}: {len(told)} mistake{'s' if len(told) > 1 else ''} in the recipe:"
    raise all_at_once(told, summary=summary, code="E_RECIPE")


def _checked(settings: Settings) -> tuple[Recipe | None, list[tuple[int, str]]]:
    """The recipe, or what is wrong with it: in its settings, and between those that are sound."""
    try:
        return Recipe.model_validate_json(json.dumps(settings.value)), []
    except ValidationError as error:
        faults = [fault for fault in error.errors() if fault["loc"]]
    told = []
    for mistake in mistakes(faults, settings.value):
        order, place = settings.said_at(mistake.path)
        told.append((order, _sentence(f"{place}: {'.'.join(mistake.path)} {mistake.told}")))
    for found in contradictions(_sound_sections(settings.value, faults)):
        order, place = settings.said_at(found.path, found.because)
        told.append((order, _sentence(f"{place}: {'.'.join(found.path)}: {found.rule}")))
    return None, told


def _sound_sections(value: Mapping[str, Any], faults: Sequence[Any]) -> dict[str, Any]:
    unsound = {fault["loc"][0] for fault in faults}
    sound = {}
    for name, about in Recipe.model_fields.items():
        if name in unsound:
            continue
        if name in value:
            kind: Any = about.annotation
            sound[name] = TypeAdapter(kind).validate_json(json.dumps(value[name]))
        else:
            sound[name] = about.get_default()
    return sound


def _sentence(text: str) -> str:
    text = text.replace(":  ", ": ").removesuffix(".")
    return text if text.endswith("?") else f"{text}."


def find_recipe(path: str | PathLike[str]) -> pathlib.Path:
    """The file at `path`, or the shipped recipe of that name.

    Raises:
        InputFault: there is neither (E_RECIPE).
    """
    file = pathlib.Path(path)
    if file.is_file():
        return file
    shipped = {recipe.stem: recipe for recipe in shipped_files("recipes")}
    name = file.name.removesuffix(".yaml")
    if name in shipped and file.parent in (pathlib.Path(), pathlib.Path("recipes")):
        return shipped[name]
    near = difflib.get_close_matches(name, shipped, n=1)
    raise InputFault(
        f"{path}: there is no such recipe{f'; did you mean {near[0]}?' if near else ''} "
        f"(`medseg recipes` lists those of {shipped_folder('recipes')}).",
        code="E_RECIPE",
    )


def _text_of(file: pathlib.Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as fault:
        raise InputFault(f"{file}: it is no UTF-8 text ({fault}).", code="E_YAML") from fault


def _override(settings: Settings, text: str) -> str | None:
    """Put the override in its place; a sentence where that cannot be."""
    key, equals, written = text.partition("=")
    path = tuple(key.split("."))
    said = f"override {text}"
    if not equals or not all(path):
        return f"{said}: it is no key=value, such as optimizer.lr=1e-4."
    try:
        value = read_located(f"value: {written}", place=said).value["value"]
    except InputFault as fault:
        return f"{said}: {str(fault).partition(': ')[2]} Put the value in quotes."
    if len(path) == 1 and path[0] in SWAPPED_BY_NAME and isinstance(value, str):
        value = {"name": value}
    fault = _put(settings.value, path, value)
    if fault:
        return f"{said}: {fault}"
    # What was overridden below has been swapped away.
    for inner in [old for old in settings.overridden if old[: len(path)] == path]:
        del settings.overridden[inner]
    settings.overridden[path] = said
    return None


def _put(tree: Any, path: Path, value: Any) -> str | None:
    for depth, part in enumerate(path):
        outer = ".".join(path[:depth])
        if isinstance(tree, list):
            if not (part.isdecimal() and int(part) < len(tree)):
                return f"{outer} has items 0 to {len(tree) - 1}, no {part}."
            key: Any = int(part)
        elif isinstance(tree, dict):
            key = part
        else:
            return f"{outer} is the single value {tree!r} and has no {part}; set {outer} whole."
        if depth == len(path) - 1:
            tree[key] = value
        elif isinstance(tree, dict) and (tree.get(key) is None or tree[key] == AUTO):
            # A section that is left out, or left to the planner, begins empty.
            tree[key] = {}
        tree = tree[key]
    return None


def settings_of(recipe: Mapping[str, Any]) -> Recipe:
    """The recipe of a resolved mapping, such as a bundle holds."""
    return Recipe.model_validate_json(json.dumps(recipe))
