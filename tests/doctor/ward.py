"""A folder of broken files, each with the code that it must be given and whether it is mended."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tests.io.catalogue.made import IMAGE, LABELS, PLACE, dim, pixdim, rows
from tests.io.catalogue.packing import member, packed_nifti
from tests.io.catalogue.phantom import Place, Truth, lesion_on

COARSE = replace(PLACE, spacing_mm=(1.0, 1.25, 1.5))
COARSE_SHAPE = (25, 21, 17)
FAR = replace(PLACE, origin_ras_mm=(400.0, 300.0, 200.0))


@dataclass(frozen=True, eq=False)
class Broken:
    """A file, the code of its fault, and what its mended copy must hold; None: not mended."""

    name: str
    code: str
    data: bytes
    truth: Truth | None = None
    copy: str = ""


def ward() -> list[Broken]:
    """More than twenty files, each broken in a way of its own."""
    return [*_mended_headers(), *_mended_voxels(), *_hopeless(), *_undecided()]


def build(folder: Path) -> list[Broken]:
    """Write the ward into `folder`, with sound images for the labels and things to pass over."""
    broken = ward()
    sound = _packed(IMAGE)
    extra = {
        "imagesTr/fine.nii.gz": sound,
        "labelsTr/fine.nii.gz": _packed(LABELS),
        "imagesTr/finer.nii.gz": sound,
        "imagesTr/elsewhere.nii.gz": sound,
        "imagesTr/lost.nii.gz": sound,
        "imagesTr/._fine.nii.gz": b"\0\5\x16\7",
        "notes.txt": b"as scanned",
    }
    for name, data in {**extra, **{one.name: one.data for one in broken}}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return broken


def _mended_headers() -> list[Broken]:
    true = Truth(IMAGE[None], PLACE.affine)
    sheared = PLACE.affine.copy()
    sheared[:3, 0] += 0.004 * sheared[:3, 1]
    none = {"qform_code": 0, "sform_code": 0}
    return [
        _one("sheared.nii.gz", "E_SHEAR", true, srow=rows(sheared), qform_code=0),
        _one("no_codes.nii.gz", "E_NOFORM", true, **none),
        _one("no_codes_q.nii.gz", "E_NOFORM", true, **none, srow=[0.0] * 12),
        _one("no_codes_s.nii.gz", "E_NOFORM", true, **none, quatern=[0, 0, 0], qoffset=[0, 0, 0]),
        _one("unit.nii.gz", "E_PIXDIM", true, xyzt_units=7),
        _one("meters.nii.gz", "E_PIXDIM", true, xyzt_units=1),
        _one("offset.nii.gz", "E_VOXOFF", true, vox_offset=0),
        _one("bits.nii.gz", "E_DTYPE", true, bitpix=8),
        _one("axes.nii.gz", "E_SINGLETON", true, dim=dim(*IMAGE.shape, 1, 1)),
        Broken("tail.nii.gz", "E_TAIL", _packed(IMAGE) + b"garbage", true),
        Broken("packed.nii", "E_SUFFIX", _packed(IMAGE), true, "packed.nii.gz"),
        Broken("plain.nii.gz", "E_SUFFIX", packed_nifti(IMAGE, PLACE), true, "plain.nii"),
        Broken("nameless", "E_SUFFIX", packed_nifti(IMAGE, PLACE), true, "nameless.nii"),
    ]


def _mended_voxels() -> list[Broken]:
    true = Truth(LABELS[None], PLACE.affine)
    holes = IMAGE.astype("f4")
    holes[1, 2, 3] = np.nan
    filled = np.nan_to_num(holes, nan=-5.0)
    wild = np.where(LABELS == 2, 255, LABELS).astype("u1")
    almost = (LABELS + np.float32(4e-4) * (LABELS > 0)).astype("f4")
    finer = lesion_on(COARSE.affine, COARSE_SHAPE)
    return [
        Broken("holes.nii.gz", "E_NONFINITE", _packed(holes), Truth(filled[None], PLACE.affine)),
        Broken("labelsTr/wild.nii.gz", "E_LABEL", _packed(wild), true),
        Broken("labelsTr/almost.nii.gz", "E_LABEL", _packed(almost), true),
        Broken("labelsTr/finer.nii.gz", "E_PAIR", _packed(finer, COARSE), true),
    ]


def _undecided() -> list[Broken]:
    """What `--affine` decides, labels that may be another image's, and a true tilt."""
    moved = PLACE.affine.copy()
    moved[:3, 3] += 12
    tilted = PLACE.affine.copy()
    tilted[:3, 2] += 0.2 * tilted[:3, 1]
    tilted[:3, 2] *= 3 / np.linalg.norm(tilted[:3, 2])
    half = (LABELS * 0.5).astype("f4")
    return [
        _one("two_places.nii.gz", "E_QSFORM", srow=rows(moved)),
        _one("spacing.nii.gz", "E_PIXDIM", pixdim=pixdim(1, 1, 1)),
        _one("no_place.nii.gz", "E_NOFORM", qform_code=0, sform_code=0, srow=[0.0] * 12,
             quatern=[0, 0, 0], qoffset=[0, 0, 0]),
        _one("tilted.nii.gz", "E_SHEAR", srow=rows(tilted), qform_code=0),
        Broken("labelsTr/between.nii.gz", "E_LABEL", _packed(half)),
        Broken("labelsTr/elsewhere.nii.gz", "E_PAIR", _packed(finer_far(), FAR)),
        Broken("labelsTr/lost.nii.gz", "E_PAIR", _packed(LABELS, FAR)),
    ]  # fmt: skip


def finer_far() -> np.ndarray:
    """Labels of another patient."""
    return lesion_on(COARSE.affine, COARSE_SHAPE)


def _hopeless() -> list[Broken]:
    sound = _packed(IMAGE)
    broken = bytearray(sound)
    broken[-6] ^= 1
    infinite = IMAGE.astype("f4")
    infinite[1, 1, 1] = np.inf
    return [
        Broken("cut.nii", "E_TRUNC", packed_nifti(IMAGE, PLACE)[:900]),
        Broken("checksum.nii.gz", "E_GZIP", bytes(broken)),
        Broken("empty.nii.gz", "E_TRUNC", b""),
        Broken("text.nii", "E_MAGIC", b"no image " * 90),
        Broken("infinite.nii.gz", "E_NONFINITE", _packed(infinite)),
        Broken("constant.nii.gz", "E_CONST", _packed(np.full_like(IMAGE, 7))),
        _one("colors.nii.gz", "E_DTYPE", datatype=128, bitpix=24),
    ]


def _one(name: str, code: str, truth: Truth | None = None, **fields: Any) -> Broken:
    return Broken(name, code, member(packed_nifti(IMAGE, PLACE, **fields)), truth)


def _packed(voxels: np.ndarray, place: Place = PLACE) -> bytes:
    return member(packed_nifti(voxels, place))
