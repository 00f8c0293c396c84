"""Which cases the inputs of a prediction hold, and which files or series make up each."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medseg.bundle.inputs import Case, DicomCase, NiftiCase
from medseg.fault import InputFault, all_at_once
from medseg.io.dicom.channels import ChannelRules
from medseg.io.dicom.series import Series, find_series
from medseg.io.dicom.sources import dicom_files
from medseg.io.nifti import is_nifti, stem

NUMBERED = re.compile(r"^(?P<case>.+)_(?P<channel>\d{4})$")
UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Reading:
    """How inputs are read: see `NiftiCase` and `DicomCase`."""

    form: Literal["sform", "qform"] | None = None
    series: tuple[str, ...] = ()
    repair: bool = True


@contextmanager
def found_cases(
    inputs: Sequence[Path],
    channels: Sequence[str],
    *,
    rules: ChannelRules | None = None,
    reading: Reading | None = None,
) -> Iterator[dict[str, Case]]:
    """Case names and how each is read; what was unpacked for them lasts as long as the block.

    Raises:
        InputFault: an input is not there, holds neither NIfTI nor DICOM, or a NIfTI case lacks a
            channel or has one twice (E_CASES), all at once; a single one with its own code.
    """
    reading = reading or Reading()
    found: dict[str, Case] = {}
    faults: list[str] = []
    codes: list[str] = []
    with ExitStack() as unpacked:
        for given in _together(inputs):
            try:
                cases = (
                    _nifti_cases(given, channels, reading, faults)
                    if _is_nifti_input(given[0])
                    else _dicom_cases(given, rules or {}, reading, unpacked)
                )
            except InputFault as fault:
                faults.append(str(fault))
                codes.append(fault.code)
                continue
            faults += [f"{name}: two inputs have this name." for name in cases if name in found]
            found |= cases
        if faults:
            code = codes[0] if len(codes) == len(faults) == 1 else "E_CASES"
            raise all_at_once(faults, summary="The inputs cannot be used:", code=code)
        yield found


def _together(inputs: Sequence[Path]) -> list[tuple[Path, ...]]:
    """Inputs that are looked at as one: NIfTI files together, and files of DICOM slices."""
    alone: list[tuple[Path, ...]] = []
    nifti: list[Path] = []
    slices: list[Path] = []
    for given in inputs:
        if not given.is_file():
            alone.append((given,))
        elif is_nifti(given):
            nifti.append(given)
        elif given.suffix.lower() == ".zip" or given.name.upper() == "DICOMDIR":
            alone.append((given,))
        else:
            slices.append(given)
    return [*alone, *(tuple(files) for files in (nifti, slices) if files)]


def _is_nifti_input(given: Path) -> bool:
    if not given.is_dir():
        return is_nifti(given) and given.exists()
    return any(is_nifti(path) for path in (*given.glob("*"), *given.glob("*/*")))


def _nifti_cases(
    given: tuple[Path, ...], channels: Sequence[str], reading: Reading, faults: list[str]
) -> dict[str, Case]:
    cases: dict[str, Case] = {}
    for name, files in _groups_of(given, len(channels)):
        if name in cases:
            faults.append(f"{name}: two inputs have this name.")
        try:
            cases[name] = NiftiCase(_ordered(name, files, channels), reading.form)
        except InputFault as fault:
            faults.append(str(fault))
    return cases


def _dicom_cases(
    given: tuple[Path, ...], rules: ChannelRules, reading: Reading, unpacked: ExitStack
) -> dict[str, Case]:
    """A case a study. Names are those of folders, never of what the headers say."""
    if not given[0].exists():
        raise InputFault(f"{given[0]}: there is no such file or folder.", code="E_NOTFILE")
    files = unpacked.enter_context(dicom_files(given))
    if not files:
        raise InputFault(f"{given[0]}: there is no NIfTI or DICOM file in it.", code="E_NODATA")
    studies: dict[str, list[Series]] = {}
    for series in find_series(files):
        studies.setdefault(series.study_uid, []).append(series)
    groups = list(studies.values())
    place = given[0] if len(given) == 1 else Path(os.path.commonpath([f.parent for f in given]))
    names = [_study_name(place, group, alone=len(groups) == 1) for group in groups]
    counts, seen = Counter(names), Counter[str]()
    cases: dict[str, Case] = {}
    for name, group in zip(names, groups, strict=True):
        seen[name] += 1
        unique = f"{name}-{seen[name]}" if counts[name] > 1 else name
        cases[unique] = DicomCase(tuple(group), rules, reading.series, reading.repair)
    return cases


def _study_name(given: Path, study: Sequence[Series], *, alone: bool) -> str:
    if alone or not given.is_dir():
        name = given.resolve().name if given.is_dir() else given.stem
    else:
        common = Path(os.path.commonpath([series.folder for series in study]))
        name = "_".join(common.relative_to(given).parts) or given.resolve().name
    return UNSAFE.sub("_", name).strip(".") or "case"


def _groups_of(given: tuple[Path, ...], channels: int) -> Iterator[tuple[str, list[Path]]]:
    """The files of each case in a folder, or among files; those of a case lie in one folder."""
    if given[0].is_dir():
        yield from _groups(given[0], channels).items()
        return
    for folder in dict.fromkeys(file.parent for file in given):
        yield from _grouped([file for file in given if file.parent == folder], channels).items()


def _groups(given: Path, channels: int) -> dict[str, list[Path]]:
    """The files of each case in a folder."""
    files = sorted(path for path in given.iterdir() if is_nifti(path))
    folders = sorted(path for path in given.iterdir() if path.is_dir())
    if files and not (channels > 1 and not _are_numbered(files)):
        return _grouped(files, channels)
    if files:
        return {given.name: files}
    groups = {path.name: sorted(p for p in path.iterdir() if is_nifti(p)) for path in folders}
    return {name: paths for name, paths in groups.items() if paths}


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
