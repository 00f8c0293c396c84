"""Mends of where a volume lies: forms, their codes, rounding, the unit of length."""

import numpy as np

from medseg.doctor.draft import Draft, NotCertain, unit_mm
from medseg.doctor.finding import UNITS, Choices, Mend
from medseg.fault import InputFault
from medseg.io.nifti_place import FORMS, Form, place_of
from medseg.volume import Grid

# Cosines that are off by more than this are a tilt, not rounding.
LARGEST_SHEAR = 0.01
# And no corner voxel moves farther than this, or than half the smallest side of a voxel.
FARTHEST_MOVE_MM = 1.0
# Voxels that a scanner of patients makes: what another unit would turn them into is no patient.
PATIENT_MM = (0.05, 20.0)
PLACES = ("E_NOFORM", "E_QSFORM", "E_QFORM", "E_AFFINE", "E_PIXDIM")


def mend_place(draft: Draft, code: str, choices: Choices) -> Mend:
    """Settle where the volume lies, by the user's word or where the header leaves no doubt.

    Raises:
        NotCertain: only the user can say.
    """
    if code == "E_PIXDIM" and (mend := _mended_unit(draft, choices)):
        return mend
    before = _codes(draft)
    if choices.form is not None:
        grid = _by(draft, choices.form)
        if grid is None:
            raise NotCertain(f"its {choices.form}, which was asked for, is no place")
        draft.lay(grid.affine)
        return Mend(code, f"the {choices.form} was written into both", before, _codes(draft))
    if code != "E_NOFORM":
        raise NotCertain("its header gives two answers, and nothing in the file tells which is so")
    grid = _only_place(draft)
    draft.lay(grid.affine)
    return Mend(code, "codes were given to the place it states", before, _codes(draft))


def mend_shear(draft: Draft, code: str, choices: Choices) -> Mend:
    """Direction cosines off by rounding: the nearest rotation, about the center of the volume.

    Raises:
        NotCertain: they are off by more than rounding.
    """
    affine = place_of(draft.raw, draft.shape, form=choices.form).affine
    spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
    cosines = affine[:3, :3] / spacing_mm
    shear = float(np.abs(cosines.T @ cosines - np.eye(3)).max())
    left, _, right = np.linalg.svd(cosines)
    straight = np.eye(4)
    straight[:3, :3] = left @ right * spacing_mm
    center = (np.asarray(draft.shape) - 1) / 2
    straight[:3, 3] = affine[:3, 3] + (affine[:3, :3] - straight[:3, :3]) @ center
    moved_mm = _farthest_mm(affine, straight, draft.shape)
    allowed_mm = min(FARTHEST_MOVE_MM, float(spacing_mm.min()) / 2)
    if shear > LARGEST_SHEAR or moved_mm > allowed_mm:
        raise NotCertain(
            f"its axes are {shear:.2g} off right angles (a corner would move {moved_mm:.2g} mm); "
            f"rounding is at most {LARGEST_SHEAR:g} and {allowed_mm:.2g} mm, so this is a tilt"
        )
    draft.lay(straight)
    return Mend(
        code,
        "the nearest right angles were taken",
        f"{shear:.2g} off right angles",
        f"right angles; corners moved {moved_mm:.2g} mm at most",
    )


def _mended_unit(draft: Draft, choices: Choices) -> Mend | None:
    raw = draft.raw
    stored = int(raw["xyzt_units"])
    factor = unit_mm(raw)
    sizes = np.asarray(raw["pixdim"][1:4], dtype=np.float64)
    plain = bool(((sizes >= PATIENT_MM[0]) & (sizes <= PATIENT_MM[1])).all())
    # A voxel of over a meter is nobody's; of a micrometer it may be a microscope's.
    impossible = factor is None or (factor == 1000.0 and bool((sizes * factor > 1000.0).any()))
    if choices.unit is not None and UNITS[choices.unit] != stored & 7:
        code = UNITS[choices.unit]
    elif impossible and plain:
        code = UNITS["mm"]
    else:
        return None
    raw["xyzt_units"] = (stored & 0xF8) | code
    name = next(name for name, known in UNITS.items() if known == code)
    return Mend("E_PIXDIM", "the unit of length", f"unit code {stored & 7}", f"{code} ({name})")


def _by(draft: Draft, form: Form) -> Grid | None:
    """The place that one form states, whatever its code; None where it is none."""
    raw = draft.raw.copy()
    for name in FORMS:
        raw[f"{name}_code"] = int(name == form)
    if form == "sform" and not (np.asarray(raw["pixdim"][1:4], np.float64) > 0).all():
        raw["pixdim"][1:4] = 1
    try:
        affine = place_of(raw, draft.shape, form=form).affine
        return Grid(draft.shape, affine)
    except InputFault:
        return None


def _only_place(draft: Draft) -> Grid:
    """The one place that the forms state, codes aside.

    Raises:
        NotCertain: none, or two that differ.
    """
    stated = [
        grid for form in FORMS if (grid := _by(draft, form)) is not None and not _is_blank(grid)
    ]
    if not stated:
        raise NotCertain("no form of its header was ever filled in")
    if len(stated) == 2 and stated[0].difference(stated[1], tolerance_mm=0.5):
        raise NotCertain("its sform and qform state different places, and neither has its code")
    spacing_mm = np.asarray(draft.raw["pixdim"][1:4], float) * (unit_mm(draft.raw) or 1.0)
    if (np.abs(np.asarray(stated[0].spacing_mm) / spacing_mm - 1) > 0.01).any():
        raise NotCertain("the place it states does not go with its voxel sizes")
    return stated[0]


def _is_blank(grid: Grid) -> bool:
    """Whether it is what a writer leaves that knows of no place: no turn, and no origin."""
    turn = np.abs(grid.affine[:3, :3] / grid.spacing_mm)
    return bool(np.allclose(turn, np.eye(3)) and not grid.affine[:3, 3].any())


def _farthest_mm(one: np.ndarray, other: np.ndarray, shape: tuple[int, int, int]) -> float:
    corners = np.array([[a, b, c, 1] for a in (0, 1) for b in (0, 1) for c in (0, 1)], float)
    corners[:, :3] *= np.asarray(shape) - 1
    return float(np.linalg.norm((corners @ (one - other).T)[:, :3], axis=1).max())


def _codes(draft: Draft) -> str:
    raw = draft.raw
    return f"qform code {int(raw['qform_code'])}, sform code {int(raw['sform_code'])}"
