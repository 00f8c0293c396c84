"""The findings as a table (CSV, a line a mend) and as JSON."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from medseg.doctor.finding import Finding
from medseg.io.atomic import write_json, write_text

COLUMNS = (
    "path", "kind", "state", "code", "sentence", "remedy", "copy", "mended", "before", "after",
)  # fmt: skip


def write_report(folder: Path, findings: Sequence[Finding]) -> tuple[Path, Path]:
    """Write doctor.csv and doctor.json into `folder`; returns their paths."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for one in findings:
        told = (one.path, one.kind, one.state, one.code, one.sentence, one.remedy, one.copy)
        for mend in one.mends or (None,):
            done = (mend.what, mend.before, mend.after) if mend else ("", "", "")
            writer.writerow((*told, *done))
    table, data = folder / "doctor.csv", folder / "doctor.json"
    write_text(table, text.getvalue())
    write_json(data, [asdict(one) for one in findings])
    return table, data
