"""A recipe file and overrides in, a checked Recipe out, or all their mistakes at once."""

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from medseg.data.located import Located, read_located
from medseg.fault import InputFault, all_at_once
from medseg.recipe.faults import sentences
from medseg.recipe.recipe import Recipe
from medseg.recipe.section import AUTO
from medseg.shipped import shipped_files, shipped_folder

SWAPPED_BY_NAME = ("model", "loss", "optimizer", "schedule")


@dataclass
class Settings:
    """Raw settings, and where each of them was said."""

    value: dict[str, Any]
    place: str
    located: Located
    overridden: dict[tuple[str, ...], str] = field(default_factory=dict)

    def said_at(self, path: Sequence[str]) -> str:
        """`file:line`, or the override that set it."""
        for length in range(len(path), 0, -1):
            override = self.overridden.get(tuple(path[:length]))
            if override is not None:
                return f"override {override}"
        return f"{self.place}:{self.located.line(path)}"


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe at `path` (or the shipped one of that name) with `key=value` overrides.

    `model=NAME` swaps the whole section for that name's defaults; so do loss, optimizer and
    schedule. List items go by their number.

    Raises:
        InputFault: every mistake of file and overrides at once, each with its line (E_RECIPE).
    """
    file = find_recipe(path)
    located = read_located(file.read_text(encoding="utf-8"), place=str(path))
    settings = Settings(json.loads(json.dumps(located.value, default=str)), str(path), located)
    faults = [fault for text in overrides if (fault := _override(settings, text))]
    if settings.value.get("plan") == AUTO:
        settings.value["plan"] = {}
    try:
        recipe = Recipe.model_validate_json(json.dumps(settings.value))
    except ValidationError as error:
        faults += sentences(error.errors(), settings.value, settings.said_at)
    else:
        if not faults:
            return recipe
    summary = f"{path}: {len(faults)} mistake{'s' if len(faults) > 1 else ''} in the recipe:"
    raise all_at_once(faults, summary=summary, code="E_RECIPE")


def find_recipe(path: str | Path) -> Path:
    """The file at `path`, or the shipped recipe of that name.

    Raises:
        InputFault: there is neither (E_RECIPE).
    """
    file = Path(path)
    if file.is_file():
        return file
    shipped = {recipe.stem: recipe for recipe in shipped_files("recipes")}
    name = file.name.removesuffix(".yaml")
    if name in shipped and file.parent in (Path(), Path("recipes")):
        return shipped[name]
    near = difflib.get_close_matches(name, shipped, n=1)
    raise InputFault(
        f"{path}: there is no such recipe{f'; did you mean {near[0]}?' if near else ''} "
        f"(`medseg recipes` lists those of {shipped_folder('recipes')}).",
        code="E_RECIPE",
    )


def _override(settings: Settings, text: str) -> str | None:
    key, equals, written = text.partition("=")
    path = tuple(key.split("."))
    if not equals or not all(path):
        return f"override {text}: it is no key=value, such as optimizer.lr=1e-4."
    try:
        value = read_located(f"value: {written}", place=f"override {text}").value["value"]
    except InputFault:
        return f"override {text}: the value {written!r} is not YAML; quote it."
    if len(path) == 1 and path[0] in SWAPPED_BY_NAME and isinstance(value, str):
        value = {"name": value}
    fault = _put(settings.value, path, value)
    if fault:
        return f"override {text}: {fault}"
    settings.overridden[path] = text
    return None


def _put(tree: Any, path: tuple[str, ...], value: Any) -> str | None:
    for depth, part in enumerate(path[:-1]):
        if isinstance(tree, list):
            place = _place(tree, part)
            if place is None:
                return f"{'.'.join(path[:depth])} has items 0 to {len(tree) - 1}, no {part}."
            tree = tree[place]
        elif isinstance(tree, dict):
            # A section that is left out, or is a single word (`plan: auto`), begins empty.
            if not isinstance(tree.get(part), dict | list):
                tree[part] = {}
            tree = tree[part]
    if isinstance(tree, list):
        place = _place(tree, path[-1])
        if place is None:
            return f"{'.'.join(path[:-1])} has items 0 to {len(tree) - 1}, no {path[-1]}."
        tree[place] = value
    elif isinstance(tree, dict):
        tree[path[-1]] = value
    else:
        return f"{'.'.join(path[:-1])} is a single value and has no {path[-1]}."
    return None


def _place(items: list[Any], part: str) -> int | None:
    return int(part) if part.isdigit() and int(part) < len(items) else None


def settings_of(recipe: Mapping[str, Any]) -> Recipe:
    """The recipe of a resolved mapping, such as a bundle holds."""
    return Recipe.model_validate_json(json.dumps(recipe))
