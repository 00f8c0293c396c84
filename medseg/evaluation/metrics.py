"""Scores of one label map against another: Dice, NSD, HD95 and volume, per label and region.

What empty masks score (the structure is in neither map, or in one of the two):

| structure is in     | Dice | NSD | HD95              | volume error in %       |
|---------------------|------|-----|-------------------|-------------------------|
| both                | as measured                                             |
| neither             | 1    | 1   | 0                 | 0                       |
| the truth alone     | 0    | 0   | not defined (NaN) | -100                    |
| the prediction alone| 0    | 0   | not defined (NaN) | not defined (NaN)       |

A value that is not defined is left out of means, and the report counts how often. MONAI gives NaN
for all three where a structure is in neither map, which leaves out the cases in which a model was
right to find nothing; and infinity for HD95 where one mask is empty.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import numpy as np

from medseg.evaluation.distances import Lattice, with_margin
from medseg.evaluation.elements import Elements, elements_nsd, surface_elements
from medseg.evaluation.surface import border_voxels, surface_scores
from medseg.fault import InputFault
from medseg.volume import LabelVolume, Target

VOXELS_AT_ONCE = 1 << 17
NsdConvention = Literal["border-voxels", "surface-elements"]
METRICS = (
    "dice",
    "nsd",
    "hd95_mm",
    "volume_error_ml",
    "volume_error_percent",
    "volume_ml",
    "truth_volume_ml",
)


@dataclass(frozen=True)
class Structure:
    """What is scored under one name: the union of some label values."""

    name: str
    values: tuple[int, ...]
    color: tuple[int, int, int]


@dataclass(frozen=True)
class Scores:
    """Scores of one structure in one case; NaN where a metric is not defined."""

    dice: float
    nsd: float
    hd95_mm: float
    volume_ml: float
    truth_volume_ml: float

    @property
    def volume_error_ml(self) -> float:
        """Predicted volume less true volume."""
        return self.volume_ml - self.truth_volume_ml

    @property
    def volume_error_percent(self) -> float:
        """The volume error in percent of the true volume."""
        if self.truth_volume_ml == 0:
            return 0.0 if self.volume_ml == 0 else math.nan
        return 100 * self.volume_error_ml / self.truth_volume_ml

    @property
    def undefined(self) -> tuple[str, ...]:
        """The metrics that are not defined here, because one of the masks is empty."""
        return tuple(name for name in METRICS if math.isnan(getattr(self, name)))


def structures(target: Target) -> tuple[Structure, ...]:
    """What is scored: the regions of a target, if any, and its labels.

    A label that is a region of its own is scored once, under the region's name.
    """
    of_regions = tuple(
        Structure(region.name, tuple(sorted(region.members)), target.labels[region.value].color)
        for region in target.regions
    )
    taken = {structure.values for structure in of_regions}
    names = {structure.name for structure in of_regions}
    return of_regions + tuple(
        Structure(
            f"label {label.name}" if label.name in names else label.name,
            (label.value,),
            label.color,
        )
        for label in target.labels.labels
        if (label.value,) not in taken
    )


def score_pair(
    prediction: LabelVolume,
    truth: LabelVolume,
    target: Target,
    *,
    tolerance_mm: float | Mapping[str, float] = 1.0,
    nsd: NsdConvention = "border-voxels",
) -> dict[str, Scores]:
    """Scores of each structure of `target`, by name; `tolerance_mm` may differ by name.

    Dice = 2 |P and T| / (|P| + |T|). NSD (normalized surface Dice, Nikolov et al. 2018,
    arXiv 1809.04430) is the share of both surfaces within the tolerance, counted in border voxels
    (MONAI's default) or in the area of surface elements (DeepMind's). HD95 is the larger of the
    two directed 95th percentiles of distances between border voxels.

    Raises:
        InputFault: the two lie on different grids (E_PAIR), or a structure has no tolerance
            (E_TOLERANCE).
    """
    difference = truth.grid.difference(prediction.grid)
    if difference:
        raise InputFault(
            f"prediction and truth lie on different grids: {difference} (truth first). Scores "
            "need one grid; predict on the truth's image.",
            code="E_PAIR",
        )
    wanted = structures(target)
    tolerances = tolerances_mm(wanted, tolerance_mm)
    pair = _Pair.of(prediction, truth, target)
    borders = pair.surfaces(wanted, border_voxels)
    scores = {
        structure.name: pair.scores(structure, borders[structure.name], tolerances[structure.name])
        for structure in wanted
    }
    if nsd == "border-voxels":
        return scores
    del borders
    elements = pair.surfaces(wanted, surface_elements)
    return {
        name: pair.with_elements(found, elements[name], tolerances[name])
        for name, found in scores.items()
    }


def tolerances_mm(
    wanted: tuple[Structure, ...], tolerance_mm: float | Mapping[str, float]
) -> dict[str, float]:
    """The tolerance of each structure.

    Raises:
        InputFault: one is missing, not finite or negative (E_TOLERANCE).
    """
    if isinstance(tolerance_mm, Mapping):
        missing = [s.name for s in wanted if s.name not in tolerance_mm]
        if missing:
            raise InputFault(
                f"no tolerance for {', '.join(missing)}; give one in mm for each of "
                f"{', '.join(s.name for s in wanted)}, or one number for all.",
                code="E_TOLERANCE",
            )
        found = {s.name: float(tolerance_mm[s.name]) for s in wanted}
    else:
        found = {s.name: float(tolerance_mm) for s in wanted}
    for name, value in found.items():
        if not (math.isfinite(value) and value >= 0):
            raise InputFault(
                f"tolerance {value} mm of {name}: it is a length of 0 mm or more.",
                code="E_TOLERANCE",
            )
    return found


Surface = TypeVar("Surface", np.ndarray, Elements)


@dataclass(frozen=True)
class _Pair:
    """Both maps as class indices, cut to the box of all foreground of either, and a margin."""

    prediction: np.ndarray
    truth: np.ndarray
    confusion: np.ndarray
    index_of: Mapping[int, int]
    lattice: Lattice
    voxel_ml: float

    @classmethod
    def of(cls, prediction: LabelVolume, truth: LabelVolume, target: Target) -> "_Pair":
        values = target.labels.values
        box = _foreground_box(prediction.array, truth.array)
        indices = [
            with_margin(_as_indices(volume.array[box], values)) for volume in (prediction, truth)
        ]
        return cls(
            prediction=indices[0],
            truth=indices[1],
            confusion=_confusion(indices[0], indices[1], len(values) + 1),
            index_of={value: place for place, value in enumerate(values, start=1)},
            lattice=Lattice(indices[0].shape, truth.grid.spacing_mm),
            voxel_ml=truth.grid.voxel_volume_mm3 / 1000,
        )

    def surfaces(
        self,
        wanted: tuple[Structure, ...],
        surfaces_of: Callable[[np.ndarray, int], list[Surface]],
    ) -> dict[str, tuple[Surface, Surface]]:
        """Surfaces (prediction, truth) by name: the labels in one pass, a region in one."""
        single = [surfaces_of(a, len(self.index_of)) for a in (self.prediction, self.truth)]
        found = {}
        for structure in wanted:
            if len(structure.values) == 1:
                place = self.index_of[structure.values[0]] - 1
                found[structure.name] = (single[0][place], single[1][place])
            else:
                member = np.zeros(len(self.index_of) + 1, dtype=np.uint8)
                member[self._places(structure)] = 1
                found[structure.name] = (
                    surfaces_of(member[self.prediction], 1)[0],
                    surfaces_of(member[self.truth], 1)[0],
                )
        return found

    def with_elements(
        self, scores: Scores, elements: tuple[Elements, Elements], tolerance_mm: float
    ) -> Scores:
        """The scores with the NSD of surface elements; where a mask is empty they stay."""
        if scores.volume_ml == 0 or scores.truth_volume_ml == 0:
            return scores
        return replace(scores, nsd=elements_nsd(*elements, self.lattice, tolerance_mm))

    def scores(
        self, structure: Structure, borders: tuple[np.ndarray, np.ndarray], tolerance_mm: float
    ) -> Scores:
        places = self._places(structure)
        predicted = int(self.confusion[places].sum())
        true = int(self.confusion[:, places].sum())
        common = int(self.confusion[np.ix_(places, places)].sum())
        volumes = predicted * self.voxel_ml, true * self.voxel_ml
        if predicted == 0 and true == 0:
            return Scores(1.0, 1.0, 0.0, *volumes)
        if predicted == 0 or true == 0:
            return Scores(0.0, 0.0, math.nan, *volumes)
        of_borders = surface_scores(*borders, self.lattice, tolerance_mm)
        return Scores(
            dice=2 * common / (predicted + true),
            nsd=of_borders.nsd,
            hd95_mm=of_borders.hd95_mm,
            volume_ml=volumes[0],
            truth_volume_ml=volumes[1],
        )

    def _places(self, structure: Structure) -> list[int]:
        return [self.index_of[value] for value in structure.values]


def _foreground_box(*arrays: np.ndarray) -> tuple[slice, slice, slice]:
    """The smallest box that holds every voxel that is not 0 in any array; one voxel if none."""
    # A slab of zeros is passed over at the speed of memory; a mask of all voxels is never made.
    sides = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        hit = np.zeros(arrays[0].shape[axis], dtype=bool)
        for array in arrays:
            hit |= array.any(axis=others)
        found = np.flatnonzero(hit)
        sides.append(slice(int(found[0]), int(found[-1]) + 1) if found.size else slice(0, 1))
    return sides[0], sides[1], sides[2]


def _as_indices(array: np.ndarray, values: tuple[int, ...]) -> np.ndarray:
    if values == tuple(range(1, len(values) + 1)):
        return array
    index_of = np.zeros(max(values) + 1, dtype=np.uint8 if len(values) < 256 else np.uint16)
    index_of[list(values)] = np.arange(1, len(values) + 1)
    return index_of[array]


def _confusion(prediction: np.ndarray, truth: np.ndarray, count: int) -> np.ndarray:
    """Voxels by (predicted index, true index), counted in parts that stay in the cache."""
    total = np.zeros(count * count, dtype=np.int64)
    flat_prediction, flat_truth = prediction.ravel(), truth.ravel()
    for start in range(0, flat_truth.size, VOXELS_AT_ONCE):
        part = slice(start, start + VOXELS_AT_ONCE)
        joint = flat_prediction[part].astype(np.intp) * count + flat_truth[part]
        total += np.bincount(joint, minlength=count * count)
    return total.reshape(count, count)
