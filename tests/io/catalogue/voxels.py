"""Inputs to refuse for their voxels: what is no number, no label, or lies elsewhere."""

import math

import numpy as np

from tests.io.catalogue.case import Case
from tests.io.catalogue.made import IMAGE, LABELS, PLACE, labels, several, sound, with_voxel
from tests.io.catalogue.phantom import Place, Truth, image_on, lesion_on


def voxels() -> list[Case]:
    """The cases, in the order of their codes."""
    return [*_numbers(), *_labels(), *_pairs()]


def _numbers() -> list[Case]:
    return [
        *(
            sound(f"a voxel of {value}, {kind}", "E_NONFINITE", voxels=with_voxel(value, kind))
            for value, kind in [
                (math.nan, "f4"),
                (math.nan, "f8"),
                (math.inf, "f4"),
                (-math.inf, "f8"),
            ]
        ),
        sound("all voxels NaN", "E_NONFINITE", voxels=np.full_like(IMAGE, math.nan, dtype="f4")),
        sound("a voxel of 1e39", "E_RANGE", voxels=with_voxel(1e39, "f8")),
        sound(
            "a voxel of -1e39, packed", "E_RANGE", voxels=with_voxel(-1e39, "f8"), file="a.nii.gz"
        ),
        sound("all voxels one value", "E_CONST", voxels=np.full_like(IMAGE, 7)),
        sound("all voxels zero", "E_CONST", voxels=np.zeros_like(IMAGE)),
    ]


def _labels() -> list[Case]:
    values: list[tuple[float, str]] = [
        (0.9999, "f4"),
        (1.5, "f8"),
        (math.nan, "f4"),
        (math.inf, "f8"),
        (-1, "i2"),
        (-1, "i1"),
        (-1, "i8"),
        (-1.0, "f4"),
        (9, "u1"),
        (255, "u1"),
        (256, "i2"),
        (65537, "i4"),
        (2**32 + 1, "i8"),
        (2**53 + 1, "u8"),
        (1e300, "f8"),
    ]
    return [
        *(
            labels(
                f"a label of {value:g}, {kind}",
                "E_LABEL",
                voxels=with_voxel(value, kind, of=LABELS),
            )
            for value, kind in values
        ),
        labels("labels as voxels of 0 and 255", "E_LABEL", voxels=(LABELS > 0) * np.uint8(255)),
        labels("labels scaled to fractions", "E_LABEL", scl_slope=0.5, truth=_scaled(0.5)),
        labels(
            "labels scaled by nearly one",
            "E_LABEL",
            scl_slope=0.99999,
            truth=_scaled(np.float32(0.99999)),
        ),
        labels("labels moved by an intercept", "E_LABEL", scl_inter=3, truth=_scaled(1, 3)),
        labels("labels interpolated", "E_LABEL", voxels=_blurred()),
        labels(
            "one map a label", "E_NDIM", voxels=np.stack([LABELS == 1, LABELS == 2], 3).astype("u1")
        ),
        labels("gray values as labels", "E_LABEL", voxels=IMAGE),
    ]


def _scaled(slope: float, intercept: float = 0) -> Truth:
    return Truth(LABELS[None] * np.float64(slope) + intercept, PLACE.affine)


def _blurred() -> np.ndarray:
    return ((LABELS + np.roll(LABELS, 1, axis=0)) / 2).astype("f4")


def _pairs() -> list[Case]:
    i, j, k = LABELS.shape
    moved = Place(origin_ras_mm=(-9.0, -12.0, -4.0))
    flipped = Place(handedness=-1)
    finer = Place(spacing_mm=(1.0, 1.25, 1.5))
    image = (IMAGE, PLACE)
    apart = {
        "5 mm from the image": (lesion_on(moved.affine), moved),
        "of the other handedness": (lesion_on(flipped.affine), flipped),
        "one slice short": (LABELS[:, :, :-1], PLACE),
        "of half the spacing": (lesion_on(finer.affine, (2 * i, 2 * j, 2 * k)), finer),
        "with its axes exchanged": (np.ascontiguousarray(LABELS.transpose(1, 0, 2)), PLACE),
        "of the same voxels, elsewhere": (LABELS, moved),
    }
    other = (image_on(moved.affine), moved)
    return [
        *(
            several(f"labels {name}", "E_PAIR", [image, part], kind="pair")
            for name, part in apart.items()
        ),
        several("channels on two grids", "E_PAIR", [image, other]),
        several("channels of two shapes", "E_PAIR", [image, (IMAGE[:-1], PLACE)]),
    ]
