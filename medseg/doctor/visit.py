"""All files of a folder, one after the other; a fault of one never keeps the next from its turn."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from medseg.doctor.examine import fault_in
from medseg.doctor.finding import Choices, Finding, Mend, remedy_of
from medseg.doctor.mend import mended
from medseg.doctor.patients import Folder, Patient
from medseg.doctor.series import examined_series
from medseg.fault import InputFault
from medseg.io.atomic import atomic_path
from medseg.io.nifti import is_nifti, read_header
from medseg.io.nifti_header import Header
from medseg.progress import Listener, Progress, silent

STAGE = "examine"


def visit(
    folder: Folder,
    choices: Choices,
    *,
    out: Path | None = None,
    copy_all: bool = False,
    listener: Listener = silent,
) -> list[Finding]:
    """A finding for each file and series; with `out` mended copies are written below it.

    Raises:
        InputFault: `out` lies within the folder or around it (E_USE), or cannot be written.
    """
    if out is not None:
        refuse_out(folder.root, out)
    images: dict[Path, Header] = {}
    findings = list(folder.told)
    total = len(folder.files) + bool(folder.dicom)
    for number, patient in enumerate(folder.files, start=1):
        findings.append(_visited(patient, folder.root, choices, out, copy_all, images))
        listener(Progress(STAGE, number, total))
    findings += examined_series(folder.dicom, folder.root, out)
    if folder.dicom:
        listener(Progress(STAGE, total, total))
    return [_renamed(f, folder.root, out) for f in sorted(findings, key=lambda f: f.path)]


def refuse_out(root: Path, out: Path) -> None:
    """Refuse a folder of copies that could touch an original.

    Raises:
        InputFault: one folder lies in the other (E_USE).
    """
    originals, copies = root.resolve(), out.resolve()
    if originals.is_relative_to(copies) or copies.is_relative_to(originals):
        raise InputFault(
            f"--repair {out}: it lies within {root}, or around it; originals are never touched. "
            "Name a folder beside it.",
            code="E_USE",
        )
    if out.is_dir():
        for place, folders, names in os.walk(out):
            for name in (*folders, *names):
                path = Path(place) / name
                if path.is_symlink() and path.resolve().is_relative_to(originals):
                    raise InputFault(
                        f"--repair {out}: {path} leads to the originals, which are never touched. "
                        "Name another folder.",
                        code="E_USE",
                    )


def _visited(
    patient: Patient,
    root: Path,
    choices: Choices,
    out: Path | None,
    copy_all: bool,
    images: dict[Path, Header],
) -> Finding:
    image = images.get(patient.image) if patient.image is not None else None
    fault = fault_in(patient.path, patient.kind, choices, table=patient.table, image=image)
    if fault is None:
        _keep_image(images, patient, patient.path)
        if out is None or not copy_all:
            return Finding(patient.name, patient.kind, "fine")
        _copied(patient.path, out / patient.name)
        return Finding(patient.name, patient.kind, "copied", copy=patient.name)
    if out is None:
        sentence = str(fault).replace(f"{patient.path}: ", "").replace(f"{root}/", "")
        remedy = remedy_of(fault.code)
        return Finding(patient.name, patient.kind, "wrong", fault.code, sentence, remedy)
    finding = mended(patient, out, fault, choices, image)
    if finding.copy:
        _keep_image(images, patient, out / finding.copy)
    return finding


def _keep_image(images: dict[Path, Header], patient: Patient, path: Path) -> None:
    if patient.kind == "image":
        images[patient.path] = read_header(path)


def _renamed(finding: Finding, root: Path, out: Path | None) -> Finding:
    """A NIfTI file under another name gets a copy under its own."""
    source = root / finding.path
    if out is None or finding.code != "E_SUFFIX" or is_nifti(source) or finding.copy:
        return finding
    name = f"{finding.path}.nii"
    patient = Patient(source, name, "image")
    fault = fault_in(source, "image", Choices())
    if fault is not None and fault.code != "E_SUFFIX":
        return replace(finding, sentence=f"{finding.sentence} Not mended: {fault.code}.")
    _copied(source, out / patient.name)
    mend = Mend("E_SUFFIX", "it was renamed", Path(finding.path).name, Path(name).name)
    return replace(finding, state="mended", remedy="", copy=name, mends=(mend,))


def _copied(source: Path, target: Path) -> None:
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)


def counted(findings: Sequence[Finding]) -> dict[str, int]:
    """How many findings there are of each state."""
    states = [finding.state for finding in findings]
    return {state: states.count(state) for state in dict.fromkeys(sorted(states))}
