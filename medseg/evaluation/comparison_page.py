"""The comparison as one page of HTML, in the look of the evaluation's."""

import math
from html import escape

import numpy as np

from medseg.evaluation.comparison import Comparison, Row, estimate, facts_of
from medseg.evaluation.figures import strip
from medseg.evaluation.interval import RESAMPLES
from medseg.evaluation.page import BEHAVIOR, LOOK
from medseg.evaluation.tables import CONVENTIONS, NSD, versions

COLUMNS = {
    "parameters": ("Parameters", ".0f"),
    "gmacs": ("GMACs", ".2f"),
    "peak_memory_gb": ("Peak memory GB", ".2f"),
    "seconds_per_step": ("s per step", ".3f"),
    "steps": ("Steps", ".0f"),
    "minutes": ("Minutes", ".1f"),
}
METHODS = {
    "Weights": "those at the end of the schedule; the held-out cases are looked at once, after "
    "the last step, so that no weights are chosen on them",
    "Dice": CONVENTIONS["dice"],
    "NSD": f"at 1 mm; {NSD['border-voxels']}",
    "HD95": CONVENTIONS["hd95_mm"],
    "Empty masks": CONVENTIONS["empty"],
    "Intervals": f"95 % percentile bootstrap over cases, {RESAMPLES} draws, seeded; they tell how "
    "another choice of cases would change the mean, not how another seed of training would",
    "Tests": "Wilcoxon's signed-rank test, two-sided, on the mean Dice of every case, for all "
    "pairs of rows; p after Holm's correction for all of these pairs",
    "Difference to the best": "mean paired difference of Dice to the row with the highest mean, "
    f"with its 95 % bootstrap interval ({RESAMPLES} draws over cases); that the best row was "
    "chosen by the same cases is not corrected for",
    "GMACs": "10^9 multiply-adds of convolutions and matrix products for one training patch",
    "Peak memory": "of the training process: of its own memory, and on a GPU of what torch "
    "reserved there; processes that load patches are not counted",
    "Seconds per step": "median from step to step, validation and checkpoints aside",
    "Minutes": "of training, the last validation included; a mean over folds",
}
WIDTH, HEIGHT, LEFT, BOTTOM = 640.0, 300.0, 52.0, 42.0


def comparison_page(comparison: Comparison) -> str:
    """The whole page; it needs no network and no other file."""
    body = "\n".join(
        [
            _header(comparison),
            _failures(comparison),
            _table(comparison),
            _scatter(comparison),
            _tests(comparison),
            _methods(),
        ]
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(comparison.title)}</title>\n<style>\n{LOOK.read_text()}</style>\n"
        f"</head>\n<body>\n<main>\n{body}\n</main>\n<script>\n{BEHAVIOR.read_text()}</script>\n"
        "</body>\n</html>\n"
    )


def _header(comparison: Comparison) -> str:
    told = f"{comparison.cases} held-out cases &middot; {escape(comparison.split)} &middot; "
    return (
        f"<header><h1>{escape(comparison.title)}</h1>"
        f"<p>{told}each {escape(comparison.budget)}</p></header>"
    )


def _failures(comparison: Comparison) -> str:
    return "".join(
        f'<p class="note">{escape(row.name)} failed ({escape(row.code)}): {escape(row.message)}</p>'
        for row in comparison.rows
        if row.scored is None
    )


def _table(comparison: Comparison) -> str:
    facts = facts_of(comparison)
    labels = [key for key in facts[0] if key.startswith("dice ")]
    names = ["Dice", "NSD", "HD95 mm", *(key.capitalize() for key in labels), "To the best"]
    names += ["p (Holm)", *(title for title, _ in COLUMNS.values())]
    heads = "".join(f'<th><button type="button">{escape(name)}</button></th>' for name in names)
    rows = "".join(_row(row, one, labels) for row, one in zip(comparison.rows, facts, strict=True))
    return (
        '<section><h2>Side by side</h2><p class="quiet">Dots are cases; the bar is the mean with '
        "its 95&thinsp;% interval. A click on a heading sorts.</p>"
        '<div class="scroll"><table class="sortable"><thead><tr>'
        '<th><button type="button">Recipe</button></th>'
        f'{heads}<th class="wide">Dice of every case, 0 to 1</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div></section>"
    )


def _row(row: Row, facts: dict, labels: list[str]) -> str:
    interval = _between(facts["dice_low"], facts["dice_high"])
    difference = _between(facts["difference_low"], facts["difference_high"])
    undefined = facts["hd95_undefined"]
    mark = f'<sup title="not defined in {undefined} cases">{undefined}</sup>' if undefined else ""
    cells = [
        _cell(facts["dice"], ".3f", interval),
        _cell(facts["nsd"], ".3f"),
        _cell(facts["hd95_mm"], ".2f", mark),
        *(_cell(facts[key], ".3f") for key in labels),
        _cell(facts["difference_to_best"], "+.3f", difference),
        _cell(facts["p_holm"], ".2g"),
        *(
            _cell(facts[key] if row.effort else math.nan, form)
            for key, (_, form) in COLUMNS.items()
        ),
    ]
    name = f"<b>{escape(row.name)}</b>" if facts["is_best"] else escape(row.name)
    return (
        f'<tr><th scope="row">{name}<small> {escape(row.network)}</small></th>'
        f'{"".join(cells)}<td class="wide">{_dots(row)}</td></tr>'
    )


def _dots(row: Row) -> str:
    if row.scored is None:
        return ""
    dice = estimate(row, "dice")
    return strip(
        [float(value) for value in row.scored.means("dice")],
        row.scored.cases,
        mean=dice.mean,
        interval=(dice.low, dice.high),
        color="var(--accent)",
    )


def _cell(value: float, form: str, below: str = "") -> str:
    if math.isnan(value):
        return '<td data-value="">n/a</td>'
    shown = f"{value:{form}}".replace("-", "&minus;") if form != ".0f" else f"{value:,.0f}"
    return f'<td data-value="{value:.6g}">{shown}{below}</td>'


def _between(low: float, high: float) -> str:
    if math.isnan(low):
        return ""
    return f"<small>({low:.3f} to {high:.3f})</small>".replace("-", "&minus;")


def _scatter(comparison: Comparison) -> str:
    """Mean Dice with its interval against the minutes of training."""
    points = [
        (row, row.effort.minutes, estimate(row, "dice"))
        for row in comparison.done
        if row.effort is not None
    ]
    if not points:
        return ""
    longest = max(minutes for _, minutes, _ in points) * 1.15
    bounds = [bound for _, _, dice in points for bound in (dice.low, dice.high, dice.mean)]
    low = math.floor(10 * max(np.nanmin(bounds) - 0.02, 0)) / 10
    high = max(math.ceil(10 * min(np.nanmax(bounds) + 0.02, 1)) / 10, low + 0.1)

    def x(minutes: float) -> float:
        return LEFT + minutes / max(longest, 1e-9) * (WIDTH - LEFT - 12)

    def y(dice: float) -> float:
        return HEIGHT - BOTTOM - (dice - low) / (high - low) * (HEIGHT - BOTTOM - 12)

    drawn = []
    for row, minutes, dice in points:
        if not math.isnan(dice.low):
            drawn.append(
                f'<line class="interval" x1="{x(minutes):.1f}" x2="{x(minutes):.1f}" '
                f'y1="{y(dice.low):.1f}" y2="{y(dice.high):.1f}" style="stroke-width:1.5"/>'
            )
        drawn.append(
            f'<circle cx="{x(minutes):.1f}" cy="{y(dice.mean):.1f}" r="4.5" fill="var(--accent)">'
            f"<title>{escape(row.name)}: {dice.mean:.3f} in {minutes:.1f} min</title></circle>"
            f'<text x="{x(minutes) + 8:.1f}" y="{y(dice.mean) + 4:.1f}">{escape(row.name)}</text>'
        )
    ticks = "".join(
        f'<line class="tick" x1="{LEFT:g}" x2="{WIDTH:g}" y1="{y(t):.1f}" y2="{y(t):.1f}"/>'
        f'<text x="{LEFT - 8:g}" y="{y(t) + 4:.1f}" text-anchor="end">{t:.2f}</text>'
        for t in np.linspace(low, high, 5)
    ) + "".join(
        f'<text x="{x(t):.1f}" y="{HEIGHT - BOTTOM + 18:g}" text-anchor="middle">{t:.3g}</text>'
        for t in np.linspace(0, longest, 5)
    )
    return (
        '<section><h2>Dice against minutes of training</h2><div class="scroll">'
        f'<svg class="strip" style="max-width:900px" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" '
        'aria-label="Mean Dice against minutes of training" font-size="11" fill="currentColor">'
        f'{ticks}{"".join(drawn)}<text x="{WIDTH / 2:g}" y="{HEIGHT - 6:g}" '
        'text-anchor="middle">minutes</text></svg></div></section>'
    )


def _tests(comparison: Comparison) -> str:
    tests = comparison.tests()
    if not tests:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{escape(test.first)} &minus; {escape(test.second)}</th>'
        f"{_cell(test.difference, '+.3f', _between(test.low, test.high))}"
        f"{_cell(test.p, '.2g')}{_cell(test.p_holm, '.2g')}</tr>"
        for test in tests
    )
    return (
        '<section><h2>Tests between rows</h2><div class="scroll"><table class="sortable"><thead>'
        "<tr><th>Pair</th><th>Difference of Dice</th><th>p (Wilcoxon)</th><th>p (Holm)</th></tr>"
        f"</thead><tbody>{rows}</tbody></table></div></section>"
    )


def _methods() -> str:
    told = {**METHODS, "Versions": ", ".join(f"{k} {v}" for k, v in versions().items())}
    lines = "".join(f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in told.items())
    return f"<section><h2>How this was measured</h2><dl>{lines}</dl></section>"
