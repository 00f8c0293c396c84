"""Cases for a cluster: by name some of them kill the worker that does them."""

import multiprocessing
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from medseg.bundle.bundle import save_bundle
from medseg.bundle.inputs import CaseReading, NiftiCase
from medseg.bundle.rebuilt import build_model
from medseg.engine.worker import Work, sight
from medseg.preprocess.normalise import Normalisation
from medseg.preprocess.record import Preprocessing
from medseg.volume import Target, Task
from tests.engine.small import TABLE

RECIPE = {"name": "small", "model": {"name": "segresnet", "base_features": 8}}


@dataclass(frozen=True)
class DeadlyCase(NiftiCase):
    """A case whose reading ends the process, as the system does it for want of memory."""

    def read(self, channels: Sequence[str]) -> CaseReading:
        del channels
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


@dataclass(frozen=True)
class SlowCase(NiftiCase):
    """A case that takes its time, so that its worker, which it notes, can be killed meanwhile."""

    def read(self, channels: Sequence[str]) -> CaseReading:
        self.files[0].with_suffix(".begun").write_text(str(os.getpid()))
        time.sleep(0.4)
        return NiftiCase(self.files, self.form).read(channels)


@dataclass(frozen=True)
class OnceDeadlyCase(NiftiCase):
    """A case that ends the first process that reads it, and leaves a note that it did."""

    def read(self, channels: Sequence[str]) -> CaseReading:
        note = self.files[0].with_suffix(".once")
        if not note.exists():
            note.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return NiftiCase(self.files, self.form).read(channels)


def bundle(folder: Path) -> Path:
    """A bundle with a real network of few weights."""
    task = Task(("MR",), Target(TABLE), (1.0, 1.0, 2.0), (8, 8, 8))
    torch.manual_seed(0)
    model: nn.Module = build_model(RECIPE, task)
    save_bundle(
        folder,
        model=model,
        recipe=RECIPE,
        task=task,
        preprocessing=Preprocessing(None, (Normalisation("zscore"),)),
        training={},
    )
    return folder


def sight_without(lacking: str, work: Work, output: Path) -> Mapping[str, str]:
    """What a process sees; a worker, but not the client, something else."""
    found = dict(sight(work, output))
    if multiprocessing.current_process().name != "MainProcess":
        found[lacking] = "another"
    return found
