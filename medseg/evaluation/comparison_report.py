"""The files of a comparison: comparison.csv, comparison.json, comparison.html."""

import csv
import io
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medseg.evaluation.comparison import Comparison, facts_of
from medseg.evaluation.comparison_page import METHODS, comparison_page
from medseg.evaluation.tables import versions
from medseg.io.atomic import write_json, write_text


@dataclass(frozen=True)
class ComparisonReport:
    """Where the files lie."""

    csv: Path
    json: Path
    page: Path


def write_comparison(comparison: Comparison, folder: Path) -> ComparisonReport:
    """Write the three files; a cell is empty (null in the JSON) where there is nothing to tell."""
    report = ComparisonReport(
        folder / "comparison.csv", folder / "comparison.json", folder / "comparison.html"
    )
    rows = [{key: _plain(value) for key, value in facts.items()} for facts in facts_of(comparison)]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(report.csv, text.getvalue())
    write_json(report.json, _as_json(comparison, rows))
    write_text(report.page, comparison_page(comparison))
    return report


def _as_json(comparison: Comparison, rows: list[dict[str, Any]]) -> dict[str, Any]:
    messages = {row.name: row.message for row in comparison.rows}
    return {
        "title": comparison.title,
        "budget": comparison.budget,
        "split": comparison.split,
        "cases": comparison.cases,
        "best": comparison.best,
        "rows": [{**row, "message": messages[row["name"]]} for row in rows],
        "tests": [
            {key: _plain(value) for key, value in asdict(test).items()}
            for test in comparison.tests()
        ],
        "methods": dict(METHODS),
        "versions": dict(versions()),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return None if math.isnan(value) else float(f"{value:.6g}")
    return value
