"""What the doctor found in one file, what was changed in its copy, and what the user decided."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from medseg.io.nifti_place import Form

Kind = Literal["image", "labels", "series", "data set", "other"]
State = Literal["fine", "wrong", "mended", "copied", "note", "passed over"]

EXPORT = "Export it again from where it is from."
COPY = "Copy it again from its source; what is lost cannot be made up."
AFFINE = "Find out which place is right and give --affine sform or --affine qform."
REMEDIES = {
    "E_AFFINE": AFFINE,
    "E_CONST": EXPORT,
    "E_GZIP": COPY,
    "E_LABEL": "State what the values mean: --map 255=1,3=2.",
    "E_NOFORM": AFFINE,
    "E_NONFINITE": "State what stands for no number: --fill-nan 0.",
    "E_NOTFILE": "Check its rights, or where the link points.",
    "E_PAIR": "Resample the labels onto the image, or find the image that they were drawn on.",
    "E_PIXDIM": f"{AFFINE} Where the unit is wrong, give --unit mm.",
    "E_QFORM": AFFINE,
    "E_QSFORM": AFFINE,
    "E_SHEAR": "Export it without gantry tilt, or resample it onto right angles.",
    "E_SUFFIX": "Rename it by what it holds.",
    "E_TAIL": "Pack it again.",
    "E_TRUNC": COPY,
}
UNITS = {"mm": 2, "m": 1, "um": 3}


# The strict readers' own sentences end with these ways out.
SAID = (EXPORT, COPY, AFFINE)


def remedy_of(code: str) -> str:
    """What a user can do about a fault that is not mended."""
    return REMEDIES.get(code, EXPORT)


@dataclass(frozen=True)
class Choices:
    """What only the user can decide: the form, the unit, the labels' map, a value for NaN."""

    form: Form | None = None
    unit: str | None = None
    label_map: Mapping[int, int] = field(default_factory=dict)
    fill_nan: float | None = None


@dataclass(frozen=True)
class Mend:
    """One change of a copy: the fault's code, what was done, and the value before and after."""

    code: str
    what: str
    before: str
    after: str


@dataclass(frozen=True)
class Finding:
    """One file (or series), by its path within the folder; `copy` is that of the mended one."""

    path: str
    kind: Kind
    state: State
    code: str = ""
    sentence: str = ""
    remedy: str = ""
    copy: str = ""
    mends: tuple[Mend, ...] = ()

    @property
    def is_wrong(self) -> bool:
        """Whether the original has a fault, mended (in its copy, or while it is read) or not."""
        return self.state in ("wrong", "mended", "note")
