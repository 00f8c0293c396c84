"""The ways in which the catalogue's inputs are made: a sound file, changed in one respect."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.io.catalogue.case import Case, Kind
from tests.io.catalogue.packing import Order, member, packed_nifti
from tests.io.catalogue.phantom import Place, Truth, image_on, lesion_on

PLACE = Place()
IMAGE = image_on(PLACE.affine)
LABELS = lesion_on(PLACE.affine)
Change = Callable[[bytes], bytes]


def unchanged(data: bytes) -> bytes:
    """The bytes as they are."""
    return data


def sound(
    name: str,
    expected: str,
    *,
    voxels: np.ndarray = IMAGE,
    place: Place = PLACE,
    file: str = "a.nii",
    change: Change = unchanged,
    truth: Truth | None = None,
    kind: Kind = "image",
    channels: int = 1,
    version: int = 1,
    order: Order = "<",
    extension: bytes = bytes(4),
    **fields: Any,
) -> Case:
    """A file of `voxels` whose header says `fields`, its bytes passed through `change`.

    A name in .gz is packed before that. The truth is `voxels` at `place` unless it is given.
    """

    def build(folder: Path) -> tuple[Path, ...]:
        data = packed_nifti(
            voxels, place, version=version, order=order, extension=extension, **fields
        )
        path = folder / file
        path.write_bytes(change(member(data) if file.lower().endswith(".gz") else data))
        return (path,)

    return Case(name, expected, build, truth or _of(voxels, place), kind, channels)


def labels(name: str, expected: str, *, voxels: np.ndarray = LABELS, **options: Any) -> Case:
    """A label map, as `sound` makes an image."""
    return sound(name, expected, voxels=voxels, kind="labels", **options)


def other(name: str, expected: str, content: bytes, *, file: str = "a.nii.gz") -> Case:
    """A file of another kind."""

    def build(folder: Path) -> tuple[Path, ...]:
        path = folder / file
        path.write_bytes(content)
        return (path,)

    return Case(name, expected, build)


def several(
    name: str,
    expected: str,
    parts: list[tuple[np.ndarray, Place]],
    *,
    kind: Kind = "image",
    truth: Truth | None = None,
) -> Case:
    """A file for each of `parts`: channels of one case, or an image and its labels."""

    def build(folder: Path) -> tuple[Path, ...]:
        paths = tuple(folder / f"{number}.nii.gz" for number in range(len(parts)))
        for path, (voxels, place) in zip(paths, parts, strict=True):
            path.write_bytes(member(packed_nifti(voxels, place)))
        return paths

    return Case(name, expected, build, truth, kind, channels=len(parts), files=len(parts))


def with_voxel(value: float, dtype: str, *, of: np.ndarray = IMAGE) -> np.ndarray:
    """The voxels of `of` in another type, one of them replaced."""
    array = of.astype(dtype)
    array[4, 5, 4] = value
    return array


def pixdim(*sizes_mm: float, qfac: float = 1) -> list[float]:
    """The field of that name: handedness, three sizes, and zeros."""
    return [qfac, *sizes_mm, 0, 0, 0, 0]


def dim(*sides: int, axes: int | None = None) -> list[int]:
    """The field of that name: the number of axes, their sides, and ones."""
    return [len(sides) if axes is None else axes, *sides, *[1] * (7 - len(sides))]


def rows(affine: np.ndarray) -> np.ndarray:
    """The field srow of an affine."""
    return affine[:3].ravel()


def _of(voxels: np.ndarray, place: Place) -> Truth | None:
    if voxels.ndim > 4:
        return None
    array = voxels[None] if voxels.ndim == 3 else np.moveaxis(voxels, 3, 0)
    return Truth(array, place.affine)
