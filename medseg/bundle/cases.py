"""Which cases the inputs of a prediction hold, and which files or series make up each."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from medseg.bundle.bids_cases import bids_cases, is_bids, with_entities
from medseg.bundle.held_out import held_out, is_run
from medseg.bundle.inputs import Case, DicomCase, NiftiCase, UnusableCase
from medseg.data.card import Card
from medseg.data.cases import Listing, open_listing
from medseg.fault import InputFault, all_at_once
from medseg.io.dicom.channels import ChannelRules
from medseg.io.dicom.series import Series, find_series
from medseg.io.dicom.sources import dicom_files
from medseg.io.nifti import is_nifti, stem

NUMBERED = re.compile(r"^(?P<case>.+)_(?P<channel>\d{4})$")
UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Reading:
    """How inputs are read: see `NiftiCase` and `DicomCase`.

    With a `card`, folders are data sets in its layout.
    """

    form: Literal["sform", "qform"] | None = None
    series: tuple[str, ...] = ()
    repair: bool = True
    card: Card | None = None


@contextmanager
def found_cases(
    inputs: Sequence[Path],
    channels: Sequence[str],
    *,
    rules: ChannelRules | None = None,
    reading: Reading | None = None,
    listed: Mapping[str, Case] | None = None,
    output: Path | None = None,
) -> Iterator[dict[str, Case]]:
    """Case names and how each is read; what was unpacked for them lasts as long as the block.

    `listed` cases stand before those of `inputs`. What lies in `output` is no input. Where some
    cases can be used, those that cannot (a lost channel, nothing in a folder) become `UnusableCase`
    and fail in their turn.

    Raises:
        InputFault: an input is not there, two cases have one name, or none can be used (E_CASES),
            all at once; a single one with its own code.
    """
    looking = _Looking(channels, rules or {}, reading or Reading(), output)
    with ExitStack() as unpacked:
        for name, case in (listed or {}).items():
            looking.add(name, case)
        for given in _together(inputs):
            try:
                looking.look_at(given, unpacked)
            except InputFault as fault:
                if fault.code == "E_NOTFILE":
                    looking.faults.append(fault)
                else:
                    looking.add(_name_of(given), UnusableCase(fault))
        yield looking.cases_or_faults()


@dataclass
class _Looking:
    """What was found so far, and what is wrong with the inputs as a whole."""

    channels: Sequence[str]
    rules: ChannelRules
    reading: Reading
    output: Path | None
    found: dict[str, Case] = field(default_factory=dict)
    faults: list[InputFault] = field(default_factory=list)

    def add(self, name: str, case: Case) -> None:
        if name in self.found:
            self.faults.append(
                InputFault(
                    f"{name}: two inputs have this name; name the cases in a list (--list).",
                    code="E_CASES",
                )
            )
        else:
            self.found[name] = case

    def cases_or_faults(self) -> dict[str, Case]:
        faults = list(self.faults)
        if all(isinstance(case, UnusableCase) for case in self.found.values()):
            faults += [c.fault for c in self.found.values() if isinstance(c, UnusableCase)]
        if not faults and self.found:
            return self.found
        if not faults:
            raise InputFault(
                "no case was found: no image of the inputs is a channel of the bundle "
                f"({', '.join(self.channels)}).",
                code="E_NODATA",
            )
        code = faults[0].code if len(faults) == 1 else "E_CASES"
        raise all_at_once([str(f) for f in faults], summary="The inputs cannot be used:", code=code)

    def look_at(self, given: tuple[Path, ...], unpacked: ExitStack) -> None:
        if not given[0].is_dir():
            if is_nifti(given[0]) and given[0].exists():
                self._add_groups(_groups_of_files(given, len(self.channels)))
            else:
                self._add_dicom(given, unpacked)
            return
        folder = given[0]
        if is_run(folder):
            run = held_out(folder)
            self._add_listing(run.listing, run.names)
            return
        if self.reading.card is not None:
            listing = open_listing(self.reading.card, folder, labeled=False)
            self._add_listing(listing, [case.id for case in listing.cases])
            return
        files = self._nifti_below(folder)
        if is_bids(folder, files):
            for name, found in bids_cases(folder, files, self.channels).items():
                unusable = isinstance(found, InputFault)
                self.add(
                    name,
                    UnusableCase(found) if unusable else NiftiCase(found, self.reading.form),
                )
            return
        self._add_groups(_groups(folder, files, len(self.channels)))
        if not any(file.parent == folder for file in files):
            self._add_dicom(given, unpacked, nifti=files)

    def _add_listing(self, listing: Listing, names: Iterable[str]) -> None:
        if listing.channels != tuple(self.channels):
            raise InputFault(
                f"{listing.root}: the data set's channels are {', '.join(listing.channels)}, and "
                f"the bundle takes {', '.join(self.channels)}; name the files of each case in a "
                "list (--list).",
                code="E_CHANNELS",
            )
        for name in names:
            # Workers need not stand where the recipe's paths begin.
            images = tuple(image.absolute() for image in listing.case(name).images)
            self.add(name, NiftiCase(images, self.reading.form))

    def _nifti_below(self, folder: Path) -> list[Path]:
        return [
            path
            for path in sorted(folder.rglob("*"))
            if is_nifti(path) and not self._is_hidden(path, folder)
        ]

    def _is_hidden(self, path: Path, folder: Path) -> bool:
        """Whether it is an output of ours, or of the kind that systems leave (._case.nii.gz)."""
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            return True
        return self._is_ours(path, folder)

    def _add_groups(self, groups: Iterable[tuple[str, list[Path]]]) -> None:
        for name, files in groups:
            named = with_entities(name, files[0].parent)
            try:
                case = NiftiCase(_ordered(name, files, self.channels), self.reading.form)
            except InputFault as fault:
                self.add(named, UnusableCase(fault))
            else:
                self.add(named, case)

    def _add_dicom(
        self, given: tuple[Path, ...], unpacked: ExitStack, *, nifti: Sequence[Path] = ()
    ) -> None:
        """A case a study. Names are those of folders, never of what the headers say.

        DICOM in the folders of `nifti` is what that was converted from.
        """
        if not given[0].exists():
            raise InputFault(f"{given[0]}: there is no such file or folder.", code="E_NOTFILE")
        converted = {file.parent for file in nifti}
        files = [
            file
            for file in unpacked.enter_context(dicom_files(given))
            if not converted & set(file.parents)
            and not (given[0].is_dir() and self._is_ours(file, given[0]))
        ]
        if not files:
            if nifti:
                return
            raise InputFault(f"{given[0]}: there is no NIfTI or DICOM file in it.", code="E_NODATA")
        for name, study in _studies(given, files):
            self.add(name, DicomCase(study, self.rules, self.reading.series, self.reading.repair))

    def _is_ours(self, path: Path, folder: Path) -> bool:
        """Whether it lies in the output folder, where that lies in the input `folder`."""
        if self.output is None:
            return False
        ours, given = self.output.resolve(), folder.resolve()
        inside = ours != given and ours.is_relative_to(given)
        return inside and path.resolve().is_relative_to(ours)


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


def _studies(
    given: tuple[Path, ...], files: Sequence[Path]
) -> Iterator[tuple[str, tuple[Series, ...]]]:
    studies: dict[str, list[Series]] = {}
    for series in find_series(files):
        studies.setdefault(series.study_uid, []).append(series)
    groups = list(studies.values())
    place = given[0] if len(given) == 1 else Path(os.path.commonpath([f.parent for f in given]))
    names = [_study_name(place, group, alone=len(groups) == 1) for group in groups]
    counts, seen = Counter(names), Counter[str]()
    for name, group in zip(names, groups, strict=True):
        seen[name] += 1
        yield f"{name}-{seen[name]}" if counts[name] > 1 else name, tuple(group)


def _study_name(given: Path, study: Sequence[Series], *, alone: bool) -> str:
    if alone or not given.is_dir():
        return _name_of((given,))
    common = Path(os.path.commonpath([series.folder for series in study]))
    return _safe("_".join(common.relative_to(given).parts) or given.resolve().name, common)


def _name_of(given: tuple[Path, ...]) -> str:
    first = given[0]
    return _safe(first.resolve().name if first.is_dir() else stem(first), first.parent)


def _safe(name: str, place: Path) -> str:
    return with_entities(UNSAFE.sub("_", name).strip(".") or "case", place)


def _groups_of_files(given: tuple[Path, ...], channels: int) -> Iterator[tuple[str, list[Path]]]:
    """The files of each case among files; those of a case lie in one folder."""
    for folder in dict.fromkeys(file.parent for file in given):
        yield from _grouped([file for file in given if file.parent == folder], channels).items()


def _groups(given: Path, files: Sequence[Path], channels: int) -> Iterator[tuple[str, list[Path]]]:
    """The files of each case in a folder; where it has none itself, each folder below is one."""
    here = [file for file in files if file.parent == given]
    if here and not (channels > 1 and not _are_numbered(here)):
        yield from _grouped(here, channels).items()
    elif here:
        yield given.resolve().name, here
    else:
        for folder in dict.fromkeys(file.parent for file in files):
            name = "_".join(folder.relative_to(given).parts)
            yield name, [file for file in files if file.parent == folder]


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
