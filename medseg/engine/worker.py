"""A Dask worker's part of a run: it loads the bundle once, and does one case at a time."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import torch
from distributed import Worker, WorkerPlugin, get_worker

from medseg.bundle.bundle import load_bundle
from medseg.bundle.manifest import MANIFEST
from medseg.bundle.predict import best_device
from medseg.engine.job import Job, Outcome
from medseg.engine.once import run_job
from medseg.fault import InputFault
from medseg.inference.predictor import Predictor
from medseg.inference.settings import WalkSettings
from medseg.io.pickled import file_sha256

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Work:
    """How each worker makes its predictor: plain values that travel.

    `bundle_sha256` is that of the client's `bundle.json`; `threads` are torch's, None as torch has
    them; `folds` are numbers of networks, None all.
    """

    bundle: Path
    bundle_sha256: str
    device: str
    settings: WalkSettings
    folds: tuple[int, ...] | None = None
    trust_code: bool = False
    threads: int | None = None


class Labeler(WorkerPlugin):
    """Holds the predictor of a run in a worker; it is loaded with the first case."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self._predictor: Predictor | None = None

    def setup(self, worker: Worker) -> None:  # noqa: ARG002 (Dask calls it so)
        """Set the number of threads: a worker that takes all cores starves the others."""
        if self.work.threads is not None:
            torch.set_num_threads(self.work.threads)

    def predictor(self) -> Predictor:
        """The predictor.

        Raises:
            InputFault: the bundle is another one here (E_SHARED), or cannot be loaded.
        """
        if self._predictor is None:
            self._predictor = _predictor_of(self.work)
        return self._predictor


def label_case(run: str, job: Job) -> Outcome:
    """Do one case in the worker this is called in; `run` is the name of its Labeler."""
    plugin = get_worker().plugins[run]
    assert isinstance(plugin, Labeler)
    try:
        predictor = plugin.predictor()
    except InputFault as fault:
        return Outcome(case=job.name, state="failed", code=fault.code, message=str(fault))
    return run_job(predictor, job)


def sight(work: Work, output: Path) -> Mapping[str, str]:
    """What a worker sees of what it must share with the client: versions and paths."""
    found = work.bundle / MANIFEST
    try:
        digest = file_sha256(found)
    except (InputFault, OSError):
        digest = ""
    # The claims of cases lie in the output folder, so it must be one and the same.
    return {
        "medseg": version("medseg"),
        "torch": torch.__version__,
        "bundle": digest,
        "output": "there" if output.is_dir() else "",
    }


def _predictor_of(work: Work) -> Predictor:
    if file_sha256(work.bundle / MANIFEST) != work.bundle_sha256:
        raise InputFault(
            f"{work.bundle}: a worker finds another bundle there; put it where all machines read "
            "the same files.",
            code="E_SHARED",
        )
    bundle = load_bundle(work.bundle, trust_code=work.trust_code)
    if work.folds is not None:
        bundle = replace(bundle, models=tuple(bundle.models[fold] for fold in work.folds))
    return bundle.predictor(device=best_device(work.device), settings=work.settings)
