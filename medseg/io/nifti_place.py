"""Where a NIfTI volume lies in the patient, decided by one written rule.

The sform is taken where its code is 1 to 5, else the qform; the file must have one, and a code is
0 to 5. Where it has both they must agree within half a millimeter at every corner voxel, and pixdim
must agree with the sform within 1 %: where they do not, readers choose differently, and only the
user can say which is right (`--affine sform` or `--affine qform`). The form that was asked for is
taken alone, if the file has it; the other is then not looked at. Units are honored. The fields and
the quaternion's formulas are those of nifti1.h, "METHOD 2" and "METHOD 3".
"""

import math
from dataclasses import dataclass
from typing import Literal

import nibabel as nib
import numpy as np

from medseg.fault import InputFault

Form = Literal["sform", "qform"]

FORMS: tuple[Form, ...] = ("sform", "qform")
LARGEST_CODE = 5
CHOOSERS = "medseg predict and evaluate; medseg doctor --repair for copies to train on"

# Code 0 says nothing of the unit; every reader takes it for millimeters.
UNIT_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
FORMS_AGREE_MM = 0.5
SPACING_AGREES = 0.01
QUATERNION_ROUNDS = 1e-5
# A kilometer: no scanner is larger, and float32 no longer tells two voxels apart far beyond it.
FARTHEST_MM = 1e6


@dataclass(frozen=True, eq=False)
class Place:
    """`affine`, the map of voxel indices to RAS mm, the form that it was taken from, and its code.

    `other` is the map by the form that was not taken, where the file has both and they agree.
    """

    affine: np.ndarray
    form: Form
    code: int
    other: np.ndarray | None = None


def place_of(
    raw: nib.Nifti1Header, shape: tuple[int, int, int], *, form: Form | None = None
) -> Place:
    """Where the volume lies.

    `form` is the one that the user asked for; it decides where the two disagree.

    Raises:
        InputFault: sizes that cannot be, or other than the sform's (E_PIXDIM), no form
            (E_NOFORM), one that is no map (E_QFORM, E_AFFINE), or two that disagree (E_QSFORM).
    """
    has_sform, has_qform = _has(raw, "sform"), _has(raw, "qform")
    _refuse_codes(raw, chosen=form is not None)
    if has_qform and (form == "qform" or not has_sform):
        return Place(_near(_qform(raw)), "qform", int(raw["qform_code"]))
    sform, other = _sform(raw), None
    if form != "sform":
        _refuse_other_spacing(raw, sform)
        if has_qform:
            other = _qform(raw)
            _refuse_disagreement(sform, other, shape)
    return Place(_near(sform), "sform", int(raw["sform_code"]), other)


def _refuse_codes(raw: nib.Nifti1Header, *, chosen: bool) -> None:
    codes = {form: int(raw[f"{form}_code"]) for form in FORMS}
    if not any(_has(raw, form) for form in FORMS):
        raise InputFault(
            f"qform and sform codes are {codes['qform']} and {codes['sform']} (1 to 5 where there "
            "is one), so the file does not say where the patient is; readers invent different "
            "places. Export it again with its orientation.",
            code="E_NOFORM",
        )
    for form, other in zip(FORMS, reversed(FORMS), strict=True):
        if not chosen and not 0 <= codes[form] <= LARGEST_CODE:
            raise InputFault(
                f"{form}_code {codes[form]} is none of NIfTI's (0 to {LARGEST_CODE}), and readers "
                f"disagree on what it means.{_way_out(raw, other)}",
                code="E_NOFORM",
            )


def _spacing_mm(raw: nib.Nifti1Header) -> np.ndarray:
    spacing = np.asarray(raw["pixdim"][1:4], dtype=np.float64) * _unit_mm(raw)
    if not np.isfinite(spacing).all() or (spacing <= 0).any():
        raise InputFault(
            f"pixdim gives voxels of {spacing.tolist()} mm; each size is above 0. Export it again.",
            code="E_PIXDIM",
        )
    return spacing


def _unit_mm(raw: nib.Nifti1Header) -> float:
    code = int(raw["xyzt_units"]) & 7
    if code not in UNIT_MM:
        raise InputFault(
            f"xyzt_units {code} is no unit of length; the header is damaged.", code="E_PIXDIM"
        )
    return UNIT_MM[code]


def _qform(raw: nib.Nifti1Header) -> np.ndarray:
    spacing_mm = _spacing_mm(raw)
    handedness = float(raw["pixdim"][0])
    b, c, d = (float(raw[f"quatern_{axis}"]) for axis in "bcd")
    length = b * b + c * c + d * d
    offset = np.array([float(raw[f"qoffset_{axis}"]) for axis in "xyz"]) * _unit_mm(raw)
    # Some readers take any handedness below 0 for -1, and some all but -1 for 1.
    is_hand = handedness == -1 or 0 <= handedness < math.inf
    if not length <= 1 + QUATERNION_ROUNDS or not np.isfinite(offset).all() or not is_hand:
        raise InputFault(
            f"qform quaternion {[b, c, d]} with offset {offset.tolist()} and handedness "
            f"{handedness:g} is no place (the squares sum to 1 at most, and the handedness is "
            f"-1 or 1); the header is damaged.{_way_out(raw, 'sform')}",
            code="E_QFORM",
        )
    affine = np.eye(4)
    stored = np.float32 if raw["quatern_b"].dtype.itemsize == 4 else np.float64
    rounding = 3 * float(np.finfo(stored).eps)
    affine[:3, :3] = (
        _rotation(b, c, d, rounding) * spacing_mm * [1, 1, -1.0 if handedness < 0 else 1.0]
    )
    affine[:3, 3] = offset
    return affine


def _rotation(b: float, c: float, d: float, rounding: float) -> np.ndarray:
    length = b * b + c * c + d * d
    # What is left for a within the rounding of b, c and d is 0: half a turn is exactly that. Else
    # the root of a rounding makes a thousandth of it.
    a = math.sqrt(1 - length) if 1 - length > rounding else 0.0
    a, b, c, d = (part / math.sqrt(a * a + length) for part in (a, b, c, d))
    return np.array(
        [
            [1 - 2 * (c * c + d * d), 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), 1 - 2 * (b * b + d * d), 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), 1 - 2 * (b * b + c * c)],
        ]
    )


def _sform(raw: nib.Nifti1Header) -> np.ndarray:
    affine = np.eye(4)
    affine[:3] = np.array([raw[f"srow_{axis}"] for axis in "xyz"], dtype=np.float64)
    affine[:3] *= _unit_mm(raw)
    if not np.isfinite(affine).all() or not affine[:3, :3].any(axis=0).all():
        raise InputFault(
            f"sform {affine[:3].tolist()} is no map to the patient; the header is damaged."
            f"{_way_out(raw, 'qform')}",
            code="E_AFFINE",
        )
    return affine


def _near(affine: np.ndarray) -> np.ndarray:
    if np.abs(affine[:3, 3]).max() > FARTHEST_MM:
        raise InputFault(
            f"the first voxel lies at {affine[:3, 3].tolist()} mm, more than a kilometer away; "
            "the header is damaged. Export it again.",
            code="E_AFFINE",
        )
    return affine


def _refuse_other_spacing(raw: nib.Nifti1Header, sform: np.ndarray) -> None:
    spacing_mm, of_sform = _spacing_mm(raw), np.linalg.norm(sform[:3, :3], axis=0)
    if (np.abs(of_sform / spacing_mm - 1) > SPACING_AGREES).any():
        raise InputFault(
            f"pixdim says {spacing_mm.tolist()} and the sform {of_sform.tolist()} mm; readers "
            "choose differently. Find out which is right and choose it with --affine sform"
            f"{' or --affine qform' if _has(raw, 'qform') else ''} ({CHOOSERS}), or write both.",
            code="E_PIXDIM",
        )


def _refuse_disagreement(sform: np.ndarray, qform: np.ndarray, shape: tuple[int, int, int]) -> None:
    corners = np.array([[i, j, k, 1] for i in (0, 1) for j in (0, 1) for k in (0, 1)], float)
    corners[:, :3] *= np.asarray(shape) - 1
    apart = (corners @ (sform - qform).T)[:, :3]
    farthest_mm = float(np.linalg.norm(apart, axis=1).max())
    if farthest_mm > FORMS_AGREE_MM:
        raise InputFault(
            f"qform and sform place the volume {farthest_mm:.1f} mm apart; readers choose "
            "differently. Find out which is right and choose it with --affine sform or "
            f"--affine qform ({CHOOSERS}), or write both.",
            code="E_QSFORM",
        )


def _has(raw: nib.Nifti1Header, form: Form) -> bool:
    return 0 < int(raw[f"{form}_code"]) <= LARGEST_CODE


def _way_out(raw: nib.Nifti1Header, form: Form) -> str:
    """A sentence that names the other form, where the file has it."""
    if not _has(raw, form):
        return ""
    return f" Where its {form} is right, choose --affine {form} ({CHOOSERS})."
