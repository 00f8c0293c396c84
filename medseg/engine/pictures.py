"""Pictures of a run: a quality sheet a case, and all of them on one page. None costs a case."""

from collections.abc import Sequence
from pathlib import Path

from medseg.engine.job import Job, Outcome
from medseg.engine.report import printable
from medseg.evaluation.quality_sheet import contact_sheet, draw_sheet
from medseg.fault import InputFault
from medseg.volume import LabelVolume, Volume

FOLDER, PAGE = "pictures", "pictures.png"


def draw_picture(job: Job, volume: Volume, labels: LabelVolume) -> str:
    """Draw the sheet of a case at OUT/pictures/CASE.png; "", or a note on why there is none.

    Raises:
        InputFault: the disk is full (E_DISKFULL): the label map would be next.
    """
    path = job.outputs.folder / FOLDER / f"{job.name}.png"
    try:
        draw_sheet(path, volume, labels, title=printable(job.name))
    except InputFault as fault:
        if fault.code == "E_DISKFULL":
            raise
        return f"there is no picture: {fault}"
    except Exception as error:  # noqa: BLE001  # the label map is what was asked for
        return f"there is no picture ({type(error).__name__})."
    return ""


def draw_page(folder: Path, outcomes: Sequence[Outcome]) -> tuple[Path, ...]:
    """Put the pictures of the folder, of earlier runs too, and the cases without one on a page.

    The files written: several pages of many cases, none where there is no picture.

    Raises:
        InputFault: it cannot be written (E_DISKFULL, E_WRITE).
    """
    faults = {printable(one.case): one.code for one in outcomes if one.is_fault}
    sheets = [
        (name, path)
        for path in sorted((folder / FOLDER).glob("*.png"))
        if (name := printable(path.stem)) not in faults and not path.name.startswith(".")
    ]
    return contact_sheet(folder / PAGE, sheets, faults=faults) if sheets else ()
