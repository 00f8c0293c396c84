"""One training of a comparison, in a process of its own, so that its peak memory is its own."""

import json
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

import torch

from medseg.bundle.run import train_run
from medseg.fault import InputFault
from medseg.inference.memory import peak
from medseg.io.atomic import write_json
from medseg.models.cost import cost
from medseg.progress import Listener, Progress
from medseg.recipe import Recipe
from medseg.recipe.loader import settings_of
from medseg.training import checkpoints
from medseg.volume import Task

MEASURED = "measured.json"
PATIENCE_S = 30.0


@dataclass(frozen=True)
class Told:
    """The last word of a child: what it measured is in the run folder, or why it did not train."""

    code: str = ""
    message: str = ""


class Connection(Protocol):
    """An end of a pipe."""

    def send(self, obj: Any, /) -> None:
        """Put a word in."""

    def recv(self) -> Any:
        """Wait for a word."""


def train_apart(recipe: Recipe, folder: Path, *, listener: Listener) -> None:
    """Train in a process of its own, or go on there; what it took is in `folder`/measured.json.

    The process takes as many threads as this one.

    Raises:
        InputFault: what the training was refused for, or the process died (E_CHILD).
    """
    context = get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(
        target=_train, args=(there, recipe.resolved(), folder, torch.get_num_threads())
    )
    process.start()
    there.close()
    try:
        told = _heard(here, listener)
        process.join()
    except BaseException:  # the child ends with us, its last checkpoint kept
        process.join(PATIENCE_S)
        raise
    finally:
        if process.is_alive():
            process.terminate()
            process.join()
        here.close()
    if told is None:
        raise InputFault(
            f"the process that trained {recipe.name} died (exit code {process.exitcode}; -9 is "
            "most often memory that ran out).",
            code="E_CHILD",
        )
    if told.code:
        raise InputFault(told.message, code=told.code)


def _heard(connection: Connection, listener: Listener) -> Told | None:
    """Pass events on until the last word; None where the child ended without it."""
    while True:
        try:
            word = connection.recv()
        except EOFError:
            return None
        if isinstance(word, Told):
            return word
        listener(word)


@dataclass
class _Pace:
    """The times between steps; what comes between two, such as a validation, is left out."""

    connection: Connection
    intervals: list[float] = field(default_factory=list)
    last: tuple[int, float] | None = None

    def __call__(self, event: Progress) -> None:
        if event.stage == "training" and event.total:
            now = time.monotonic()
            if self.last is not None and event.done == self.last[0] + 1:
                self.intervals.append(now - self.last[1])
            self.last = (event.done, now)
        self.connection.send(event)

    @property
    def seconds(self) -> float | None:
        return statistics.median(self.intervals) if self.intervals else None


def _train(connection: Connection, settings: dict[str, Any], folder: Path, threads: int) -> None:
    """The child: train, measure, say the last word."""
    torch.set_num_threads(threads)
    recipe = settings_of(settings)
    pace = _Pace(connection)
    with _last_word(connection):
        run = train_run(
            recipe, folder=folder, resume=checkpoints.exist(folder / "checkpoints"), listener=pace
        )
        reached = _peak_bytes()
        write_json(
            folder / MEASURED,
            {
                **_network(recipe, folder),
                "peak_memory_gb": reached / 1e9,
                "seconds_per_step": pace.seconds,
                "steps": run.steps,
                "seconds": run.seconds,
            },
        )


@contextmanager
def _last_word(connection: Connection) -> Iterator[None]:
    try:
        yield
    except InputFault as fault:
        connection.send(Told(fault.code, str(fault)))
    except KeyboardInterrupt:
        connection.send(Told("E_INTERRUPTED", "interrupted; what was finished is kept."))
    else:
        connection.send(Told())


def _peak_bytes() -> int:
    """Memory of this process at its peak; where a GPU was used, what torch reserved on it."""
    if torch.cuda.is_available() and torch.cuda.max_memory_reserved():
        return torch.cuda.max_memory_reserved()
    return peak()


def _network(recipe: Recipe, folder: Path) -> dict[str, Any]:
    plan = json.loads((folder / "plan.json").read_bytes())
    task = Task.from_json(plan["task"])
    with torch.device("meta"):
        model = recipe.build_network(task)
    found = cost(model, in_channels=len(task.channels), patch_size=task.patch_size)
    return {
        "parameters": found.parameters,
        "gmacs": found.gmacs,
        "patch_size": list(task.patch_size),
        "batch_size": plan["batch_size"],
    }
