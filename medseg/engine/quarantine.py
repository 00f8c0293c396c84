"""Cases that lost their worker twice: kept aside, so that a rerun does not lose it again."""

import json
from pathlib import Path

from medseg.engine.job import Job, Outcome
from medseg.engine.receipt import FOLDER
from medseg.io.atomic import write_json

CODE = "E_KILLED"


def put_aside(job: Job, reason: str) -> Outcome:
    """The outcome of a case that is given up, and a note for the next run."""
    write_json(_note(job), {"case": job.name, "code": CODE, "reason": reason})
    return _outcome(job, reason)


def kept_aside(job: Job) -> Outcome | None:
    """The outcome of a case that an earlier run gave up; None where there is none."""
    if job.terms.overwrite:
        return None
    try:
        reason = json.loads(_note(job).read_text(encoding="utf-8"))["reason"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return _outcome(job, f"{reason} In an earlier run; --overwrite or --retry tries it again.")


def let_go(job: Job) -> None:
    """Forget that a case was given up."""
    _note(job).unlink(missing_ok=True)


def _outcome(job: Job, reason: str) -> Outcome:
    message = f"{job.name}: {reason}"
    return Outcome(case=job.name, state="quarantined", code=CODE, message=message)


def _note(job: Job) -> Path:
    return job.outputs.folder / FOLDER / "quarantine" / f"{job.name}.json"
