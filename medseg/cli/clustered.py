"""`medseg predict --workers`, `--scheduler` and `--slurm`: the cases of a run on many processes."""

import argparse
from contextlib import AbstractContextManager
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

from medseg.cli.amounts import numbers
from medseg.cli.terminal import Terminal
from medseg.cli.told import Told
from medseg.fault import InputFault
from medseg.progress import Progress

if TYPE_CHECKING:
    from distributed import Client

    from medseg.engine.job import Job, Outcome
    from medseg.engine.report import Report
    from medseg.inference.settings import WalkSettings

MOST_WORKERS = 10_000


def add_cluster(group: argparse._ArgumentGroup) -> None:
    """Register the options."""
    group.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes of this machine, or with --slurm jobs; --max-ram is that of each",
    )
    group.add_argument(
        "--scheduler", metavar="ADDRESS", help="workers of a Dask scheduler: tcp://host:8786"
    )
    group.add_argument(
        "--slurm",
        metavar="KEY=VALUE,...",
        help="workers in Slurm jobs: queue, account, cores, memory, walltime, gres, constraint, "
        "partition, qos (queue=gpu,memory=32GB,walltime=04:00:00,gres=gpu:1)",
    )
    group.add_argument(
        "--retry",
        action="store_true",
        help="try cases again that an earlier run put aside, for they lost their worker twice",
    )


def is_clustered(args: argparse.Namespace) -> bool:
    """Whether the cases go to workers."""
    return args.workers is not None or args.scheduler is not None or args.slurm is not None


def refuse_cluster(args: argparse.Namespace) -> None:
    """Raise InputFault (E_USE, E_EXTRA) where the options do not fit; nothing heavy is loaded."""
    if not is_clustered(args):
        return
    if args.workers is not None and not 1 <= args.workers <= MOST_WORKERS:
        raise InputFault(f"--workers {args.workers}: it is 1 to {MOST_WORKERS}.", code="E_USE")
    if args.scheduler is not None and (args.workers is not None or args.slurm is not None):
        raise InputFault(
            "--scheduler has workers of its own; leave --workers and --slurm out.", code="E_USE"
        )
    if args.slurm is not None and args.workers is None:
        raise InputFault("--slurm needs --workers N: the number of jobs.", code="E_USE")
    if args.deadline is not None:
        raise InputFault(
            "--deadline is for one process; leave it out, or the workers.", code="E_USE"
        )
    if args.slurm is not None:
        _slurm_options(args.slurm)
    needed = ["distributed", *(["dask_jobqueue"] if args.slurm is not None else [])]
    if any(find_spec(name) is None for name in needed):
        raise InputFault(
            "many processes need Dask, which is not installed: pip install 'medseg[cluster]'.",
            code="E_EXTRA",
        )


def run_clustered(
    args: argparse.Namespace,
    settings: "WalkSettings",
    jobs: list["Job"],
    report: "Report",
    terminal: Terminal,
) -> int:
    """Do the jobs on the workers that were asked for, and return the exit code."""
    from medseg.engine.cluster import run_cluster
    from medseg.engine.worker import Work
    from medseg.engine.workers import threads_each

    local = args.scheduler is None and args.slurm is None
    work = Work(
        bundle=args.bundle.resolve(),
        bundle_sha256=jobs[0].terms.bundle_sha256,
        device=args.device,
        settings=_share(settings, args.workers) if local else settings,
        folds=None if args.folds is None else numbers("--folds", args.folds),
        trust_code=args.trust_code,
        threads=threads_each(args.workers) if local else None,
    )
    folder = jobs[0].outputs.folder.resolve()
    elsewhere = [replace(job, outputs=replace(job.outputs, folder=folder)) for job in jobs]
    told = Told(len(jobs), terminal, report)
    paths = {job.name: job.path for job in jobs}

    def settle(outcome: "Outcome") -> None:
        """The path is told as it was given."""
        told(replace(outcome, path=outcome.path and paths[outcome.case]))

    try:
        with terminal.progress() as listener, _client(args) as client:
            told.listener = listener
            listener(Progress("cases", 0, len(jobs)))
            run_cluster(client, work, elsewhere, settle=settle, retry=args.retry)
    finally:
        report.write()
    if jobs[0].terms.pictures:
        told.page_of(jobs[0].outputs.folder)
    return told.exit_code()


def _client(args: argparse.Namespace) -> AbstractContextManager["Client"]:
    from medseg.engine.workers import local_workers, slurm_workers, workers_of

    if args.scheduler is not None:
        return workers_of(args.scheduler)
    if args.slurm is not None:
        return slurm_workers(args.workers, _slurm_options(args.slurm))
    return local_workers(args.workers)


def _share(settings: "WalkSettings", workers: int) -> "WalkSettings":
    """Without a budget each worker has its share of what is free, or they would take it twice."""
    from medseg.inference.memory import available

    free = available()
    if settings.max_ram is not None or free is None:
        return settings
    return replace(settings, max_ram=max(free // workers, 1))


def _slurm_options(text: str) -> dict[str, str]:
    pairs = [part.strip().partition("=") for part in text.split(",") if part.strip()]
    if any(not (key and sign and value) for key, sign, value in pairs):
        raise InputFault(
            f"--slurm {text}: write queue=gpu,memory=32GB,walltime=04:00:00.", code="E_USE"
        )
    return {key.strip(): value.strip() for key, _, value in pairs}
