"""A YAML file whose every value knows its line, so that what is wrong with it can be pointed at."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from medseg.fault import InputFault

Place = tuple[str, ...]

DEEPEST = 32
MOST_ALIASES = 100
MOST_NODES = 20_000
MOST_DIGITS = 18


class Loader(yaml.SafeLoader):
    """YAML 1.2's core types: `1e-4` is a number, and `no`, `on` and dates are text.

    Whole numbers are decimal, `010` is ten. Octal and hexadecimal ones stay text.
    """

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


for _tag, _pattern, _first in (
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"^[-+]?[0-9]+$", list("-+0123456789")),
    (
        "float",
        r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$",
        list("-+0123456789."),
    ),
):
    Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)


def _whole(_loader: Loader, node: yaml.ScalarNode) -> int:
    if len(node.value) > MOST_DIGITS:
        problem = f"a number of more than {MOST_DIGITS} digits"
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
    return int(node.value)


Loader.add_constructor("tag:yaml.org,2002:int", _whole)


@dataclass(frozen=True)
class Located:
    """The mapping of a YAML file, and the line of each key and item by its path."""

    value: Mapping[str, Any]
    lines: Mapping[Place, int]

    def line(self, path: Sequence[str | int]) -> int:
        """The line of the value at `path`, or of the nearest thing around it that is there."""
        keys = tuple(str(part) for part in path)
        while keys and keys not in self.lines:
            keys = keys[:-1]
        return self.lines.get(keys, 1)


def read_located(text: str, *, place: str) -> Located:
    """The mapping in `text`; `place` (a file name) stands in front of what is wrong with it.

    Raises:
        InputFault: `text` is no YAML, no mapping, has tags, a key stands twice (all of them are
            told), or it nests deeper than 32 levels or repeats more than 100 anchors.
    """
    try:
        # The loader itself refuses control characters.
        loader = Loader(text)
        node = loader.get_single_node()
        _refuse_tags_and_bombs(text, node, place)
        lines: dict[Place, int] = {}
        twice = list(_walk(node, (), lines, place))
        if twice:
            raise InputFault("\n".join(twice), code="E_YAML")
        value = loader.construct_document(node) if node else None
    except yaml.MarkedYAMLError as fault:
        line = fault.problem_mark.line + 1 if fault.problem_mark else 1
        raise InputFault(f"{place}:{line}: not YAML: {fault.problem}.", code="E_YAML") from fault
    except yaml.YAMLError as fault:
        raise InputFault(f"{place}: not YAML: {fault}.", code="E_YAML") from fault
    if not isinstance(value, dict):
        raise InputFault(f"{place}: it holds no `key: value` lines.", code="E_YAML")
    return Located(value, lines)


def _walk(
    node: yaml.Node | None, path: Place, lines: dict[Place, int], place: str
) -> Iterator[str]:
    """Fill in `lines`; yields a sentence for each key that stands twice."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*path, str(key.value))
            line = key.start_mark.line + 1
            if inner in lines:
                yield (
                    f"{place}:{line}: {key.value} stands twice (first in line {lines[inner]}); "
                    "keep one."
                )
                continue
            lines[inner] = line
            yield from _walk(value, inner, lines, place)
    elif isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            lines[(*path, str(number))] = item.start_mark.line + 1
            yield from _walk(item, (*path, str(number)), lines, place)


def _refuse_tags_and_bombs(text: str, node: yaml.Node | None, place: str) -> None:
    aliases = 0
    for event in yaml.parse(text, Loader):
        aliases += isinstance(event, yaml.AliasEvent)
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise InputFault(
                f"{place}:{event.start_mark.line + 1}: not YAML of plain values: leave out the "
                f"tag {tag}.",
                code="E_YAML",
            )
    if aliases > MOST_ALIASES:
        raise InputFault(
            f"{place}: {aliases} aliases; at most {MOST_ALIASES} are read. Write values out.",
            code="E_YAML",
        )
    level, depth, nodes = [node] if node else [], 0, 0
    while level:
        depth, nodes = depth + 1, nodes + len(level)
        if depth > DEEPEST or nodes > MOST_NODES:
            raise InputFault(
                f"{place}: nested deeper than {DEEPEST} levels, or more than {MOST_NODES} values "
                "once its aliases are written out; write it flatter.",
                code="E_YAML",
            )
        level = [child for parent in level for child in _children(parent)]


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [value for _, value in node.value]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []
