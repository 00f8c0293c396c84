"""Receipts: what each output was made of, so that a rerun does what is missing and no more.

They lie in `OUT/.medseg/receipts`, one JSON file a case: beside the outputs, so that they move with
them, and hidden, so that whoever takes OUT for a folder of label maps finds label maps alone.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medseg.bundle.manifest import versions
from medseg.engine.fingerprint import Fingerprint, fingerprint
from medseg.engine.job import Job, Outcome
from medseg.fault import InputFault
from medseg.io.atomic import write_text

FORMAT = 1
FOLDER = ".medseg"


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What is noted of a case that was done.

    `inputs` is what was read, `outputs` what was written, by path within the output folder;
    `settings` decided the labels; `noted` is for the reader: versions, geometry, notes, times.
    """

    case: str
    inputs: Fingerprint
    bundle_sha256: str
    settings: Mapping[str, Any]
    outputs: Mapping[str, Fingerprint]
    noted: Mapping[str, Any]

    def outcome(self, job: Job) -> Outcome:
        """The case's row, as it was when it was done."""
        figures = self.noted.get("figures", {})
        return Outcome(
            case=job.name,
            state="present",
            message=" ".join(self.noted.get("notes", ())),
            path=job.path,
            **figures,
        )


def claim_path(job: Job) -> Path:
    """The file by which a run claims the case."""
    return job.outputs.folder / FOLDER / "claims" / f"{job.name}.at"


def receipt_path(job: Job) -> Path:
    """Where the receipt of the case lies."""
    return job.outputs.folder / FOLDER / "receipts" / f"{job.name}.json"


def read_receipt(job: Job) -> Receipt | None:
    """The receipt of the case; None where there is none that this medseg can read."""
    try:
        data = json.loads(receipt_path(job).read_text("utf-8"))
        if data["format"] != FORMAT:
            return None
        return Receipt(
            case=data["case"],
            inputs=Fingerprint(**data["inputs"]),
            bundle_sha256=data["bundle_sha256"],
            settings=data["settings"],
            outputs={name: Fingerprint(**one) for name, one in data["outputs"].items()},
            noted=data["noted"],
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write_receipt(
    job: Job,
    *,
    inputs: Fingerprint,
    outcome: Outcome,
    geometry: Mapping[str, Any],
    notes: tuple[str, ...],
    earlier: Receipt | None,
) -> None:
    """Note that the case is done; outputs of an `earlier` receipt on the same terms stay in it.

    Raises:
        InputFault: it cannot be written (E_DISKFULL, E_WRITE).
    """
    terms = job.terms
    kept = {}
    if earlier is not None and not _differences(job, earlier, inputs):
        kept = dict(earlier.outputs)
    made = {_named(job, path): fingerprint([path]) for path in job.outputs.targets(job.name)}
    receipt = Receipt(
        case=job.name,
        inputs=inputs,
        bundle_sha256=terms.bundle_sha256,
        settings=dict(terms.settings),
        outputs=kept | made,
        noted={
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            "bundle": f"{terms.origin.model_name} {terms.origin.model_version}",
            "versions": versions(),
            **terms.facts,
            "geometry": geometry,
            "notes": list(notes),
            "figures": {
                "read_s": outcome.read_s,
                "network_s": outcome.network_s,
                "write_s": outcome.write_s,
                "peak_mb": outcome.peak_mb,
                "voxels": dict(outcome.voxels),
                "volumes_ml": dict(outcome.volumes_ml),
            },
        },
    )
    # ASCII: names of files may be bytes that are no text.
    text = json.dumps({"format": FORMAT, **asdict(receipt)}, indent=1)
    write_text(receipt_path(job), text + "\n")


def looks_done(job: Job) -> bool:
    """Whether the case will most likely be passed over: its input is not read to know."""
    receipt = None if job.terms.overwrite else read_receipt(job)
    if receipt is None or not job.outputs.are_written(job.name):
        return False
    return not _differences(job, receipt, receipt.inputs)


def reason_to_predict(
    job: Job, receipt: Receipt | None, inputs: Fingerprint, *, was_left: bool
) -> str | None:
    """Why the case is to be predicted ("" for the first time); None where all of it is there.

    `was_left` says that an earlier run was stopped at this case, so its outputs are our own.

    Raises:
        InputFault: an output is there that medseg did not write (E_EXISTS), or that was changed
            since (E_CHANGED): somebody's work, which is not written over unless that is asked.
    """
    if job.terms.overwrite:
        return ""
    if not was_left:
        _refuse_others_work(job, receipt)
    missing = not job.outputs.are_written(job.name)
    if receipt is None:
        # Label maps without receipts: of an earlier medseg, or of another program.
        return "" if missing or was_left else None
    differences = _differences(job, receipt, inputs)
    if differences:
        return f"predicted again, for {' and '.join(differences)} changed."
    return "" if missing or _changed(job, receipt) else None


def _differences(job: Job, receipt: Receipt, inputs: Fingerprint) -> list[str]:
    pairs = {
        "the input": (receipt.inputs.sha256, inputs.sha256),
        "the bundle": (receipt.bundle_sha256, job.terms.bundle_sha256),
        "the settings": (receipt.settings, json.loads(json.dumps(dict(job.terms.settings)))),
    }
    return [name for name, (before, now) in pairs.items() if before != now]


def _refuse_others_work(job: Job, receipt: Receipt | None) -> None:
    known = receipt.outputs if receipt else {}
    strange = [
        path
        for path in job.outputs.targets(job.name)
        if path.exists() and _named(job, path) not in known
    ]
    if strange and (receipt is not None or not job.outputs.are_written(job.name)):
        raise InputFault(
            f"{strange[0]}: it is there already and no receipt says that medseg made it; move it, "
            "or write over it (--overwrite).",
            code="E_EXISTS",
        )
    changed = _changed(job, receipt) if receipt else []
    if changed:
        raise InputFault(
            f"{changed[0]}: it was changed after it was written, so it is kept; choose another "
            "folder, or write over it (--overwrite).",
            code="E_CHANGED",
        )


def _changed(job: Job, receipt: Receipt) -> list[Path]:
    """Outputs that are there with other bytes than those that were written."""
    return [
        path
        for path in job.outputs.targets(job.name)
        if path.exists()
        and (known := receipt.outputs.get(_named(job, path))) is not None
        and fingerprint([path], known=known).sha256 != known.sha256
    ]


def _named(job: Job, path: Path) -> str:
    return path.relative_to(job.outputs.folder).as_posix()
