"""The report of an evaluation: scores.csv, summary.csv, scores.json and one page, report.html."""

from dataclasses import dataclass
from pathlib import Path

from medseg.evaluation.evaluate import CaseScores, Evaluation, read_maps
from medseg.evaluation.page import CasePicture, page
from medseg.evaluation.pairs import Pair
from medseg.evaluation.slices import planes_of
from medseg.evaluation.tables import as_json, scores_csv, summary_csv
from medseg.fault import InputFault
from medseg.io.atomic import write_json, write_text
from medseg.io.nifti import read_header, read_volume
from medseg.io.nifti_place import Form
from medseg.progress import Listener, Progress, silent
from medseg.volume import Volume

MOST_PICTURES = 24


@dataclass(frozen=True)
class Report:
    """The files of a report, and the cases whose image could not be drawn."""

    page: Path
    scores: Path
    summary: Path
    json: Path
    without_image: tuple[str, ...]


def write_report(
    evaluation: Evaluation,
    folder: Path,
    *,
    title: str = "Evaluation",
    most_pictures: int = MOST_PICTURES,
    listener: Listener = silent,
) -> Report:
    """Write the four files to `folder`; the page shows the `most_pictures` worst cases.

    An image that cannot lie under the outlines is left out, and its picture says why.

    Raises:
        InputFault: the folder cannot be written.
    """
    summaries = evaluation.summaries()
    scores, summary, json = (folder / name for name in ("scores.csv", "summary.csv", "scores.json"))
    write_text(scores, scores_csv(evaluation))
    write_text(summary, summary_csv(summaries))
    write_json(json, as_json(evaluation, summaries))
    shown = evaluation.worst_first()[:most_pictures]
    pictures = []
    for done, case in enumerate(shown, start=1):
        pictures.append(_picture(case, evaluation))
        listener(Progress("report", done, len(shown), text=case.case))
    place = folder / "report.html"
    write_text(place, page(evaluation, summaries, pictures, title=title))
    without = tuple(picture.case.case for picture in pictures if picture.note)
    return Report(place, scores, summary, json, without)


def _picture(case: CaseScores, evaluation: Evaluation) -> CasePicture:
    truth, prediction = read_maps(case.pair, evaluation.target, form=evaluation.form)
    image, note = None, ""
    try:
        image = _image(case.pair, evaluation.form)
    except InputFault as fault:
        note = f"without its image: {fault}"
    return CasePicture(case, planes_of(truth, prediction, image), note)


def _image(pair: Pair, form: Form | None) -> Volume | None:
    if pair.image is None:
        return None
    header = read_header(pair.image, form=form)
    apart = read_header(pair.truth, form=form).apart(header)
    if apart:
        raise InputFault(
            f"{pair.image}: it lies on another grid than the truth ({apart}, truth first).",
            code="E_PAIR",
        )
    names = [str(number) for number in range(header.channels)]
    return read_volume([pair.image], names, form=form)
