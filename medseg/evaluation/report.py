"""The report of an evaluation: scores.csv, summary.csv, scores.json and one page, report.html."""

from dataclasses import dataclass
from pathlib import Path

from medseg.evaluation.evaluate import CaseScores, Evaluation, read_prediction
from medseg.evaluation.page import CasePicture, page
from medseg.evaluation.slices import planes_of
from medseg.evaluation.tables import as_json, scores_csv, summary_csv
from medseg.fault import InputFault
from medseg.io.atomic import write_json, write_text
from medseg.io.nifti import read_header, read_labels, read_volume
from medseg.progress import Listener, Progress, silent
from medseg.volume import LabelVolume, Target, Volume

MOST_PICTURES = 24


@dataclass(frozen=True)
class Report:
    """The files of a report."""

    page: Path
    scores: Path
    summary: Path
    json: Path


def write_report(
    evaluation: Evaluation,
    folder: Path,
    *,
    title: str = "Evaluation",
    most_pictures: int = MOST_PICTURES,
    listener: Listener = silent,
) -> Report:
    """Write the four files to `folder`; the page shows the `most_pictures` worst cases.

    Raises:
        InputFault: an image lies on another grid than its truth (E_PAIR), or the folder cannot
            be written.
    """
    report = Report(
        page=folder / "report.html",
        scores=folder / "scores.csv",
        summary=folder / "summary.csv",
        json=folder / "scores.json",
    )
    summaries = evaluation.summaries()
    shown = evaluation.worst_first()[:most_pictures]
    pictures = []
    for done, case in enumerate(shown, start=1):
        pictures.append(_picture(case, evaluation.target))
        listener(Progress("report", done, len(shown), text=case.case))
    write_text(report.scores, scores_csv(evaluation))
    write_text(report.summary, summary_csv(summaries))
    write_json(report.json, as_json(evaluation, summaries))
    write_text(report.page, page(evaluation, summaries, pictures, title=title))
    return report


def _picture(case: CaseScores, target: Target) -> CasePicture:
    truth = read_labels(case.pair.truth, target.labels)
    prediction = read_prediction(case.pair, truth)
    image = _image(case, truth)
    return CasePicture(case, planes_of(truth, prediction, image))


def _image(case: CaseScores, truth: LabelVolume) -> Volume | None:
    path = case.pair.image
    if path is None:
        return None
    count = read_header(path).channels
    image = read_volume([path], [str(number) for number in range(count)])
    difference = truth.grid.difference(image.grid)
    if difference:
        raise InputFault(
            f"{path}: the image lies on another grid than its truth ({difference}, truth first); "
            "give the images that the truth was drawn on, or none.",
            code="E_PAIR",
        )
    return image
