"""Cases on many processes or machines, by Dask: a case a worker at a time.

The client hands a case to a worker that has none, and to that worker alone. So when a worker is
lost (by the kernel for want of memory, by SIGKILL, with its machine) the case that it was at is
known, and none that merely waited there is blamed. It is tried once more, then put aside.
"""

import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from distributed import Client, Future, wait
from distributed.comm.core import CommClosedError

from medseg.engine.job import Job, Outcome
from medseg.engine.local import STOPS_ALL
from medseg.engine.quarantine import kept_aside, let_go, put_aside
from medseg.engine.worker import Labeler, Work, label_case, sight
from medseg.fault import InputFault

Settle = Callable[[Outcome], None]
TRIES = 2
# Seconds: between two looks, before a case that another run holds is tried again, and until a run
# without any worker ends.
LOOK_S, CLAIMED_S, PATIENCE_S = 0.3, 1.0, 120.0


def run_cluster(
    client: Client,
    work: Work,
    jobs: Iterable[Job],
    *,
    settle: Settle,
    retry: bool = False,
    patience_s: float = PATIENCE_S,
) -> None:
    """Do every job on the workers of `client` and tell `settle` of each, in this thread.

    With `retry` cases that an earlier run put aside are tried again. A run without a worker for
    `patience_s` ends.

    Raises:
        InputFault: the workers see other files or versions (E_SHARED), none is left (E_WORKERS),
            or the scheduler is lost (E_SCHEDULER).
    """
    name = f"medseg-{uuid.uuid4().hex[:12]}"
    waiting = deque[_Waiting]()
    for job in jobs:
        aside = None if retry else kept_aside(job)
        if aside is None:
            waiting.append(_Waiting(job))
        else:
            settle(aside)
    if not waiting:
        return
    waiting[0].job.outputs.folder.mkdir(parents=True, exist_ok=True)
    try:
        _await_workers(client, patience_s)
        _refuse_other_sight(client, work, waiting[0].job.outputs.folder)
        client.register_plugin(Labeler(work), name=name)
        _Run(client, name, waiting, settle, patience_s).go()
        client.unregister_worker_plugin(name)
    except (CommClosedError, TimeoutError) as error:
        raise InputFault(
            f"the Dask scheduler is lost ({type(error).__name__}); what is done is kept. Start it "
            "and run the command again.",
            code="E_SCHEDULER",
        ) from error


@dataclass(frozen=True)
class _Waiting:
    job: Job
    not_before: float = 0.0


@dataclass(eq=False)
class _Run:
    """Cases that wait, and those at the workers, by their addresses."""

    client: Client
    name: str
    waiting: deque[_Waiting]
    settle: Settle
    patience_s: float
    running: dict[str, tuple[Job, Future]] = field(default_factory=dict)
    lost: Counter[str] = field(default_factory=Counter)
    stopped: bool = False

    def go(self) -> None:
        seen = time.monotonic()
        while (self.waiting and not self.stopped) or self.running:
            workers = _addresses(self.client)
            seen = time.monotonic() if workers else seen
            if time.monotonic() - seen > self.patience_s:
                raise _no_workers(self.patience_s)
            for address in [one for one in self.running if one not in workers]:
                self._lose(address)
            for address in workers - self.running.keys():
                self._hand_out(address)
            self._gather()

    def _hand_out(self, address: str) -> None:
        ready = next((w for w in self.waiting if w.not_before <= time.monotonic()), None)
        if ready is None or self.stopped:
            return
        self.waiting.remove(ready)
        future = self.client.submit(
            label_case,
            self.name,
            ready.job,
            key=f"{self.name}-{uuid.uuid4().hex}",
            workers=[address],
            allow_other_workers=False,
            pure=False,
            retries=0,
        )
        self.running[address] = ready.job, future

    def _gather(self) -> None:
        futures = [future for _, future in self.running.values()]
        if not futures:
            time.sleep(LOOK_S)
            return
        try:
            wait(futures, timeout=LOOK_S, return_when="FIRST_COMPLETED")
        except TimeoutError:
            return
        for address, (job, future) in list(self.running.items()):
            if future.status == "finished":
                del self.running[address]
                self._take(job, future.result())
            elif future.status != "pending":
                self._lose(address)

    def _take(self, job: Job, outcome: Outcome) -> None:
        if outcome.state == "claimed":
            self.waiting.append(_Waiting(job, time.monotonic() + CLAIMED_S))
            return
        if outcome.state in ("done", "present"):
            let_go(job)
        self.settle(outcome)
        self.stopped = self.stopped or outcome.code in STOPS_ALL

    def _lose(self, address: str) -> None:
        """The worker of a case is gone: once more, or put aside."""
        job, future = self.running.pop(address)
        future.cancel(force=True)
        self.lost[job.name] += 1
        if self.lost[job.name] < TRIES:
            self.waiting.append(_Waiting(job))
            return
        reason = (
            f"its worker was lost {TRIES} times while it was at it: killed, most often by the "
            "system for want of memory. Look at the image, or give each worker more (--workers "
            "fewer, --max-ram)."
        )
        self.settle(put_aside(job, reason))


def _addresses(client: Client) -> set[str]:
    """The workers that the scheduler knows of now."""
    # Dask types what it gives as a coroutine too, which it is of an asynchronous client alone.
    return set(cast("Mapping[str, int]", client.nthreads()))


def _await_workers(client: Client, patience_s: float) -> None:
    ends = time.monotonic() + patience_s
    while not _addresses(client):
        if time.monotonic() > ends:
            raise _no_workers(patience_s)
        time.sleep(LOOK_S)


def _no_workers(patience_s: float) -> InputFault:
    return InputFault(
        f"the Dask scheduler has had no worker for {patience_s:.0f} s; start some (dask worker "
        "ADDRESS), or look at the queue. What is done is kept.",
        code="E_WORKERS",
    )


def _refuse_other_sight(client: Client, work: Work, output: Path) -> None:
    """Raise InputFault (E_SHARED) where a worker sees other files or versions than the client."""
    ours = sight(work, output)
    seen = cast("Mapping[str, Any]", client.run(sight, work, output, on_error="return"))
    for address, theirs in seen.items():
        if isinstance(theirs, BaseException):
            raise InputFault(
                f"worker {address}: medseg does not run there ({type(theirs).__name__}); install "
                "the same version as here.",
                code="E_SHARED",
            )
        other = [name for name, value in ours.items() if theirs.get(name) != value]
        if other:
            told = {
                "medseg": f"medseg {theirs['medseg']} (here {ours['medseg']})",
                "torch": f"torch {theirs['torch']} (here {ours['torch']})",
                "bundle": f"another bundle, or none, at {work.bundle}",
                "output": f"no folder {output}",
            }
            raise InputFault(
                f"worker {address} has {', '.join(told[name] for name in other)}; all machines "
                "must have one version and see the same files under the same paths.",
                code="E_SHARED",
            )
