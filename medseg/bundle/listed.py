"""Inputs that are not named one by one: patterns, and files that list them."""

import csv
import glob
import io
from collections.abc import Sequence
from pathlib import Path

from medseg.bundle.cases import Reading
from medseg.bundle.inputs import Case, NiftiCase, UnusableCase
from medseg.fault import InputFault

MAGIC = frozenset("*?[")
COMMENT = "#"


def expanded(words: Sequence[str], *, within: Path | None = None) -> list[Path]:
    """The paths that `words` name; one with *, ** or ? that is no file's name is a pattern.

    Raises:
        InputFault: a pattern that nothing fits (E_NOTFILE).
    """
    paths: dict[Path, None] = {}
    for word in words:
        path = within / word if within else Path(word)
        if not MAGIC & set(word) or path.exists():
            paths[path] = None
            continue
        fits = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207  # ** with files
        if not fits:
            raise InputFault(f"{word}: no file or folder fits this pattern.", code="E_NOTFILE")
        paths.update(dict.fromkeys(map(Path, fits)))
    return list(paths)


def listed(
    file: Path, channels: Sequence[str], reading: Reading
) -> tuple[list[Path], dict[str, Case]]:
    """What a list names: inputs as on the command line, and cases with their files.

    A text has an input a line; a table (CSV) has a column `case` and one a channel, in any order.
    Paths are relative to the list. A line that begins with # is a comment.

    Raises:
        InputFault: the list cannot be read (E_NOTFILE, E_LIST).
    """
    try:
        text = file.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise InputFault(
            f"{file}: the list cannot be read ({reason}); name a text file with an input a line.",
            code="E_NOTFILE" if isinstance(error, FileNotFoundError) else "E_LIST",
        ) from error
    lines = [line for line in text.splitlines() if line.strip() and not _is_comment(line)]
    if not lines:
        raise InputFault(f"{file}: there is no input in the list.", code="E_LIST")
    if "case" in [cell.strip() for cell in lines[0].split(",")]:
        return [], _table(file, lines, channels, reading)
    return expanded([line.strip() for line in lines], within=file.parent), {}


def _is_comment(line: str) -> bool:
    return line.lstrip().startswith(COMMENT)


def _table(
    file: Path, lines: Sequence[str], channels: Sequence[str], reading: Reading
) -> dict[str, Case]:
    rows = csv.DictReader(io.StringIO("\n".join(lines), newline=""), skipinitialspace=True)
    columns = [(name or "").strip() for name in rows.fieldnames or ()]
    rows.fieldnames = columns
    missing = [channel for channel in channels if channel not in columns]
    if missing:
        raise InputFault(
            f"{file}: it has no column {', '.join(missing)}; the columns are case, "
            f"{', '.join(channels)}.",
            code="E_LIST",
        )
    cases: dict[str, Case] = {}
    for row in rows:
        name = (row["case"] or "").strip()
        if not name or name in cases or Path(name).name != name or name.startswith("."):
            raise InputFault(
                f"{file}: case {name!r} is empty, there twice, or no name of a file; give each "
                "case a name of its own.",
                code="E_LIST",
            )
        cases[name] = _case(
            file, name, [(row[channel] or "").strip() for channel in channels], reading
        )
    return cases


def _case(file: Path, name: str, cells: Sequence[str], reading: Reading) -> Case:
    paths = tuple(file.parent / cell for cell in cells)
    lost = [path for path, cell in zip(paths, cells, strict=True) if not cell or not path.is_file()]
    if lost:
        fault = f"{name}: {lost[0]}, named in {file}, is no file."
        return UnusableCase(InputFault(fault, code="E_NOTFILE"))
    return NiftiCase(paths, reading.form)
