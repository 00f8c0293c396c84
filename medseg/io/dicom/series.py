"""The image series in a set of DICOM files: by study and series, never two in one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medseg.fault import InputFault
from medseg.io.dicom.instance import Instance, read_instance


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
        name = self.fact("SeriesDescription")
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
    faults: list[tuple[Path, InputFault]] = []
    for file in files:
        try:
            instance = read_instance(file)
        except InputFault as fault:
            faults.append((file, fault))
            continue
        if instance is not None:
            groups.setdefault((instance.study_uid, instance.series_uid), []).append(instance)
    if not groups and faults:
        raise faults[0][1]
    if not groups:
        raise InputFault(
            "There is no DICOM image here; name the folder that holds the slices.", code="E_NODATA"
        )
    found = [Series(tuple(group), _near(group, faults)) for group in groups.values()]
    return sorted(found, key=_place_in_list)


def _near(group: Sequence[Instance], faults: Sequence[tuple[Path, InputFault]]) -> tuple:
    """The unreadable files among those of a series: one of its slices may be in them."""
    folders = {instance.file.parent for instance in group}
    return tuple(fault for file, fault in faults if file.parent in folders)


def _place_in_list(series: Series) -> tuple:
    number = series.fact("SeriesNumber")
    return (
        series.study_uid,
        int(number) if number.lstrip("-").isdigit() else 0,
        series.fact("SeriesDescription"),
        series.uid,
    )
