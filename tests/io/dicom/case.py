"""One input of the DICOM catalogue, and what medseg makes of it."""

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medseg.bundle.cases import Reading as How
from medseg.bundle.cases import found_cases
from medseg.fault import InputFault
from medseg.volume import Volume
from tests.io.catalogue.phantom import Truth
from tests.io.catalogued import READ
from tests.io.dicom.phantom import (
    CENTER_LPS_MM,
    LPS_TO_RAS,
    PEAK,
    SIGMA_MM,
    background,
    leaks,
    tissue,
)

AFFINE_TOLERANCE = 1e-6
CENTER_TOLERANCE = 0.01
REPAIRED_TOLERANCE = 0.1
Build = Callable[[Path], object]


@dataclass(frozen=True, eq=False)
class Case:
    """An input: how it is made in an empty folder, and how reading it must end.

    `expected` is READ or the code of the refusal. `truth` is what an even series must give;
    `within` the largest error of the values at each voxel's own point where slices are resampled.
    What is read is the folder "in", or what `build` gives back.
    """

    name: str
    expected: str
    build: Build
    truth: Truth | None = None
    within: float | None = None
    affine_within: float = AFFINE_TOLERANCE
    factor: float = 1.0
    repair: bool = True
    # A word that the one note must hold; "" where nothing is to be noted.
    note: str = ""


def outcomes(cases: Iterable[Case]) -> dict[str, str]:
    """The outcome of each case by its name."""
    found = {}
    for case in cases:
        with tempfile.TemporaryDirectory() as folder:
            found[case.name] = outcome(case, Path(folder))
    return found


def outcome(case: Case, folder: Path) -> str:
    """READ, the code of the refusal, or in what the result is wrong."""
    made = case.build(folder / "in")
    given = made if isinstance(made, Path) else folder / "in"
    try:
        volume, notes = found_by_medseg(given, repair=case.repair)
    except InputFault as fault:
        if leaks(f"{fault} {fault!r} {fault.__cause__!r}"):
            return f"{fault.code}, but it names the patient"
        has_place = str(given.parent) in str(fault) or "medseg-zip-" in str(fault)
        return fault.code if has_place else f"{fault.code} without a place"
    if leaks(" ".join(notes)) or bool(case.note) != bool(notes) or case.note not in " ".join(notes):
        return f"wrong: notes {notes}"
    return told(case, volume)


def found_by_medseg(given: Path, *, repair: bool = True) -> tuple[Volume, tuple[str, ...]]:
    """The one-channel volume as `medseg predict` gets it, and the notes."""
    with found_cases([given], ("CT",), reading=How(repair=repair)) as cases:
        assert len(cases) == 1
        reading = next(iter(cases.values())).read(("CT",))
    return reading.volume, reading.notes


def told(case: Case, volume: Volume) -> str:
    """READ where the volume is what the phantom is there, else in what it is wrong."""
    if case.within is not None:
        worst, off = interpolation_error(volume), center_off(volume)
        if worst < case.within and off < REPAIRED_TOLERANCE:
            return READ
        return f"wrong: values by {worst:.3g}, lesion {off:.3g} voxels off"
    if case.truth is None:
        return "wrong: it gave voxels"
    if volume.array.shape != case.truth.array.shape:
        return f"wrong: shape {volume.array.shape}"
    if not np.array_equal(volume.array, case.truth.array.astype(np.float32)):
        return "wrong: voxels"
    apart = np.abs(volume.grid.affine - case.truth.affine).max()
    if apart > case.affine_within:
        return f"wrong: affine by {apart:.3g}"
    off = center_off(volume, case.factor)
    rounded = case.affine_within / min(volume.grid.spacing_mm)
    return READ if off < CENTER_TOLERANCE + rounded else f"wrong: lesion {off:.3g} voxels off"


def points_lps_mm(volume: Volume) -> np.ndarray:
    """The middles of all voxels, (i, j, k, 3)."""
    indices = np.stack(np.indices(volume.grid.shape), axis=-1)
    affine = LPS_TO_RAS @ volume.grid.affine
    return indices @ affine[:3, :3].T + affine[:3, 3]


def center_off(volume: Volume, factor: float = 1.0) -> float:
    """How far the lesion's middle lies from where it is in the patient, in voxels.

    Values are `factor` times those of the patient.
    """
    points = points_lps_mm(volume)
    near = np.linalg.norm(points - CENTER_LPS_MM, axis=-1) < 4 * SIGMA_MM
    weights = volume.array[0][near] / factor - background(points[near])
    middle = (weights[:, None] * points[near]).sum(axis=0) / weights.sum()
    return float(np.linalg.norm((middle - CENTER_LPS_MM) / np.asarray(volume.grid.spacing_mm)))


def interpolation_error(volume: Volume) -> float:
    """The largest error against the patient at the voxels' own points, around the lesion."""
    points = points_lps_mm(volume)
    near = np.linalg.norm(points - CENTER_LPS_MM, axis=-1) < 2.5 * SIGMA_MM
    return float(np.abs(volume.array[0] - tissue(points))[near].max())


def bound(*steps_mm: float) -> float:
    """The error of linear interpolation between points of these distances: h^2 / 8 times f''."""
    curvature = PEAK / SIGMA_MM**2 + 2
    return sum(step**2 / 8 * curvature for step in steps_mm) + 1
