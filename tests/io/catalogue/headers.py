"""Inputs to refuse for what their header says: sizes, types, places."""

import math
from typing import Any

import numpy as np

from tests.io.catalogue.case import Case
from tests.io.catalogue.made import IMAGE, PLACE, dim, pixdim, rows, sound
from tests.io.catalogue.phantom import SHAPE, Place, Truth

NAN, INFINITY = math.nan, math.inf


def headers() -> list[Case]:
    """The cases, in the order of their codes."""
    return [*_sizes(), *_types(), *_spacing(), *_forms(), *_disagreements(), *_scaling()]


def _sizes() -> list[Case]:
    i, j, k = SHAPE
    slice_i, slice_k = IMAGE[:1], IMAGE[:, :, :1]
    vector = np.repeat(IMAGE[..., None, None], 3, axis=4)
    fields: list[tuple[str, str, dict[str, Any]]] = [
        ("no axis", "E_DIM", {"dim": dim(i, j, k, axes=0)}),
        ("eight axes", "E_DIM", {"dim": dim(i, j, k, axes=8)}),
        ("minus three axes", "E_DIM", {"dim": dim(i, j, k, axes=-3)}),
        ("dim in the other byte order", "E_DIM", {"dim": [n << 8 for n in dim(i, j, k)]}),
        ("a side of zero", "E_DIM", {"dim": dim(i, 0, k)}),
        ("a negative side", "E_DIM", {"dim": dim(i, -j, k)}),
        ("a fourth side of zero", "E_DIM", {"dim": dim(i, j, k, 0)}),
        ("four sides, all negative", "E_DIM", {"dim": dim(-i, -j, -k, -1)}),
        ("one axis", "E_NDIM", {"dim": dim(i * j * k)}),
        ("two axes", "E_NDIM", {"dim": dim(i, j)}),
        ("five axes, a vector a voxel", "E_NDIM", {"voxels": vector, "intent_code": 1007}),
        ("time series", "E_CHANNELS", {"voxels": np.stack([IMAGE, IMAGE + 1], axis=3)}),
        ("time in the first axis", "E_SINGLE", {"voxels": IMAGE[None]}),
        ("one slice", "E_SINGLE", {"voxels": slice_k}),
        ("one slice along i", "E_SINGLE", {"voxels": slice_i}),
        ("one voxel", "E_SINGLE", {"voxels": IMAGE[:1, :1, :1]}),
    ]
    return [sound(name, code, **options) for name, code, options in fields]


def _types() -> list[Case]:
    codes = {
        "of no type": (0, 0),
        "of bits": (1, 1),
        "RGB24": (128, 24),
        "RGBA32": (2304, 32),
        "complex64": (32, 64),
        "complex128": (1792, 128),
        "float128": (1536, 128),
        "of half floats (no code of NIfTI's)": (16384, 16),
        "of an unknown type": (31999, 16),
        "of a negative type": (-4, 16),
        "whose bitpix is another type's": (4, 8),
        "float32 that says 16 bits": (16, 16),
    }
    return [
        *(
            sound(f"voxels {name}", "E_DTYPE", datatype=code, bitpix=bits)
            for name, (code, bits) in codes.items()
        ),
        *(
            sound(f"vox_offset of {offset}", "E_VOXOFF", vox_offset=offset)
            for offset in (0, 100, 348, -352, 400.5, NAN, INFINITY)
        ),
        sound("vox_offset of NIfTI-2 below zero", "E_VOXOFF", version=2, vox_offset=-(2**62)),
    ]


def _spacing() -> list[Case]:
    sizes = {
        "a negative size": pixdim(2, -2.5, 3),
        "a size of zero": pixdim(2, 0, 3),
        "a size of NaN": pixdim(2, NAN, 3),
        "an infinite size": pixdim(INFINITY, 2.5, 3),
        "a denormal size": pixdim(1e-40, 2.5, 3),
        "sizes other than the sform's": pixdim(1, 1, 1),
        "sizes of the sform in another order": pixdim(3, 2.5, 2),
    }
    meters = Place(spacing_mm=(2000.0, 2500.0, 3000.0))
    return [
        *(
            sound(f"pixdim with {name}", "E_PIXDIM", pixdim=value, qform_code=0)
            for name, value in sizes.items()
        ),
        sound("pixdim of zeros, the qform alone", "E_PIXDIM", pixdim=pixdim(0, 0, 0), sform_code=0),
        sound("millimeters that say meters", "E_PIXDIM", xyzt_units=1),
        sound("a unit that is none", "E_PIXDIM", xyzt_units=5),
        sound("voxels of two meters", "E_PIXDIM", place=meters),
    ]


def _forms() -> list[Case]:
    turned = PLACE.affine
    nan_row, flat, zero = turned.copy(), turned.copy(), np.zeros((4, 4))
    nan_row[0, 2] = NAN
    flat[:3, 1] = flat[:3, 0] / 2.0 * 2.5
    far = Place(origin_ras_mm=(1e12, 0, 0))
    fields: list[tuple[str, str, dict[str, Any]]] = [
        ("quaternion longer than one", "E_QFORM", {"quatern": (0.9, 0.9, 0.0)}),
        ("quaternion with NaN", "E_QFORM", {"quatern": (NAN, 0.0, 0.0)}),
        ("quaternion of infinity", "E_QFORM", {"quatern": (INFINITY, 0, 0), "sform_code": 0}),
        ("qform with an infinite offset", "E_QFORM", {"qoffset": (0.0, INFINITY, 0.0)}),
        ("qform whose handedness is NaN", "E_QFORM", {"pixdim": pixdim(2, 2.5, 3, qfac=NAN)}),
        ("qform whose handedness is -1.5", "E_QFORM", {"pixdim": pixdim(2, 2.5, 3, qfac=-1.5)}),
        ("sform with NaN", "E_AFFINE", {"srow": rows(nan_row)}),
        ("sform of zeros", "E_AFFINE", {"srow": rows(zero)}),
        ("sform of zeros, no qform", "E_AFFINE", {"srow": rows(zero), "qform_code": 0}),
        ("sform with two axes the same way", "E_AFFINE", {"srow": rows(flat), "qform_code": 0}),
        ("an origin beyond the moon", "E_AFFINE", {"place": far}),
        ("both codes zero", "E_NOFORM", {"qform_code": 0, "sform_code": 0}),
        ("both codes negative", "E_NOFORM", {"qform_code": -1, "sform_code": -1}),
        ("an sform of code 9", "E_NOFORM", {"sform_code": 9}),
        ("a qform of code -256", "E_NOFORM", {"qform_code": -256}),
    ]
    return [sound(name, code, **options) for name, code, options in fields]


def _disagreements() -> list[Case]:
    mirrored, shifted, sheared, slightly = (PLACE.affine for _ in range(4))
    mirrored[0] *= -1
    shifted[:3, 3] += [0, 25, 0]
    sheared[:3, :3] = sheared[:3, :3] @ [[1, 0.05, 0], [0, 1, 0], [0, 0, 1]]
    slightly[:3, :3] = slightly[:3, :3] @ [[1, 0.004, 0], [0, 1, 0], [0, 0, 1]]
    sizes = np.linalg.norm(sheared[:3, :3], axis=0)
    fields: list[tuple[str, str, dict[str, Any]]] = [
        ("sform mirrors the qform", "E_QSFORM", {"srow": rows(mirrored)}),
        ("sform 25 mm from the qform", "E_QSFORM", {"srow": rows(shifted)}),
        ("qform of another turn", "E_QSFORM", {"quatern": (0.0, 0.0, 0.0)}),
        ("qform of another handedness", "E_QSFORM", {"pixdim": pixdim(2, 2.5, 3, qfac=-1)}),
        ("sheared sform and a qform without", "E_QSFORM", {"srow": rows(sheared)}),
        ("slightly sheared sform", "E_SHEAR", {"srow": rows(slightly), "qform_code": 0}),
        (
            "sheared sform",
            "E_SHEAR",
            {"srow": rows(sheared), "qform_code": 0, "pixdim": pixdim(*sizes)},
        ),
    ]
    return [sound(name, code, **options) for name, code, options in fields]


def _scaling() -> list[Case]:
    fields = {
        "an infinite slope": {"scl_slope": INFINITY},
        "a slope of minus infinity": {"scl_slope": -INFINITY},
        "an infinite intercept": {"scl_inter": INFINITY},
        "a slope of two and an intercept of NaN": {"scl_slope": 2, "scl_inter": NAN},
    }
    return [
        *(sound(name, "E_SCALE", **options) for name, options in fields.items()),
        sound(
            "a slope that leaves float32",
            "E_RANGE",
            scl_slope=3e38,
            truth=_scaled(np.float32(3e38)),
        ),
        sound(
            "a slope that leaves nothing",
            "E_CONST",
            version=2,
            scl_slope=1e-60,
            truth=_scaled(1e-60),
        ),
    ]


def _scaled(slope: float) -> Truth:
    return Truth(IMAGE[None] * np.float64(slope), PLACE.affine)
