"""Inputs to read right, however odd they look."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from tests.io.catalogue.case import READ, Case
from tests.io.catalogue.made import (
    IMAGE,
    LABELS,
    PLACE,
    Change,
    dim,
    labels,
    pixdim,
    rows,
    several,
    sound,
    unchanged,
    with_voxel,
)
from tests.io.catalogue.packing import CODES, bgzipped, member, members, packed_nifti
from tests.io.catalogue.phantom import SHAPE, Place, Truth, image_on, lesion_on

NAN = math.nan
POSITIVE = IMAGE - IMAGE.min()
AFTER = b"more than was asked for" * 9


def readable() -> list[Case]:
    """The cases: containers, types, scalings, places, odd fields, names, labels."""
    return [
        *_containers(),
        *_types(),
        *_scalings(),
        *_places(),
        *_odd_fields(),
        *_extensions(),
        *_names(),
        *_labels(),
        *_channels(),
    ]


def _containers() -> list[Case]:
    changes: dict[str, Change] = {
        "gzip of stored blocks": lambda data: member(data, level=0),
        "gzip of many members": lambda data: members(data, size=100),
        "gzip with empty members": lambda data: (
            member(b"") + member(data[:9]) + member(b"") + member(data[9:]) + member(b"")
        ),
        "bgzip": bgzipped,
        "gzip with a name and a comment": lambda data: member(
            data, flags=24, fields=b"a.nii\0made by hand\0"
        ),
        "bytes after the voxels, packed": lambda data: member(data + AFTER),
        "zeros after the gzip stream": lambda data: member(data) + bytes(512),
        "junk after the gzip stream": lambda data: member(data) + AFTER,
        "one byte after the gzip stream": lambda data: member(data) + b"\x1f",
    }
    return [
        sound("plain", READ),
        sound("packed", READ, file="a.nii.gz"),
        _packed("plain named .nii.gz", unchanged),
        sound("gzip named .nii", READ, change=member),
        sound("bytes after the voxels", READ, change=lambda data: data + AFTER),
        *(_packed(name, change) for name, change in changes.items()),
        sound("big-endian", READ, order=">"),
        sound("NIfTI-2", READ, version=2),
        sound("NIfTI-2, big-endian and packed", READ, version=2, order=">", file="a.nii.gz"),
    ]


def _packed(name: str, change: Change) -> Case:
    data = change(packed_nifti(IMAGE, PLACE))
    return sound(name, READ, file="a.nii.gz", change=lambda _: data)


def _types() -> list[Case]:
    small = (POSITIVE // 20).astype("i2")
    large = (POSITIVE.astype("u8") << np.uint64(50)) + np.uint64(12345)
    return [
        *(sound(f"type {kind}", READ, voxels=small.astype(kind)) for kind in CODES),
        sound("type f8, big-endian", READ, voxels=IMAGE.astype("f8") / 7, order=">"),
        sound("uint64 beyond 2^53", READ, voxels=large),
        sound("a denormal voxel", READ, voxels=with_voxel(1e-41, "f4")),
    ]


def _scalings() -> list[Case]:
    scaled = Truth(IMAGE[None] * 0.5 - 3, PLACE.affine)
    negative = Truth(IMAGE[None] * -2.0 + 1, PLACE.affine)
    small = np.float64(np.float32(1e-30))
    return [
        sound("slope of zero", READ, scl_slope=0, scl_inter=7),
        sound("slope of NaN", READ, scl_slope=NAN, scl_inter=NAN),
        sound("slope and intercept", READ, scl_slope=0.5, scl_inter=-3, truth=scaled),
        sound("negative slope", READ, scl_slope=-2, scl_inter=1, truth=negative),
        sound(
            "tiny slope",
            READ,
            scl_slope=1e-30,
            truth=Truth(IMAGE[None] * small, PLACE.affine),
        ),
        sound(
            "slope on floats",
            READ,
            voxels=IMAGE.astype("f4"),
            scl_slope=0.5,
            scl_inter=-3,
            truth=scaled,
        ),
    ]


def _places() -> list[Case]:
    places = {
        "oblique, right-handed": Place(axis=(1, 2, 3), angle=2.5),
        "oblique, left-handed": Place(axis=(1, -2, 3), angle=1.2, handedness=-1),
        "left-handed along the axes": Place(angle=0.0, handedness=-1),
        "half a turn": Place(axis=(0, 0, 1), angle=math.pi),
        "a quarter turn": Place(axis=(1, 0, 0), angle=math.pi / 2),
        "0.3 x 0.3 x 10 mm": Place(spacing_mm=(0.3, 0.3, 10.0)),
        "an origin two meters away": Place(origin_ras_mm=(2000.0, -1500.0, 800.0)),
        "microscopic": Place(spacing_mm=(0.01, 0.01, 0.02)),
    }
    forms: dict[str, dict[str, Any]] = {
        "sform alone": {"qform_code": 0, "quatern": (0.5, 0.5, 0.5)},
        "qform alone": {"sform_code": 0, "srow": [0.0] * 12},
        "codes of a template": {"qform_code": 2, "sform_code": 4},
        "qform 0.2 mm from the sform": {"qoffset": (-8.8, -17.0, -4.0)},
        "pixdim of NaN beyond the third": {"pixdim": [1, 2, 2.5, 3, NAN, -1, 0, NAN]},
        "handedness of zero": {"pixdim": pixdim(2, 2.5, 3, qfac=0), "sform_code": 0},
        "handedness of three": {"pixdim": pixdim(2, 2.5, 3, qfac=3)},
        "codes of the largest": {"qform_code": 5, "sform_code": 5},
        "quaternion longer by rounding": {
            "place": Place(axis=(1, 0, 0), angle=math.pi),
            "quatern": (1 + 3e-7, 0, 0),
        },
        "quaternion shorter by rounding": {
            "place": Place(axis=(0, 0, 1), angle=math.pi),
            "quatern": (0, 0, 1 - 1.2e-7),
            "sform_code": 0,
        },
        "no unit": {"xyzt_units": 0},
        "millimeters and seconds": {"xyzt_units": 2 | 8},
    }
    handed = {name: place for name, place in places.items() if "handed" in name}
    alone = {"sform_code": 0, "srow": [0.0] * 12}
    return [
        *(sound(name, READ, place=place, voxels=_seen(place)) for name, place in places.items()),
        *(
            sound(f"{name}, the qform alone", READ, place=place, voxels=_seen(place), **alone)
            for name, place in handed.items()
        ),
        *(sound(name, READ, **fields) for name, fields in forms.items()),
        *(_in_unit(name, code, factor) for name, code, factor in UNITS),
    ]


UNITS = (("meters", 1, 1e-3), ("microns", 3, 1e3))


def _in_unit(name: str, code: int, factor: float) -> Case:
    scaled = np.diag([factor, factor, factor, 1]) @ PLACE.affine
    return sound(
        name,
        READ,
        xyzt_units=code,
        pixdim=pixdim(*(side * factor for side in PLACE.spacing_mm)),
        srow=rows(scaled),
        qoffset=scaled[:3, 3],
    )


def _seen(place: Place) -> np.ndarray:
    """The phantom there; where all of it would be one value, a pattern."""
    image = image_on(place.affine)
    return image if np.ptp(image) > 0 else IMAGE


def _odd_fields() -> list[Case]:
    i, j, k = SHAPE
    fields: dict[str, dict[str, Any]] = {
        "a fourth axis of one": {"dim": dim(i, j, k, 1)},
        "seven axes, four of them one": {"dim": dim(i, j, k, 1, 1, 1, 1)},
        "junk in dim beyond its axes": {"dim": [3, i, j, k, 0, -7, 99, 32767]},
        "cal_min above cal_max": {"cal_min": 9e9, "cal_max": -9e9},
        "cal_min and toffset of NaN": {"cal_min": NAN, "cal_max": NAN},
        "intent of labels on an image": {"intent_code": 1002},
        "an intent that is none": {"intent_code": -30000, "intent_name": b"\xff" * 16},
        "text that is no text": {"descrip": b"\xff\xfe\x00\x01" * 20, "aux_file": b"\x80" * 24},
        "a slice code and dim_info of junk": {"slice_code": 99, "dim_info": -1, "slice_start": -5},
        "time fields of NaN": {"toffset": NAN, "slice_duration": -NAN},
    }
    return [sound(name, READ, **options) for name, options in fields.items()]


def _extensions() -> list[Case]:
    def extended(size: int, *, length: int = 32, flag: int = 1) -> bytes:
        return bytes([flag, 0, 0, 0]) + np.array([size, 6], "<i4").tobytes() + b"x" * (length - 8)

    blocks = {
        "an extension": extended(32),
        "an extension of 20 kB": extended(20_000, length=20_000),
        "an extension whose size is 0": extended(0),
        "an extension whose size is negative": extended(-16),
        "an extension said to reach beyond the file": extended(10**9),
        "an extension whose size is no multiple of 16": extended(17),
        "bytes before the voxels that no flag announces": extended(32, flag=0),
        "a flag without an extension": b"\x01\0\0\0",
    }
    return [
        *(sound(name, READ, extension=block) for name, block in blocks.items()),
        sound("an extension, packed", READ, extension=extended(32), file="a.nii.gz"),
    ]


def _names() -> list[Case]:
    names = {
        "a name in capitals": "A.NII.GZ",
        "a name with spaces": "a b  c .nii",
        "a name in Unicode": "Sch\u00e4del \u982d \U0001f9e0.nii.gz",
        "a name that is no Unicode": "bad\udcff\udc80.nii.gz",
        "a name of 250 bytes": "a" * 243 + ".nii.gz",
        "a name with a line break": "a\nb.nii",
        "a name of markup": "<b>[red]$(x)`y`%s{0}.nii",
        "a name that begins with a dash": "-rf.nii.gz",
    }
    return [*(sound(name, READ, file=file) for name, file in names.items()), _linked()]


def _linked() -> Case:
    target = sound("", READ, file="target.nii.gz")

    def build(folder: Path) -> tuple[Path, ...]:
        path = folder / "link.nii.gz"
        path.symlink_to(target.build(folder)[0])
        return (path,)

    return Case("a link to a file", READ, build, target.truth)


def _labels() -> list[Case]:
    doubled = Truth(LABELS[None], PLACE.affine)
    whole = {
        "uint8": LABELS,
        "int8": LABELS.astype("i1"),
        "uint16": LABELS.astype("u2"),
        "int64": LABELS.astype("i8"),
        "uint64": LABELS.astype("u8"),
        "whole floats": LABELS.astype("f4"),
        "whole float64": LABELS.astype("f8"),
        "negative zeros": np.where(LABELS > 0, LABELS, -0.0).astype("f4"),
        "background alone": np.zeros_like(LABELS),
        "one label everywhere": np.ones_like(LABELS),
    }
    return [
        *(labels(f"labels: {name}", READ, voxels=array) for name, array in whole.items()),
        labels("labels: a fourth axis of one", READ, dim=dim(*SHAPE, 1)),
        labels(
            "labels: a scaling that keeps them whole",
            READ,
            voxels=2 * LABELS,
            scl_slope=0.5,
            truth=doubled,
        ),
        labels("labels: big-endian floats", READ, voxels=LABELS.astype("f4"), order=">"),
    ]


def _channels() -> list[Case]:
    other = (IMAGE // 2 + 3).astype("i2")
    both = Truth(np.stack([IMAGE, other]), PLACE.affine)
    near = Place(origin_ras_mm=(-9.0 + 4e-3, -17.0, -4.0))
    return [
        sound("two channels in one file", READ, voxels=np.stack([IMAGE, other], 3), channels=2),
        several("a file a channel", READ, [(IMAGE, PLACE), (other, PLACE)], truth=both),
        several("channels apart by rounding", READ, [(IMAGE, PLACE), (other, near)], truth=both),
        several(
            "an image and its labels",
            READ,
            [(IMAGE, PLACE), (lesion_on(PLACE.affine), PLACE)],
            kind="pair",
            truth=Truth(np.stack([IMAGE, LABELS]), PLACE.affine),
        ),
    ]
