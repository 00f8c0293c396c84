"""One prepared case on disk: what it was made of, and whether that still holds.

`<id>.image.npy` (c, i, j, k), `<id>.labels.npy` (i, j, k) and `<id>.places.npy` (n, 3) lie beside
`<id>.json`, which is written last and so marks the case as whole.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.data.cases import Case
from medseg.io.atomic import write_json
from medseg.volume import LabelTable

ARRAYS = ("image", "labels", "places")


@dataclass(frozen=True)
class Stamp:
    """A file as it was: size and time tell quickly that it is the same, the hash tells surely."""

    size: int
    mtime_ns: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> "Stamp":
        """The stamp of a file, read to its end."""
        facts = path.stat()
        return cls(facts.st_size, facts.st_mtime_ns, sha256_of(path))

    def fits(self, path: Path, *, surely: bool = False) -> bool:
        """Whether the file is unchanged.

        Another size is a change. The same size and time is taken for the same file, unless
        `surely`; with another time (a copied folder) the hash decides.
        """
        if not path.is_file():
            return False
        facts = path.stat()
        if facts.st_size != self.size:
            return False
        if facts.st_mtime_ns == self.mtime_ns and not surely:
            return True
        return sha256_of(path) == self.sha256

    def to_json(self) -> list[Any]:
        """The stamp as plain JSON values."""
        return [self.size, self.mtime_ns, self.sha256]


@dataclass(frozen=True)
class Entry:
    """What is known of a prepared case.

    `key` stands for all settings it was made with, `labels` for the label values that were
    allowed. `voxels` and `spans` go by label members, such as "1,2,4": how many voxels there are,
    and which rows of the places array are a sample of them. `record` leads back to the source.
    """

    key: str
    labels: tuple[int, ...]
    inputs: tuple[Stamp, ...]
    outputs: Mapping[str, Stamp]
    voxels: Mapping[str, int]
    spans: Mapping[str, tuple[int, int]]
    record: Mapping[str, Any]

    def holds(self, folder: Path, case: Case, *, key: str, surely: bool = False) -> bool:
        """Whether the prepared case is whole, and made with `key` from the case's files."""
        return (
            self.key == key
            and all(
                stamp.fits(array_path(folder, case.id, name), surely=surely)
                for name, stamp in self.outputs.items()
            )
            and self.made_of(case, surely=surely)
        )

    def made_of(self, case: Case, *, surely: bool = False) -> bool:
        """Whether the case's files are those the entry was made of."""
        paths = input_paths(case)
        return len(paths) == len(self.inputs) and all(
            stamp.fits(path, surely=surely) for stamp, path in zip(self.inputs, paths, strict=True)
        )

    def save(self, folder: Path, case: str) -> None:
        """Write it, whole or not at all."""
        write_json(
            entry_path(folder, case),
            {
                "key": self.key,
                "labels": list(self.labels),
                "inputs": [stamp.to_json() for stamp in self.inputs],
                "outputs": {name: stamp.to_json() for name, stamp in self.outputs.items()},
                "voxels": dict(self.voxels),
                "spans": {name: list(span) for name, span in self.spans.items()},
                "record": self.record,
            },
        )


def load_entry(folder: Path, case: str) -> Entry | None:
    """The entry of a case; None where there is none, or none that can be read."""
    path = entry_path(folder, case)
    if not path.is_file():
        return None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return Entry(
            data["key"],
            tuple(data["labels"]),
            tuple(Stamp(*stamp) for stamp in data["inputs"]),
            {name: Stamp(*data["outputs"][name]) for name in ARRAYS},
            data["voxels"],
            {name: (start, stop) for name, (start, stop) in data["spans"].items()},
            data["record"],
        )
    except (ValueError, KeyError, TypeError):
        # A damaged entry is no entry: the case is prepared again.
        return None


def is_checked(folder: Path, case: Case, table: LabelTable) -> bool:
    """Whether the case's files were read and found good before, with the same label values."""
    entry = load_entry(folder, case.id)
    return entry is not None and entry.labels == table.values and entry.made_of(case)


def input_paths(case: Case) -> tuple[Path, ...]:
    """Every file of a case, images first."""
    return (*case.images, *([case.label] if case.label else []))


def array_path(folder: Path, case: str, name: str) -> Path:
    """Where an array of a prepared case lies."""
    return folder / f"{case}.{name}.npy"


def entry_path(folder: Path, case: str) -> Path:
    """Where the entry of a prepared case lies."""
    return folder / f"{case}.json"


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def key_of(parts: Sequence[Any]) -> str:
    """A short name for settings, the same for the same settings."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
