"""Cases on this machine: one is read and one is written while the network labels a third.

Three threads, and at most one case between two of them: a case is not read before the one ahead of
it is taken, and no label map is made before the one behind is written.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue

from medseg.engine.job import Job, Outcome
from medseg.engine.once import Labeled, Opened, finish_job, label_job, open_job, run_job
from medseg.inference.predictor import Predictor
from medseg.progress import Listener, Progress, silent

Settle = Callable[[Outcome], None]
# What would stop every other case too.
STOPS_ALL = ("E_DISKFULL",)
WAIT_S = 1.0


def run_local(
    predictor: Predictor,
    jobs: Sequence[Job],
    *,
    settle: Settle,
    listener: Listener = silent,
    overlapped: bool = True,
) -> None:
    """Do every job and tell `settle` of each, in this thread; cases of other runs are waited for.

    Under a budget of memory the stages are not `overlapped`: the budget is that of one case. A full
    disk ends the run after the cases at hand. On Ctrl-C what is labeled is still written and told
    before KeyboardInterrupt goes on.
    """
    one_pass = _side_by_side if overlapped else _in_turn
    waiting = list(jobs)
    told = False
    while waiting:
        claimed: set[str] = set()

        def sorted_out(outcome: Outcome, claimed: set[str] = claimed) -> None:
            if outcome.state == "claimed":
                claimed.add(outcome.case)
            else:
                settle(outcome)

        if one_pass(predictor, waiting, sorted_out, listener):
            return
        waiting = [job for job in waiting if job.name in claimed]
        if waiting and not told:
            told = True
            text = f"waiting for {len(waiting)} cases that another run is at."
            listener(Progress("cases", 0, 0, text=text))
        if waiting:
            time.sleep(WAIT_S)


def _in_turn(predictor: Predictor, jobs: Sequence[Job], settle: Settle, listener: Listener) -> bool:
    """One case after the other; whether the run is to end early."""
    for job in jobs:
        outcome = run_job(predictor, job, listener=listener)
        settle(outcome)
        if outcome.code in STOPS_ALL:
            return True
    return False


def _side_by_side(
    predictor: Predictor, jobs: Sequence[Job], settle: Settle, listener: Listener
) -> bool:
    """The three stages overlapped; whether the run is to end early."""
    if len(jobs) == 1:
        return _in_turn(predictor, jobs, settle, listener)
    stages = _Stages(predictor, jobs, listener)
    return stages.run(settle)


@dataclass(eq=False)
class _Stages:
    """The threads, what lies between them, and the word to stop."""

    predictor: Predictor
    jobs: Sequence[Job]
    listener: Listener
    stop: threading.Event = field(default_factory=threading.Event)
    opened: "SimpleQueue[Opened | None]" = field(default_factory=SimpleQueue)
    labeled: "SimpleQueue[Labeled | None]" = field(default_factory=SimpleQueue)
    results: "SimpleQueue[Outcome | BaseException | None]" = field(default_factory=SimpleQueue)
    room_ahead: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(1))
    room_behind: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(1))

    def run(self, settle: Settle) -> bool:
        for stage, after in ((self._read, self.opened), (self._label, self.labeled)):
            self._started(stage, after)
        self._started(self._write, self.results)
        fatal: BaseException | None = None
        full = False
        while True:
            try:
                result = _raised(self.results.get())
                if result is None:
                    break
                settle(result)
                if result.code in STOPS_ALL:
                    full = True
                    self.stop.set()
            except BaseException as error:  # raised when the threads have ended
                self.stop.set()
                if fatal is not None:
                    raise
                fatal = error
        if fatal is not None:
            raise fatal
        return full

    def _started(self, stage: Callable[[], None], after: SimpleQueue) -> None:
        """Run a stage in a thread; however it ends, the one after it learns that it did."""

        def whole() -> None:
            try:
                stage()
            except BaseException as error:  # noqa: BLE001  # goes on in the main thread
                self.results.put(error)
            finally:
                after.put(None)

        threading.Thread(target=whole, name=stage.__name__, daemon=True).start()

    def _read(self) -> None:
        for job in self.jobs:
            self.room_ahead.acquire()
            if self.stop.is_set():
                return
            opened = open_job(self.predictor, job)
            if isinstance(opened, Outcome):
                self.results.put(opened)
                self.room_ahead.release()
            else:
                self.opened.put(opened)
            del opened

    def _label(self) -> None:
        while (opened := self.opened.get()) is not None:
            self.room_ahead.release()
            if self.stop.is_set():
                opened.held.release(finished=False)
                continue
            try:
                labeled = label_job(self.predictor, opened, listener=self._heard)
            except _Stopped:
                continue
            del opened
            if isinstance(labeled, Outcome):
                self.results.put(labeled)
            else:
                self.room_behind.acquire()
                self.labeled.put(labeled)
            del labeled

    def _write(self) -> None:
        while (labeled := self.labeled.get()) is not None:
            self.results.put(finish_job(self.predictor, labeled))
            del labeled
            self.room_behind.release()

    def _heard(self, event: Progress) -> None:
        """Pass progress on; the walk ends at its next window once the run is to stop."""
        if self.stop.is_set():
            raise _Stopped
        try:
            self.listener(event)
        except OSError as error:
            # Nobody reads any more (a closed pipe): that is no fault of the case.
            self.results.put(error)
            raise _Stopped from error


def _raised(result: Outcome | BaseException | None) -> Outcome | None:
    if isinstance(result, BaseException):
        raise result
    return result


class _Stopped(BaseException):
    """The case is given up, for the run ends; it is no fault of the case."""
