"""The layout `folder`: files found by patterns with the placeholder `{case}`.

`*` stands for anything within a name, `**/` for any number of folders, `{case}` for the case; where
it stands twice it is the same. A pattern that ends in .nii.gz finds .nii as well, and the reverse.
Hidden files (such as the `._x.nii.gz` of macOS archives) are passed over.
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from medseg.data.card import Card, Files, alternatives
from medseg.data.layouts.found import Found, FoundCase

LABEL = "label"
TOKEN = re.compile(r"\{case\}|\*\*/|\*|\.nii(?:\.gz)?$|[^*{.]+|.")

Matches = Mapping[str, Mapping[str, list[str]]]


def find(card: Card, root: Path, *, labeled: bool) -> Found:
    """The cases whose files match the card's patterns under `root`."""
    assert card.files is not None, "the card's own check asks for files"
    assert card.channels is not None, "the card's own check asks for channels"
    assert card.labels is not None, "the card's own check asks for labels"
    roles = _roles(card.files, card.channels, labeled=labeled)
    matches = _match(roles, card.files.case, _paths_under(root))
    ids = sorted({case for by_case in matches.values() for case in by_case})
    faults = [fault for case in ids for fault in _case_faults(case, roles, matches)]
    cases = tuple(_case(case, roles, matches, root) for case in ids) if not faults else ()
    return Found(card.channels, card.labels, card.regions, cases, tuple(faults))


def place(card: Card, root: Path, case: str) -> FoundCase:
    """Where the files of a new case belong: the first of each role's patterns."""
    assert card.files is not None, "the card's own check asks for files"
    assert card.channels is not None, "the card's own check asks for channels"
    roles = _roles(card.files, card.channels, labeled=True)
    paths = {role: _placed(patterns[0], root, case) for role, patterns in roles.items()}
    label = paths.pop(LABEL)
    return FoundCase(case, tuple(paths.values()), label)


def pattern_regex(pattern: str, case: str) -> re.Pattern[str]:
    """The regular expression of a pattern; its group `case` is the case's name."""
    parts, seen = [], False
    for token in TOKEN.findall(pattern):
        if token == "{case}":
            parts.append("(?P=case)" if seen else f"(?P<case>{case})")
            seen = True
        elif token == "**/":
            parts.append("(?:[^/]+/)*")
        elif token == "*":
            parts.append("[^/]*")
        elif token in (".nii", ".nii.gz"):
            parts.append(r"\.nii(?:\.gz)?")
        else:
            parts.append(re.escape(token))
    return re.compile("".join(parts))


def _roles(files: Files, channels: tuple[str, ...], *, labeled: bool) -> dict[str, tuple[str, ...]]:
    """The patterns of each channel in their order (or of the one 4D image), then of the label."""
    if isinstance(files.images, dict):
        roles = {f"channel {name}": alternatives(files.images[name]) for name in channels}
    else:
        roles = {"image": alternatives(files.images)}
    return {**roles, LABEL: alternatives(files.label)} if labeled else roles


def _paths_under(root: Path) -> list[str]:
    """Every file under `root`, relative to it, sorted; hidden files and folders left out."""
    paths = []
    for folder, inner, names in os.walk(root, followlinks=True):
        inner[:] = [name for name in inner if not name.startswith(".")]
        base = PurePosixPath(Path(folder).relative_to(root).as_posix())
        paths += [str(base / name) for name in names if not name.startswith(".")]
    return sorted(paths)


def _match(
    roles: Mapping[str, tuple[str, ...]], case: str, paths: Iterable[str]
) -> dict[str, dict[str, list[str]]]:
    """For each role and case the files that match."""
    regexes = [
        (role, pattern_regex(pattern, case))
        for role, patterns in roles.items()
        for pattern in patterns
    ]
    matches: dict[str, dict[str, list[str]]] = {role: defaultdict(list) for role in roles}
    for path in paths:
        for role, regex in regexes:
            found = regex.fullmatch(path)
            if found and path not in matches[role][found["case"]]:
                matches[role][found["case"]].append(path)
    return matches


def _case_faults(case: str, roles: Mapping[str, tuple[str, ...]], matches: Matches) -> list[str]:
    faults = []
    for role, patterns in roles.items():
        files = matches[role].get(case, [])
        if not files:
            wanted = " or ".join(pattern.replace("{case}", case) for pattern in patterns)
            faults.append(f"{case}: no {role} ({wanted}).")
        if len(files) > 1:
            faults.append(f"{case}: {role} stands twice ({', '.join(files)}); keep one.")
    return faults


def _case(
    case: str, roles: Mapping[str, tuple[str, ...]], matches: Matches, root: Path
) -> FoundCase:
    files = {role: root / matches[role][case][0] for role in roles}
    label = files.pop(LABEL, None)
    return FoundCase(case, tuple(files.values()), label)


def _placed(pattern: str, root: Path, case: str) -> Path:
    return root / pattern.replace("**/", "").replace("{case}", case).replace("*", "")
