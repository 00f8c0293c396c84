"""What `medseg predict` says while it works, case by case."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

from medseg.cli.terminal import Terminal
from medseg.fault import InputFault
from medseg.progress import Listener, Progress, silent

if TYPE_CHECKING:
    from medseg.engine.job import Outcome
    from medseg.engine.report import Report


class Told:
    """Tells of each case as it ends, in the report, on the terminal and by the bar over all."""

    def __init__(self, total: int, terminal: Terminal, report: "Report") -> None:
        self._total, self._terminal, self._report = total, terminal, report
        self._done = self._failed = self._predicted = 0
        self._began = time.monotonic()
        self._full: Outcome | None = None
        self.outcomes: list[Outcome] = []
        self.listener: Listener = silent

    def __call__(self, outcome: "Outcome") -> None:
        """Take in what became of a case."""
        self._done += 1
        self.outcomes.append(outcome)
        self._failed += outcome.is_fault
        if outcome.code == "E_DISKFULL":
            self._full = outcome
        else:
            self._report.add(outcome)
        _tell(outcome, f"({self._done}/{self._total})", self._terminal)
        self._predicted += outcome.state == "done"
        self.listener(
            Progress("cases", self._done, self._total, detail=self._pace(), text=outcome.case)
        )

    def page_of(self, folder: Path) -> None:
        """Draw the page of all pictures, and say where it is; without one nothing else fails."""
        from medseg.engine.pictures import draw_page

        try:
            pages = draw_page(folder, self.outcomes)
        except InputFault as fault:
            self._terminal.error(f"there is no page of pictures: {fault}", code=fault.code)
            return
        if pages:
            self._terminal.say(f"{pages[0]}: a picture of each case.", {"pictures": str(pages[0])})

    def _pace(self) -> dict[str, float]:
        """Cases a second, of those that took time: what is there already is passed in no time."""
        rate = self._predicted / max(time.monotonic() - self._began, 1e-3)
        left = self._total - self._done
        return {"rate": rate, "seconds_left": left / rate} if rate else {}

    def exit_code(self) -> int:
        """0, or 3 where cases failed.

        Raises:
            InputFault: the disk was full (E_DISKFULL).
        """
        if self._full is not None:
            raise InputFault(self._full.message, code=self._full.code)
        if self._failed:
            self._terminal.error(f"{self._failed} of {self._total} cases failed.", code="E_CASES")
        return 3 if self._failed else 0


def _tell(outcome: "Outcome", place: str, terminal: Terminal) -> None:
    from medseg.engine.report import printable

    message, facts = printable(outcome.message), {"case": printable(outcome.case)}
    if outcome.is_fault:
        terminal.error(f"{printable(outcome.case)}: {message}", code=outcome.code)
        return
    path = printable(str(outcome.path))
    if outcome.state == "present":
        kept = message or "there already (--overwrite predicts it again)."
        terminal.say(f"{path} {place}: {kept}", {**facts, "state": "present"})
        return
    if message:
        terminal.say(f"{facts['case']}: {message}", {**facts, "mended": message})
    volumes = ", ".join(f"{name} {ml:.1f} ml" for name, ml in outcome.volumes_ml.items())
    terminal.say(f"{path} {place}: {volumes}", {**facts, "volumes_ml": dict(outcome.volumes_ml)})
