"""What a layout tells of a folder, before it is known to be complete."""

from dataclasses import dataclass
from pathlib import Path

from medseg.volume import LabelTable, Region


@dataclass(frozen=True)
class FoundCase:
    """A case's files: one a channel (or a single 4D file), and its label map."""

    id: str
    images: tuple[Path, ...]
    label: Path | None


@dataclass(frozen=True)
class Found:
    """Channels, labels, regions and cases of a folder; `faults` says what is wrong with it."""

    channels: tuple[str, ...]
    labels: LabelTable
    regions: tuple[Region, ...]
    cases: tuple[FoundCase, ...]
    faults: tuple[str, ...] = ()
