"""A comparison: every recipe trained on every fold, predicted with, scored; then one table.

`OUT/runs/NAME/fold_N` is an ordinary run's folder, with the held-out cases' label maps in
`predictions` and their scores in `evaluation`. What is finished is not done again.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import ceil
from pathlib import Path
from typing import Any

from medseg.bundle.bundle import Bundle, load_bundle
from medseg.bundle.held_out import RECIPE, SPLIT
from medseg.bundle.inputs import NiftiCase
from medseg.bundle.manifest import MANIFEST
from medseg.bundle.outputs import Outputs
from medseg.bundle.predict import best_device
from medseg.bundle.run import run_folder
from medseg.data.cases import Case, Listing, open_listing
from medseg.data.splits import load_split
from medseg.engine.compare_child import MEASURED, train_apart
from medseg.engine.compare_plan import Budget, Entry
from medseg.engine.job import Job, Outcome, Terms
from medseg.engine.local import run_local
from medseg.evaluation.comparison import Comparison, Row, Scored, effort_of
from medseg.evaluation.evaluate import evaluate
from medseg.evaluation.report import write_report
from medseg.fault import InputFault
from medseg.io.claim import alone_in
from medseg.io.formats import Origin
from medseg.io.pickled import file_sha256
from medseg.progress import Listener, Progress
from medseg.recipe import Recipe

RUNS, PREDICTIONS, EVALUATION = "runs", "predictions", "evaluation"
SCORES = "scores.json"
PICTURES = 6
SHA256_SHOWN = 12
OVERALL = "runs"


def compare(
    entries: Sequence[Entry], output: Path, *, budget: Budget, resume: bool, listener: Listener
) -> Comparison:
    """Do all runs, one after the other; one that fails is a row that says so.

    Raises:
        InputFault: runs are there and `resume` was not asked for, or they are of other settings
            (E_RUN), or another process is at it (E_RUN); the data set cannot be used.
    """
    runs = output / RUNS
    with alone_in(output, "comparison"):
        return _compared(entries, runs, budget=budget, resume=resume, listener=listener)


def _compared(
    entries: Sequence[Entry], runs: Path, *, budget: Budget, resume: bool, listener: Listener
) -> Comparison:
    _refuse_runs(entries, runs, resume=resume)
    first = entries[0].recipes[0]
    listing = open_listing(first.card, first.data.root)
    splits = [recipe.data.split(listing) for recipe in entries[0].recipes]
    total = sum(len(entry.recipes) for entry in entries)
    count = _Count(total, listener)
    rows = [_row(entry, listing, runs, budget, count) for entry in entries]
    return Comparison(
        title=f"Comparison on {first.card.name}",
        rows=tuple(rows),
        budget=f"trained for {budget}",
        split="; ".join(split.origin for split in splits),
    )


@dataclass
class _Count:
    """Runs done of all of them, told as they end."""

    total: int
    listener: Listener
    done: int = field(default=0)

    @contextmanager
    def one(self) -> Iterator[None]:
        yield
        self.done += 1
        self.listener(Progress(OVERALL, self.done, self.total))


def _row(entry: Entry, listing: Listing, runs: Path, budget: Budget, count: _Count) -> Row:
    row = Row(entry.name, entry.network)
    scores, measured = [], []
    for recipe in entry.recipes:
        stage = f"{entry.name} {recipe.data.fold}"
        folder = run_folder(runs, recipe)
        with count.one():
            try:
                _do(recipe, folder, listing, stage, budget, count.listener)
                scores.append(_read(folder / EVALUATION / SCORES))
                measured.append(_read(folder / MEASURED))
            except InputFault as fault:
                if fault.code == "E_INTERRUPTED":
                    raise KeyboardInterrupt from fault
                told = f"{stage} failed ({fault.code}): {fault}"
                count.listener(Progress(stage, 0, 0, text=told))
                row = replace(row, code=fault.code, message=f"fold {recipe.data.fold}: {fault}")
    if row.code:
        return row
    return replace(row, scored=Scored.from_reports(scores), effort=effort_of(measured))


def _do(
    recipe: Recipe,
    folder: Path,
    listing: Listing,
    stage: str,
    budget: Budget,
    listener: Listener,
) -> None:
    """One run: train, predict, evaluate, each unless it is finished."""
    if not (folder / MEASURED).is_file():
        train_apart(recipe, folder, listener=_named(stage, budget, listener))
    if (folder / EVALUATION / SCORES).is_file():
        return
    names = load_split(folder / SPLIT, listing.cases).validation
    held_out = [listing.case(name) for name in names]
    bundle = load_bundle(folder / "bundle", trust_code=True)
    _predict(bundle, recipe, held_out, folder, stage, listener)
    evaluation = evaluate(
        folder / PREDICTIONS,
        listing,
        bundle.task.target,
        cases=names,
        listener=_staged(f"{stage} scores", listener),
    )
    # The scores are what a finished run is known by; the page beside them is for the reader.
    write_report(evaluation, folder / EVALUATION, title=stage, most_pictures=PICTURES)


def _predict(
    bundle: Bundle,
    recipe: Recipe,
    cases: Sequence[Case],
    folder: Path,
    stage: str,
    listener: Listener,
) -> None:
    """Label the held-out cases as `medseg predict` does; those with a receipt are done."""
    device = best_device("cpu" if recipe.trainer.accelerator == "cpu" else "auto")
    terms = Terms(
        origin=Origin(recipe.name, bundle.sha256[:SHA256_SHOWN]),
        bundle_sha256=file_sha256(folder / "bundle" / MANIFEST),
        facts={"device": str(device)},
        rules=tuple(bundle.postprocess),
        pictures=False,
    )
    outputs = Outputs(folder / PREDICTIONS)
    jobs = [
        Job(name=case.id, case=NiftiCase(case.images), outputs=outputs, terms=terms)
        for case in cases
    ]
    done: list[Outcome] = []

    def settle(outcome: Outcome) -> None:
        done.append(outcome)
        listener(Progress(f"{stage} cases", len(done), len(jobs), text=outcome.case))

    run_local(bundle.predictor(device=device), jobs, settle=settle)
    fault = next((outcome for outcome in done if outcome.is_fault), None)
    if fault is not None:
        raise InputFault(f"{fault.case}: {fault.message}", code=fault.code)


def _named(stage: str, budget: Budget, listener: Listener) -> Listener:
    """Training under the name of its run; by the clock, where that is the budget."""

    def tell(event: Progress) -> None:
        if event.stage != "training" or not event.total:
            listener(event)
            return
        done, total = event.done, event.total
        if budget.minutes is not None:
            total = max(round(60 * budget.minutes), 1)
            done = total - min(max(ceil(event.detail.get("seconds_left", 0)), 0), total)
        listener(replace(event, stage=stage, done=done, total=total))

    return tell


def _staged(stage: str, listener: Listener) -> Listener:
    return lambda event: listener(replace(event, stage=stage))


def _refuse_runs(entries: Sequence[Entry], runs: Path, *, resume: bool) -> None:
    for recipe in (recipe for entry in entries for recipe in entry.recipes):
        folder = run_folder(runs, recipe)
        if not folder.exists():
            continue
        if not resume:
            raise InputFault(
                f"{folder}: a comparison is there already; continue it with --resume, or choose "
                "another --output.",
                code="E_RUN",
            )
        kept = folder / RECIPE
        if kept.is_file() and kept.read_text(encoding="utf-8") != recipe.to_yaml():
            raise InputFault(
                f"{folder}: its run was begun with other settings or another budget; give the "
                "same as then, or choose another --output.",
                code="E_RUN",
            )


def _read(path: Path) -> Mapping[str, Any]:
    return json.loads(path.read_bytes())
