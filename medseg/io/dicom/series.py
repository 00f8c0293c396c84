"""The image series in a set of DICOM files: by study and series, never two in one."""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from medseg.fault import InputFault
from medseg.io.dicom.instance import Instance, InstanceFault, read_instance


@dataclass(frozen=True, eq=False)
class Series:
    """The images of one SeriesInstanceUID, in no order yet.

    `faults` are the files that belong here or may belong here and cannot be read: with one of
    them a series is not whole, so it is listed but refused when it is to be read.
    """

    instances: tuple[Instance, ...]
    faults: tuple[InputFault, ...] = ()

    @property
    def study_uid(self) -> str:
        """StudyInstanceUID; never to be shown."""
        return self.instances[0].study_uid

    @property
    def uid(self) -> str:
        """SeriesInstanceUID; never to be shown."""
        return self.instances[0].series_uid

    @property
    def is_scout(self) -> bool:
        """Whether all its images are scouts."""
        return all(instance.is_localizer for instance in self.instances)

    @property
    def folder(self) -> Path:
        """Where its first file lies."""
        return self.instances[0].file.parent

    @property
    def files(self) -> tuple[Path, ...]:
        """Its files, sorted by name."""
        return tuple(sorted(instance.file for instance in self.instances))

    def fact(self, name: str) -> str:
        """A fact of the acquisition, "" where the header does not tell it."""
        return self.instances[0].facts.get(name, "")

    def __str__(self) -> str:
        """What people know a series by, without anything of the patient."""
        first = self.instances[0]
        count = sum(len(instance.frames) for instance in self.instances)
        # A description with escape sequences would speak to the terminal.
        name = "".join(c for c in self.fact("SeriesDescription") if c.isprintable())[:64]
        name = f' "{name}"' if name else ""
        number = f" {self.fact('SeriesNumber')}" if self.fact("SeriesNumber") else ""
        return (
            f"{self.fact('Modality') or 'image'}{number}{name}, {count} slices of "
            f"{first.columns}x{first.rows}, in {self.folder}"
        )


def find_series(files: Sequence[Path]) -> list[Series]:
    """The image series in `files`, ordered by study, number and description.

    Reports, plans and other objects without an image are passed over.

    Raises:
        InputFault: no file holds an image (E_NODATA), or the only ones cannot be read.
    """
    groups: dict[tuple[str, str], list[Instance]] = {}
    faults: list[InstanceFault] = []
    for file in files:
        try:
            instance = read_instance(file)
        except InstanceFault as fault:
            faults.append(fault)
            continue
        if instance is not None:
            groups.setdefault((instance.study_uid, instance.series_uid), []).append(instance)
    if not groups and faults:
        raise min(faults, key=lambda fault: fault.is_picture)
    if not groups:
        place = f"{files[0].parent}: " if files else ""
        raise InputFault(
            f"{place}there is no DICOM image in it; name the folder that holds the slices.",
            code="E_NODATA",
        )
    known = {instance.file.parent for group in groups.values() for instance in group}
    found = []
    for key, group in groups.items():
        folders = {instance.file.parent for instance in group}
        theirs = (f for f in faults if _concerns(f, key, folders, groups.keys(), known))
        found.append(Series(tuple(group), tuple(theirs)))
    return sorted(found, key=_place_in_list)


def _concerns(
    fault: InstanceFault,
    key: tuple[str, str],
    folders: Set[Path],
    readable: Set[tuple[str, str]],
    known: Set[Path],
) -> bool:
    """Whether an unreadable file is a slice of a series, or may be one."""
    if fault.belongs in readable:
        return fault.belongs == key
    # Of a series of which nothing can be read, or of one that cannot be told. A picture is no
    # slice; a file that tells nothing may be one of its neighbors', or of anything.
    if fault.is_picture:
        return False
    return fault.file.parent in folders or fault.file.parent not in known


def _place_in_list(series: Series) -> tuple:
    number = series.fact("SeriesNumber")
    return (
        series.study_uid,
        int(number) if number.lstrip("-").isdecimal() else 0,
        series.fact("SeriesDescription"),
        series.uid,
    )
