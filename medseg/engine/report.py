"""`report.csv`: a row a case, kept up to date while a run goes on, and over several runs."""

import csv
import fcntl
import io
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from medseg.engine.job import Outcome
from medseg.engine.receipt import FOLDER
from medseg.fault import InputFault
from medseg.io.atomic import write_text

NAME = "report.csv"
FIRST = ("case", "state", "code", "seconds", "read_s", "network_s", "write_s", "peak_mb")
LAST = ("path", "message")
# Between two writings of a report passes this many times what one takes: thousands of rows are
# thousands of small files otherwise.
SPARING = 20.0

Row = Mapping[str, str]


class Report:
    """The report of an output folder; rows of other runs and earlier ones stay in it."""

    def __init__(self, folder: Path) -> None:
        """Raise an InputFault (E_EXISTS) where another program's report.csv is there."""
        self._folder = folder
        self._path = folder / NAME
        self._unwritten: dict[str, Outcome] = {}
        self._next = 0.0
        _rows_of(self._path)

    def add(self, outcome: Outcome) -> None:
        """Take in what became of a case; the file follows at once, or soon where it is long."""
        self._unwritten[outcome.case] = outcome
        if time.monotonic() >= self._next:
            self.write()

    def write(self) -> None:
        """Write what is not yet written.

        Raises:
            InputFault: it cannot be written (E_DISKFULL, E_WRITE).
        """
        if not self._unwritten:
            return
        began = time.monotonic()
        with _locked(self._folder / FOLDER / "report.lock"):
            rows = _rows_of(self._path)
            for outcome in self._unwritten.values():
                row = _row(outcome, self._folder)
                rows[row["case"]] = _merged(rows.get(row["case"]), row)
            write_text(self._path, _table(rows))
        self._unwritten.clear()
        self._next = time.monotonic() + SPARING * (time.monotonic() - began)


def _rows_of(path: Path) -> dict[str, Row]:
    try:
        text = path.read_text("utf-8", errors="replace")
    except FileNotFoundError:
        return {}
    rows = csv.DictReader(io.StringIO(text, newline=""))
    if not {"case", "state"} <= set(rows.fieldnames or ()):
        raise InputFault(
            f"{path}: it is there already and is no report of medseg; move it, or choose another "
            "folder for the results.",
            code="E_EXISTS",
        )
    return {
        row["case"]: {name: value or "" for name, value in row.items() if name is not None}
        for row in rows
    }


def _row(outcome: Outcome, folder: Path) -> Row:
    figures = {
        "seconds": f"{outcome.seconds:.2f}",
        "read_s": f"{outcome.read_s:.2f}",
        "network_s": f"{outcome.network_s:.2f}",
        "write_s": f"{outcome.write_s:.2f}",
        "peak_mb": f"{outcome.peak_mb:.0f}" if outcome.peak_mb else "",
    }
    for label, count in outcome.voxels.items():
        figures[f"{label} voxels"] = str(count)
    for label, volume in outcome.volumes_ml.items():
        figures[f"{label} ml"] = f"{volume:.3f}"
    path = outcome.path.relative_to(folder).as_posix() if outcome.path else ""
    return {
        "case": printable(outcome.case),
        "state": outcome.state,
        "code": outcome.code,
        **figures,
        "path": printable(path),
        "message": printable(outcome.message),
    }


def _merged(before: Row | None, now: Row) -> Row:
    """The row of a case that is there without a receipt keeps the figures it had."""
    if before is None or now["state"] != "present" or any(n.endswith(" ml") for n in now):
        return now
    return {**before, "state": "present", "code": "", "message": now["message"]}


def _table(rows: Mapping[str, Row]) -> str:
    seen = dict.fromkeys(name for row in rows.values() for name in row)
    labels = [name for name in seen if name not in FIRST and name not in LAST]
    text = io.StringIO()
    writer = csv.DictWriter(text, [*FIRST, *labels, *LAST], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows.values())
    return text.getvalue()


def printable(text: str) -> str:
    """`text` with bytes that are no text shown as such: a file's name may be any bytes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock in `path`: two runs that add rows do so in turn."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _lock(handle)
        yield
    finally:
        os.close(handle)


def _lock(handle: int) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError:
        # No locks on this file system: rows of a run at the same moment may be lost, receipts not.
        return
