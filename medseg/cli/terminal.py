"""What a person sees: progress with rate and time left, tables, sentences; or JSON lines."""

import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress import (
    Progress as Bar,
)
from rich.table import Table
from rich.text import Text

from medseg.progress import Listener, Progress

SECONDS_BETWEEN_LINES = 10.0
LONGEST_NAME = 40
# The stage that counts whole cases; others then are those of the case at hand.
OVERALL = "cases"


class Terminal:
    """Where a verb speaks. `quiet` leaves results and errors; `as_json` prints JSON lines."""

    def __init__(self, *, quiet: bool = False, as_json: bool = False) -> None:
        self._quiet = quiet
        self._as_json = as_json
        self._out = Console(soft_wrap=True, highlight=False)
        self._err = Console(stderr=True, soft_wrap=True, highlight=False)

    def say(self, text: str, facts: Mapping[str, Any] | None = None) -> None:
        """A sentence on the way; a program gets its `facts` as well."""
        if self._as_json:
            _print_json({"text": text, **(facts or {})})
        elif not self._quiet:
            self._out.print(text, markup=False)

    def result(self, text: str) -> None:
        """A sentence that is what the verb was asked for: also when quiet."""
        if self._as_json:
            _print_json({"result": text})
        else:
            self._out.print(text, markup=False)

    def error(self, text: str, *, code: str) -> None:
        """What went wrong, on stderr."""
        if self._as_json:
            _print_json({"error": text, "code": code})
        else:
            self._err.print(f"medseg: {text}", markup=False)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table; text left, numbers right; names in the first column stay in one piece."""
        if self._as_json:
            _print_json({"table": title, "columns": list(columns), "rows": [list(r) for r in rows]})
            return
        table = Table(title=title or None, title_justify="left", box=None, pad_edge=False)
        for place, column in enumerate(columns):
            numbers = bool(rows) and all(_is_number(row[place]) for row in rows)
            table.add_column(
                column,
                justify="right" if numbers else "left",
                overflow="fold",
                min_width=None if place else _longest(row[0] for row in rows),
            )
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        self._out.print(table)

    @contextmanager
    def progress(self) -> Iterator[Listener]:
        """A listener that draws a bar for each stage, or lines where the output is piped."""
        if self._as_json:
            yield _print_event
        elif self._quiet:
            yield lambda _event: None
        elif self._err.is_terminal:
            with _bars(self._err) as (listener, above):
                out, self._out = self._out, above if self._out.is_terminal else self._out
                try:
                    yield listener
                finally:
                    self._out = out
        else:
            yield _Lines(self._err)


class _Lines:
    """A line for the start and the end of a stage, for each new Dice, and now and then between."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began: dict[str, float] = {}
        self._told: dict[str, float] = {}
        self._done: dict[str, int] = {}
        self._dice: float | None = None

    def __call__(self, event: Progress) -> None:
        now = time.monotonic()
        if event.total == 0:
            self._console.print(event.text, markup=False)
            return
        if event.done < self._done.get(event.stage, event.done + 1):
            self._began[event.stage] = now
            self._told[event.stage] = now if OVERALL in self._done else 0.0
        self._done[event.stage] = event.done
        dice = event.detail.get("dice")
        is_new = dice is not None and dice == dice and dice != self._dice
        if not (is_new or self._is_due(event, now)):
            return
        self._told[event.stage], self._dice = now, dice
        self._console.print(_line(event, now - self._began[event.stage]), markup=False)

    def _is_due(self, event: Progress, now: float) -> bool:
        """Each case is told, and within one what takes long; else start, end and now and then."""
        if event.stage == OVERALL:
            return event.done > 0
        is_last = event.done >= event.total and OVERALL not in self._done
        return is_last or now - self._told[event.stage] >= SECONDS_BETWEEN_LINES


@contextmanager
def _bars(console: Console) -> Iterator[tuple[Listener, Console]]:
    columns = (
        TextColumn("{task.description:<14}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with Bar(*columns, console=console) as bars:
        tasks: dict[str, TaskID] = {}
        began: dict[str, float] = {}
        last: dict[str, int] = {}

        def draw(event: Progress) -> None:
            if event.total == 0:
                bars.console.print(event.text, markup=False)
                return
            if event.stage not in tasks:
                tasks[event.stage] = bars.add_task(event.stage, total=event.total, figures="")
            if event.done < last.get(event.stage, event.done + 1):
                began[event.stage] = time.monotonic()
                bars.reset(tasks[event.stage], total=event.total)
            last[event.stage] = event.done
            seconds = time.monotonic() - began[event.stage]
            bars.update(
                tasks[event.stage],
                completed=event.done,
                total=event.total,
                figures=_figures(event, seconds),
            )

        yield draw, bars.console


def _line(event: Progress, seconds: float) -> str:
    return f"{event.stage}: {event.done}/{event.total} {_figures(event, seconds)}".rstrip()


def _figures(event: Progress, seconds: float) -> str:
    """Rate, time left, and the stage's own figures."""
    detail = dict(event.detail)
    rate = detail.pop("rate", event.done / seconds if seconds > 1 else 0.0)
    left = detail.pop("seconds_left", (event.total - event.done) / rate if rate else 0.0)
    parts = [f"{rate:.2f}/s" if rate else "", f"{_clock(left)} left" if left >= 1 else ""]
    parts += [f"{name} {value:.4f}" for name, value in detail.items() if value == value]
    return "  ".join(part for part in parts if part)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def _print_event(event: Progress) -> None:
    _print_json(
        {
            "stage": event.stage,
            "done": event.done,
            "total": event.total,
            **({"text": event.text} if event.text else {}),
            **{name: value for name, value in event.detail.items() if value == value},
        }
    )


def _print_json(data: dict) -> None:
    sys.stdout.write(json.dumps(data) + "\n")
    sys.stdout.flush()


def _longest(names: Iterable[str]) -> int:
    """The width of a column of names; a path may be folded."""
    return min(LONGEST_NAME, max(map(len, names), default=0))


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).replace("-", "", 1).replace(",", "").isdigit() or text == ""
