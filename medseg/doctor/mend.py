"""A mended copy of a NIfTI file: changed until the strict reader takes it, then given its name."""

import zlib
from pathlib import Path

from medseg.doctor.draft import Draft, NotCertain, read_draft
from medseg.doctor.examine import fault_in
from medseg.doctor.finding import Choices, Finding, Mend, remedy_of
from medseg.doctor.patients import Patient
from medseg.doctor.place import PLACES, mend_place, mend_shear
from medseg.doctor.values import mend_grid, mend_labels, mend_nan
from medseg.fault import InputFault
from medseg.io.atomic import atomic_path
from medseg.io.nifti import stem
from medseg.io.nifti_header import Header
from medseg.io.stream import GZIP_MAGIC

# A file has a few faults, one behind the other; one that has more than this is not worth mending.
MOST_MENDS = 8
NEEDS_REWRITING = ("E_TAIL", "E_SUFFIX")


def mended(
    patient: Patient, out: Path, fault: InputFault, choices: Choices, image: Header | None
) -> Finding:
    """The finding of a faulty file, its copy written below `out` where mending is certain.

    Raises:
        InputFault: the copy cannot be written (E_DISKFULL, E_WRITE).
    """
    wrong = _finding(patient, fault)
    try:
        draft = read_draft(patient.path)
        target = _target(patient, out)
        steps = [_step(draft, patient, fault, choices, image)]
        with atomic_path(target) as temporary:
            while True:
                draft.write(temporary, packed=target.name.lower().endswith(".gz"))
                left = _left(temporary, patient, choices, image)
                if left is None:
                    break
                _refuse_endless(steps, left, temporary)
                steps.append(_step(draft, patient, left, choices, image))
    except NotCertain as doubt:
        return _doubtful(wrong, str(doubt))
    except InputFault as other:
        if other.code in ("E_DISKFULL", "E_WRITE"):
            raise
        return _doubtful(wrong, _bare(other, patient.path))
    copy = target.relative_to(out).as_posix()
    return Finding(
        wrong.path, wrong.kind, "mended", wrong.code, wrong.sentence, "", copy, tuple(steps)
    )


def _refuse_endless(steps: list[Mend], left: InputFault, temporary: Path) -> None:
    if len(steps) == MOST_MENDS or left.code in (step.code for step in steps):
        raise NotCertain(f"behind it there is {left.code}: {_bare(left, temporary)}")


def _step(
    draft: Draft, patient: Patient, fault: InputFault, choices: Choices, image: Header | None
) -> Mend:
    code = fault.code
    if code in PLACES:
        return mend_place(draft, code, choices)
    if code == "E_SHEAR":
        return mend_shear(draft, code, choices)
    if code == "E_LABEL" and patient.kind == "labels":
        return mend_labels(draft, code, choices)
    if code == "E_NONFINITE" and patient.kind == "image":
        return mend_nan(draft, code, choices)
    if code == "E_PAIR" and image is not None:
        return mend_grid(draft, code, image.grid)
    if code == "E_SINGLETON":
        return _squeezed(draft)
    if code in ("E_VOXOFF", "E_DTYPE"):
        return _mended_layout(draft, patient.path, code)
    if code in NEEDS_REWRITING:
        what = "it was renamed by what it holds" if code == "E_SUFFIX" else "it was packed anew"
        return Mend(code, what, "as found", "one stream, and a name that says so")
    raise NotCertain("what is lost or damaged cannot be told from the rest of the file")


def _squeezed(draft: Draft) -> Mend:
    axes = int(draft.raw["dim"][0])
    draft.raw["dim"][0] = 3
    return Mend("E_SINGLETON", "axes of length 1 were dropped", f"{axes} axes", "3 axes")


def _mended_layout(draft: Draft, path: Path, code: str) -> Mend:
    """The place of the voxels or their bits, where the file's length leaves one answer."""
    raw = draft.raw
    after = _length(path) - int(raw["sizeof_hdr"]) - len(draft.between) - draft.voxels.nbytes
    if after != 0 or any(draft.between[:4]):
        raise NotCertain("the length of the file leaves more than one answer")
    field = "vox_offset" if code == "E_VOXOFF" else "bitpix"
    before = f"{field} {float(raw[field]):g}"
    raw["vox_offset"] = int(raw["sizeof_hdr"]) + len(draft.between)
    raw["bitpix"] = 8 * draft.voxels.dtype.itemsize
    return Mend(code, "by the length of the file", before, f"{field} {float(raw[field]):g}")


def _length(path: Path) -> int:
    data = path.open("rb")
    with data:
        if data.read(2) != GZIP_MAGIC:
            return path.stat().st_size
        data.seek(0)
        inflating, length = zlib.decompressobj(31), 0
        while block := inflating.unconsumed_tail or data.read(1 << 16):
            length += len(inflating.decompress(block, 1 << 20))
            if inflating.eof:
                break
        return length


def _left(
    temporary: Path, patient: Patient, choices: Choices, image: Header | None
) -> InputFault | None:
    """What the strict reader still says of a copy, without the user's word for it."""
    # The map is applied once: a value that it makes may be one that it renames.
    plain = Choices(fill_nan=choices.fill_nan)
    return fault_in(temporary, patient.kind, plain, table=patient.table, image=image)


def _target(patient: Patient, out: Path) -> Path:
    path = out / patient.name
    with patient.path.open("rb") as source:
        packed = source.read(2) == GZIP_MAGIC
    # The name follows what the file holds: others may refer to it by either.
    suffix = ".nii.gz" if packed else ".nii"
    if not path.name.lower().endswith(suffix) or (not packed and path.name.endswith(".gz")):
        path = path.with_name(f"{stem(path)}{suffix}")
    if path.exists() and path.samefile(patient.path):
        raise InputFault(f"{path}: it is the original itself.", code="E_WRITE")
    return path


def _finding(patient: Patient, fault: InputFault) -> Finding:
    sentence = _bare(fault, patient.path)
    return Finding(patient.name, patient.kind, "wrong", fault.code, sentence, remedy_of(fault.code))


def _doubtful(wrong: Finding, doubt: str) -> Finding:
    if doubt == wrong.sentence:
        doubt = "what is lost cannot be told from what is left"
    sentence = f"{wrong.sentence} Not mended: {doubt.rstrip('.')}."
    return Finding(wrong.path, wrong.kind, "wrong", wrong.code, sentence, wrong.remedy)


def _bare(fault: InputFault, path: Path) -> str:
    return str(fault).replace(f"{path}: ", "").replace(str(path), path.name)
