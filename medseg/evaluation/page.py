"""The report as one page of HTML that needs no network and no other file."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from pathlib import Path

from medseg.evaluation.evaluate import MEAN, CaseScores, Evaluation, Summary
from medseg.evaluation.figures import colors_of, plane_figure, strip
from medseg.evaluation.interval import RESAMPLES
from medseg.evaluation.metrics import Scores
from medseg.evaluation.slices import Plane
from medseg.evaluation.tables import CONVENTIONS, NSD, versions

LOOK = Path(__file__).with_name("page.css")
BEHAVIOR = Path(__file__).with_name("page.js")
MOST_COLUMNS = 6
HEADINGS = {
    "dice": "Dice",
    "nsd": "NSD",
    "hd95_mm": "HD95 mm",
    "volume_error_ml": "Volume error ml",
    "volume_error_percent": "Volume error %",
}
DIGITS = {"dice": 3, "nsd": 3, "hd95_mm": 2, "volume_error_ml": 2, "volume_error_percent": 1}
Lookup = Mapping[tuple[str, str], Summary]


@dataclass(frozen=True)
class CasePicture:
    """A case that is shown, with its planes; `note` says what is not."""

    case: CaseScores
    planes: tuple[Plane, ...]
    note: str = ""


def page(
    evaluation: Evaluation,
    summaries: Sequence[Summary],
    pictures: Sequence[CasePicture],
    *,
    title: str,
) -> str:
    """The whole page."""
    lookup = {(line.name, line.metric): line for line in summaries}
    body = "\n".join(
        [
            _header(evaluation, title),
            _figures(evaluation, lookup),
            _notes(evaluation),
            _by_structure(evaluation, lookup),
            _pictures(evaluation, pictures),
            _all_cases(evaluation),
            _method(evaluation),
        ]
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>\n{LOOK.read_text()}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n<script>\n{BEHAVIOR.read_text()}</script>\n"
        "</body>\n</html>\n"
    )


def _header(evaluation: Evaluation, title: str) -> str:
    told = [
        _counted(len(evaluation.cases), "case"),
        _counted(len(evaluation.structures), "structure"),
        f"surface tolerance {_tolerance(evaluation)}",
        datetime.now(UTC).strftime("%Y-%m-%d"),
    ]
    return f"<header><h1>{escape(title)}</h1><p>{' &middot; '.join(told)}</p></header>"


def _figures(evaluation: Evaluation, lookup: Lookup) -> str:
    headings = {
        "dice": "Mean Dice",
        "nsd": f"Mean NSD at {_tolerance(evaluation)}",
        "hd95_mm": "Mean HD95, mm",
        "volume_error_percent": "Mean volume error, %",
    }
    cards = "".join(
        f'<div class="card"><h2>{heading}</h2><strong>{_shown(line.mean, metric)}</strong>'
        f"<p>{_interval(line) or 'too few cases for an interval'}</p></div>"
        for metric, heading in headings.items()
        for line in (lookup[MEAN, metric],)
    )
    over = ", ".join(escape(name) for name in evaluation.headline[:MOST_COLUMNS])
    more = len(evaluation.headline) - MOST_COLUMNS
    return (
        f'<section class="cards">{cards}</section><p class="quiet">Means over '
        f"{over}{f' and {more} more' if more > 0 else ''}, then over cases. In brackets "
        f"the 95&thinsp;% interval of the mean (bootstrap over cases).</p>"
    )


def _notes(evaluation: Evaluation) -> str:
    notes = []
    if evaluation.missing:
        notes.append(
            f"{_counted(len(evaluation.missing), 'case')} without a prediction, counted as "
            f"empty: {_names(evaluation.missing)}."
        )
    if evaluation.refused:
        cases = "<br>".join(escape(case.line) for case in evaluation.refused)
        notes.append(
            f"{_counted(len(evaluation.refused), 'case')} not scored, and in no mean:<br>{cases}"
        )
    if evaluation.unscored:
        notes.append(
            f"{_counted(len(evaluation.unscored), 'prediction')} not scored, for want of a truth "
            f"or not asked for: {_names(evaluation.unscored)}."
        )
    return "".join(f'<p class="note">{note}</p>' for note in notes)


def _by_structure(evaluation: Evaluation, lookup: Lookup) -> str:
    colors = colors_of(evaluation.structures, MEAN)
    names = [case.case for case in evaluation.cases]
    rows = []
    for name, color in colors.items():
        dice = lookup[name, "dice"]
        drawn = strip(
            list(evaluation.values(name, "dice")),
            names,
            mean=dice.mean,
            interval=(dice.low, dice.high),
            color=color,
        )
        cells = "".join(_summary_cell(lookup[name, metric]) for metric in HEADINGS)
        rows.append(
            f'<tr><th scope="row"><i style="background:{color}"></i>{escape(name)}</th>'
            f'<td class="wide">{drawn}</td>{cells}</tr>'
        )
    heads = "".join(f"<th>{heading}</th>" for heading in HEADINGS.values())
    return (
        '<section><h2>By structure</h2><div class="scroll"><table><thead><tr><th>Structure</th>'
        f'<th class="wide">Dice of every case, 0 to 1</th>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def _summary_cell(line: Summary) -> str:
    undefined = f"; not defined in {_counted(line.undefined, 'case')}" if line.undefined else ""
    told = (
        f"median {_shown(line.median, line.metric)}, SD {_shown(line.sd, line.metric)}{undefined}"
    )
    mark = f'<sup title="{undefined[2:]}">{line.undefined}</sup>' if line.undefined else ""
    return (
        f'<td title="{told}">{_shown(line.mean, line.metric)}{mark}'
        f"<small>{_interval(line)}</small></td>"
    )


def _pictures(evaluation: Evaluation, pictures: Sequence[CasePicture]) -> str:
    if not pictures:
        return ""
    table = evaluation.target.labels
    legend = "".join(
        f'<li><i style="background:rgb{label.color}"></i>{escape(label.name)}</li>'
        for label in table.labels
    )
    articles = []
    for number, picture in enumerate(pictures):
        drawn = "".join(
            plane_figure(plane, table, key=f"u{number}{plane.name[0]}") for plane in picture.planes
        )
        articles.append(
            f'<article id="case-{number}"><h3>{escape(picture.case.case)}</h3>'
            f'{_chips(evaluation, picture)}<div class="planes">{drawn}</div></article>'
        )
    count = f"the {len(pictures)} lowest of {len(evaluation.cases)}"
    all_shown = len(pictures) == len(evaluation.cases)
    return (
        f'<section><h2>Pictures</h2><p class="quiet">Lowest mean Dice first'
        f"{'' if all_shown else f', {count}'}. Each plane is the one where truth and prediction "
        "differ most; the patient's right is on the left.</p>"
        '<label class="switch"><input type="checkbox" id="ghosts"> Show the truth over the '
        f'prediction (dashed)</label><ul class="legend">{legend}</ul>{"".join(articles)}</section>'
    )


def _chips(evaluation: Evaluation, picture: CasePicture) -> str:
    case = picture.case
    chips = [f"<li><b>mean Dice {_shown(case.mean('dice', evaluation.headline), 'dice')}</b></li>"]
    if case.pair.prediction is None:
        chips.append('<li class="warn">no prediction, counted as empty</li>')
    if picture.note:
        chips.append(f'<li class="warn">{escape(picture.note)}</li>')
    lowest = sorted(case.scores, key=lambda name: case.scores[name].dice)
    chips += [
        _chip(name, case.scores[name]) for name in case.scores if name in lowest[:MOST_COLUMNS]
    ]
    more = len(lowest) - MOST_COLUMNS
    if more > 0:
        chips.append(f"<li>and {more} structures with a higher Dice</li>")
    return f'<ul class="chips">{"".join(chips)}</ul>'


def _chip(name: str, scores: Scores) -> str:
    undefined = math.isnan(scores.hd95_mm)
    distance = "not defined" if undefined else f"{_shown(scores.hd95_mm, 'hd95_mm')} mm"
    return (
        f"<li>{escape(name)}: Dice {_shown(scores.dice, 'dice')}, HD95 {distance}, "
        f"{scores.volume_ml:.2f} of {scores.truth_volume_ml:.2f} ml</li>"
    )


def _all_cases(evaluation: Evaluation) -> str:
    names = [structure.name for structure in evaluation.structures]
    columns = names if len(names) <= MOST_COLUMNS else []
    metrics = list(HEADINGS)
    heads = ["Case", *(f"{HEADINGS[metric]}" for metric in metrics)]
    heads += [f"Dice {name}" for name in columns]
    rows = []
    for case in evaluation.worst_first():
        values = [(case.mean(metric, evaluation.headline), metric) for metric in metrics]
        values += [(case.scores[name].dice, "dice") for name in columns]
        cells = "".join(_sortable_cell(value, metric) for value, metric in values)
        rows.append(f'<tr><th scope="row">{escape(case.case)}</th>{cells}</tr>')
    shown = "".join(f'<th><button type="button">{escape(head)}</button></th>' for head in heads)
    return (
        '<section><h2>All cases</h2><p class="quiet">Mean over structures, and Dice of each; '
        'a click on a heading sorts.</p><div class="scroll"><table class="sortable"><thead><tr>'
        f"{shown}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def _sortable_cell(value: float, metric: str) -> str:
    sort = "" if math.isnan(value) else f"{value:.6g}"
    share = ""
    if metric in ("dice", "nsd") and not math.isnan(value):
        share = f' style="--share:{value:.3f}" class="share"'
    return f'<td data-value="{sort}"{share}>{_shown(value, metric)}</td>'


def _method(evaluation: Evaluation) -> str:
    told = {
        "Dice": CONVENTIONS["dice"],
        "NSD": NSD[evaluation.nsd],
        "HD95": CONVENTIONS["hd95_mm"],
        "Tolerance of NSD": _tolerance(evaluation, all_names=True),
        "Volume error": CONVENTIONS["volume_error"],
        "Empty masks": CONVENTIONS["empty"],
        "Intervals": f"95 % percentile bootstrap over cases, {RESAMPLES} draws, seeded",
        "Versions": ", ".join(f"{name} {number}" for name, number in versions().items()),
    }
    lines = "".join(f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in told.items())
    return f"<section><h2>How this was scored</h2><dl>{lines}</dl></section>"


def _tolerance(evaluation: Evaluation, *, all_names: bool = False) -> str:
    values = set(evaluation.tolerances_mm.values())
    if len(values) == 1:
        return f"{values.pop():g} mm"
    if all_names:
        return ", ".join(f"{name} {mm:g} mm" for name, mm in evaluation.tolerances_mm.items())
    return f"{min(values):g} to {max(values):g} mm"


def _interval(line: Summary) -> str:
    if math.isnan(line.low):
        return ""
    return f"({_shown(line.low, line.metric)} to {_shown(line.high, line.metric)})"


def _shown(value: float, metric: str) -> str:
    if math.isnan(value):
        return "n/a"
    # Adding 0.0 after rounding turns a -0 into a 0.
    rounded = round(value, DIGITS[metric]) + 0.0
    return f"{rounded:.{DIGITS[metric]}f}".replace("-", "&minus;")


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _names(names: Iterable[str], most: int = 12) -> str:
    given = list(names)
    more = len(given) - most
    shown = ", ".join(escape(name) for name in given[:most])
    return shown + (f" and {more} more" if more > 0 else "")
