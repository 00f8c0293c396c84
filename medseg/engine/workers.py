"""Where Dask's workers come from: processes of this machine, a scheduler's address, or Slurm."""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from dask import config
from distributed import Client, LocalCluster

from medseg.fault import InputFault

# Options of --slurm: those that dask-jobqueue has a name for, and those handed to sbatch.
NAMED = ("queue", "account", "cores", "memory", "walltime")
SLURM = (*NAMED, "gres", "constraint", "partition", "qos")
CONNECT_S = "10s"


@contextmanager
def local_workers(count: int) -> Iterator[Client]:
    """A client of `count` worker processes on this machine, which end with the block."""
    _hush()
    settings = {
        # The task on a worker that is lost is not given to another: the case might lose it too.
        "distributed.scheduler.allowed-failures": 0,
        # What a case may take is the walk's business; a paused worker would wait forever.
        "distributed.worker.memory.target": False,
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.pause": False,
    }
    with (
        config.set(settings),
        LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            processes=True,
            memory_limit=0,
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@contextmanager
def workers_of(address: str) -> Iterator[Client]:
    """A client of the scheduler at `address`.

    Raises:
        InputFault: nothing answers there (E_SCHEDULER).
    """
    _hush()
    try:
        client = Client(address, timeout=CONNECT_S)
    except (OSError, ValueError) as error:
        raise InputFault(
            f"--scheduler {address}: no Dask scheduler answers there ({type(error).__name__}); "
            "start one (dask scheduler), or look at the address (tcp://host:8786).",
            code="E_SCHEDULER",
        ) from error
    with client:
        yield client


@contextmanager
def slurm_workers(count: int, options: Mapping[str, str]) -> Iterator[Client]:
    """A client of `count` Slurm jobs of a worker each, which end with the block.

    Raises:
        InputFault: dask-jobqueue is missing (E_EXTRA), or an option is none (E_USE).
    """
    _hush()
    with _slurm_cluster(options) as cluster, Client(cluster) as client:
        cluster.scale(jobs=count)
        yield client


def slurm_script(options: Mapping[str, str]) -> str:
    """The job script that `slurm_workers` submits."""
    with _slurm_cluster(options) as cluster:
        return cluster.job_script()


def threads_each(count: int) -> int:
    """Threads of each of `count` workers on this machine."""
    return max((os.cpu_count() or 1) // count, 1)


def _slurm_cluster(options: Mapping[str, str]) -> Any:
    try:
        from dask_jobqueue.slurm import SLURMCluster  # noqa: PLC0415 (an extra)
    except ImportError as error:
        raise InputFault(
            "--slurm needs dask-jobqueue: pip install 'medseg[cluster]'.", code="E_EXTRA"
        ) from error
    unknown = sorted(options.keys() - set(SLURM))
    if unknown:
        raise InputFault(f"--slurm {unknown[0]}: it is none of {', '.join(SLURM)}.", code="E_USE")
    named: dict[str, Any] = {key: value for key, value in options.items() if key in NAMED}
    further = [f"--{key}={value}" for key, value in options.items() if key not in NAMED]
    cores = int(named.pop("cores", "1"))
    return SLURMCluster(
        cores=cores,
        processes=1,
        memory=named.pop("memory", "16GB"),
        job_extra_directives=further,
        # A worker that is lost is not started again within its job; Slurm's limit is its own.
        worker_extra_args=["--memory-limit", "0", "--nthreads", "1"],
        scheduler_options={"dashboard_address": ":0"},
        **named,
    )


def _hush() -> None:
    """A lost worker is told by its case; Dask's own pages about it say less."""
    for name in ("distributed", "distributed.nanny", "distributed.worker", "distributed.core"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
