"""A YAML file whose every value knows its line, so that what is wrong with it can be pointed at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from medseg.fault import InputFault

Place = tuple[str, ...]


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
        InputFault: `text` is no YAML, no mapping, or a key stands twice.
    """
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        lines: dict[Place, int] = {}
        _walk(node, (), lines, place)
        value = loader.construct_document(node) if node else None
    except yaml.MarkedYAMLError as fault:
        line = fault.problem_mark.line + 1 if fault.problem_mark else 1
        raise InputFault(f"{place}:{line}: not YAML: {fault.problem}.", code="E_YAML") from fault
    finally:
        loader.dispose()
    if not isinstance(value, dict):
        raise InputFault(f"{place}: it holds no `key: value` lines.", code="E_YAML")
    return Located(value, lines)


def _walk(node: yaml.Node | None, path: Place, lines: dict[Place, int], place: str) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*path, str(key.value))
            line = key.start_mark.line + 1
            if inner in lines:
                raise InputFault(
                    f"{place}:{line}: {key.value} stands twice (first in line {lines[inner]}); "
                    "keep one.",
                    code="E_YAML",
                )
            lines[inner] = line
            _walk(value, inner, lines, place)
    elif isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            lines[(*path, str(number))] = item.start_mark.line + 1
            _walk(item, (*path, str(number)), lines, place)
