"""What medseg's reader makes of an input."""

import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from medseg.data.cases import Case as DataCase
from medseg.data.pairs import read_pair
from medseg.fault import InputFault
from medseg.io.nifti import read_labels, read_volume
from medseg.volume import LabelTable
from tests.io.catalogue.case import Case, told
from tests.io.catalogue.phantom import Truth

TABLE = LabelTable.from_names({1: "rim", 2: "core"})


def outcomes(cases: Iterable[Case]) -> dict[str, str]:
    """The outcome of each case by its name."""
    found = {}
    for case in cases:
        with tempfile.TemporaryDirectory() as folder:
            found[case.name] = outcome(case, Path(folder))
    return found


def outcome(case: Case, folder: Path) -> str:
    """READ, the code of the refusal, or in what the result is wrong."""
    paths = case.build(folder)
    try:
        return told(case, found_by_medseg(case, paths))
    except InputFault as fault:
        names_it = str(paths[0]) in str(fault) or paths[-1].name in str(fault)
        return fault.code if names_it else f"{fault.code} without the file's name"


def found_by_medseg(case: Case, paths: tuple[Path, ...]) -> Truth:
    """What medseg reads from the files of a case; what it refuses is an InputFault."""
    if case.kind == "labels":
        labels = read_labels(paths[0], TABLE)
        return Truth(labels.array[None], labels.grid.affine)
    if case.kind == "pair":
        pair = DataCase(id="a", patient="a", images=paths[:1], label=paths[1])
        volume, labels = read_pair(pair, ("CT",), TABLE)
        return Truth(np.stack([volume.array[0], labels.array]), volume.grid.affine)
    volume = read_volume(paths, [str(number) for number in range(case.channels)])
    return Truth(volume.array, volume.grid.affine)
