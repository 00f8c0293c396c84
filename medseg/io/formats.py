"""The formats in which results are written, by the names that the command line takes.

Nothing heavy is imported before a writer is called.
"""

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medseg.fault import InputFault

if TYPE_CHECKING:
    import numpy as np

    from medseg.volume import Grid, LabelTable, LabelVolume

DEFAULT = "nifti"


@dataclass(frozen=True)
class Origin:
    """Where a result is from: the model, and the files of the DICOM series, if it was one."""

    model_name: str
    model_version: str
    sources: Sequence[Path] | None = None


Writer = Callable[[Path, "LabelVolume", Origin], None]


@dataclass(frozen=True)
class Format:
    """How a case's file ends, who writes it, and whether it refers to a DICOM series."""

    suffix: str
    write: Writer
    needs_dicom: bool = False


def target(name: str, folder: Path, case: str) -> Path:
    """Where the result of a case goes in a format; a folder of masks is named as the case."""
    if name == "bids":
        from medseg.io.bids import bids_path

        return bids_path(folder, case)
    return folder / f"{case}{FORMATS[name].suffix}"


def is_written(name: str, path: Path) -> bool:
    """Whether a result is there and whole."""
    if name == "folder":
        from medseg.io.label_folder import INDEX

        return (path / INDEX).exists()
    return path.exists()


def chosen_formats(asked: Sequence[str]) -> tuple[str, ...]:
    """The formats of `--format` options, each a name or several with commas; none is NIfTI.

    Raises:
        InputFault: a name that is none, with the nearest (E_USE).
    """
    names = [part.strip() for option in asked for part in option.split(",") if part.strip()]
    for name in names:
        if name not in FORMATS:
            near = difflib.get_close_matches(name, FORMATS, n=1)
            hint = f"; did you mean {near[0]}?" if near else "."
            raise InputFault(
                f"--format {name}: it is no format ({', '.join(FORMATS)}){hint}", code="E_USE"
            )
    return tuple(dict.fromkeys(names)) or (DEFAULT,)


def refuse_without_dicom(names: Sequence[str], case: str) -> None:
    """Raise an InputFault (E_NOSOURCE) where a format refers to DICOM slices; there are none."""
    dicom = [name for name in names if FORMATS[name].needs_dicom]
    if dicom:
        raise InputFault(
            f"{case}: {', '.join(dicom)} refers to the slices of a DICOM series, and the input is "
            "NIfTI; give the series, or choose nifti, seg.nrrd, folder or bids.",
            code="E_NOSOURCE",
        )


def probability_paths(folder: Path, case: str, formats: Sequence[str]) -> tuple[Path, ...]:
    """Where the probabilities of a case go: 4D NIfTI and its table, and fractional DICOM SEG."""
    suffixes = ["_probabilities.csv", "_probabilities.nii.gz"]
    if any(name.startswith("dicom-seg") for name in formats):
        suffixes.append(".probabilities.seg.dcm")
    return tuple(folder / f"{case}{suffix}" for suffix in suffixes)


def write_probabilities(
    folder: Path,
    case: str,
    probabilities: "Iterable[np.ndarray]",
    grid: "Grid",
    table: "LabelTable",
    *,
    formats: Sequence[str],
    origin: Origin,
) -> tuple[Path, ...]:
    """Write probabilities (i, j, k) of each label of `table`; the files that were written.

    They become a 4D NIfTI file with the table of its channels, one after the other. Where `formats`
    has a DICOM SEG there is a fractional one too, for which all are held together.
    """
    import numpy as np

    from medseg.io.atomic import write_text
    from medseg.io.nifti import write_channels

    paths = probability_paths(folder, case, formats)
    write_text(paths[0], table.to_csv())
    write_channels(paths[1], probabilities, len(table), grid)
    if len(paths) > 2:
        from medseg.io.dicom_seg import write_fractional_seg

        write_fractional_seg(
            paths[-1],
            np.stack(list(probabilities)),
            grid,
            table,
            origin.sources or (),
            model_name=origin.model_name,
            model_version=origin.model_version,
        )
    return paths


def _nifti(path: Path, labels: "LabelVolume", origin: Origin) -> None:
    from medseg.io.nifti import write_labels

    del origin
    write_labels(path, labels)


def _seg_nrrd(path: Path, labels: "LabelVolume", origin: Origin) -> None:
    from medseg.io.nrrd import write_seg_nrrd

    del origin
    write_seg_nrrd(path, labels)


def _dicom_seg(path: Path, labels: "LabelVolume", origin: Origin) -> None:
    from medseg.io.dicom_seg import write_dicom_seg

    write_dicom_seg(
        path,
        labels,
        origin.sources or (),
        model_name=origin.model_name,
        model_version=origin.model_version,
    )


def _dicom_seg_labelmap(path: Path, labels: "LabelVolume", origin: Origin) -> None:
    from medseg.io.dicom_seg import write_dicom_seg

    write_dicom_seg(
        path,
        labels,
        origin.sources or (),
        kind="labelmap",
        model_name=origin.model_name,
        model_version=origin.model_version,
    )


def _rtstruct(path: Path, labels: "LabelVolume", origin: Origin) -> None:
    from medseg.io.rtstruct import write_rtstruct

    write_rtstruct(
        path,
        labels,
        origin.sources or (),
        model_name=origin.model_name,
        model_version=origin.model_version,
    )


def _folder(path: Path, labels: "LabelVolume", origin: Origin) -> None:
    from medseg.io.label_folder import write_label_folder

    del origin
    write_label_folder(path, labels)


def _bids(path: Path, labels: "LabelVolume", origin: Origin) -> None:
    from medseg.io.bids import write_bids

    write_bids(path, labels, model_name=origin.model_name, model_version=origin.model_version)


FORMATS: Mapping[str, Format] = {
    "nifti": Format(".nii.gz", _nifti),
    "seg.nrrd": Format(".seg.nrrd", _seg_nrrd),
    "dicom-seg": Format(".seg.dcm", _dicom_seg, needs_dicom=True),
    "dicom-seg-labelmap": Format(".labelmap.seg.dcm", _dicom_seg_labelmap, needs_dicom=True),
    "rtstruct": Format(".rtstruct.dcm", _rtstruct, needs_dicom=True),
    "folder": Format("", _folder),
    "bids": Format("_dseg.nii.gz", _bids),
}
