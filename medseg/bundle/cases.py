"""Which files make up the cases that are to be predicted."""

import re
from collections.abc import Sequence
from pathlib import Path

from medseg.fault import InputFault, all_at_once
from medseg.io.nifti import is_nifti, stem

NUMBERED = re.compile(r"^(?P<case>.+)_(?P<channel>\d{4})$")


def find_cases(inputs: Sequence[Path], channels: Sequence[str]) -> dict[str, tuple[Path, ...]]:
    """Case names and their files, in the order of `channels` or one 4D (or only) file.

    Raises:
        InputFault: an input is not there, holds no NIfTI file, or a case lacks a channel or has
            one twice (E_CASES), all at once.
    """
    found: dict[str, tuple[Path, ...]] = {}
    faults: list[str] = []
    for given in inputs:
        for name, files in _groups(given, len(channels)).items():
            if name in found:
                faults.append(f"{name}: two inputs have this name.")
            try:
                found[name] = _ordered(name, files, channels)
            except InputFault as fault:
                faults.append(str(fault))
    if faults:
        raise all_at_once(faults, summary="The inputs cannot be used:", code="E_CASES")
    return found


def _groups(given: Path, channels: int) -> dict[str, list[Path]]:
    """The files of each case in one input."""
    if given.is_dir():
        files = sorted(path for path in given.iterdir() if is_nifti(path))
        folders = sorted(path for path in given.iterdir() if path.is_dir())
        if files and not (channels > 1 and not _are_numbered(files)):
            return _grouped(files, channels)
        if files:
            return {given.name: files}
        groups = {path.name: sorted(p for p in path.iterdir() if is_nifti(p)) for path in folders}
        groups = {name: paths for name, paths in groups.items() if paths}
        if groups:
            return groups
        raise InputFault(f"{given}: there is no NIfTI file in it.", code="E_NODATA")
    if not given.exists():
        raise InputFault(f"{given}: there is no such file or folder.", code="E_NOTFILE")
    return _grouped([given], channels)


def _are_numbered(files: Sequence[Path]) -> bool:
    return all(NUMBERED.match(stem(path)) for path in files)


def _grouped(files: Sequence[Path], channels: int) -> dict[str, list[Path]]:
    groups: dict[str, list[Path]] = {}
    for path in files:
        numbered = NUMBERED.match(stem(path))
        split = numbered is not None and (channels > 1 or numbered["channel"] == "0000")
        name = numbered["case"] if split and numbered else stem(path)
        groups.setdefault(name, []).append(path)
    return groups


def _ordered(name: str, files: Sequence[Path], channels: Sequence[str]) -> tuple[Path, ...]:
    if len(files) == 1:
        return tuple(files)
    if len(files) == len(channels) and _are_numbered(files):
        return tuple(sorted(files))
    chosen = []
    for channel in channels:
        ending = re.compile(rf"(?:^|[^a-z0-9]){re.escape(channel.lower())}$")
        fits = [path for path in files if ending.search(stem(path).lower())]
        if len(fits) != 1:
            shown = ", ".join(path.name for path in (fits or files))
            raise InputFault(
                f"{name}: channel {channel} is {'there more than once' if fits else 'missing'} "
                f"({shown}); name the files so that they end in {', '.join(channels)}, or "
                "_0000, _0001, ...",
                code="E_CASES",
            )
        chosen.append(fits[0])
    return tuple(chosen)
