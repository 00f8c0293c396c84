"""`medseg evaluate PRED TRUTH -o OUT`: Dice, NSD, HD95 and volumes, as tables and one page."""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medseg.cli.terminal import Terminal
from medseg.fault import InputFault

if TYPE_CHECKING:
    from medseg.data.cases import Listing
    from medseg.evaluation.evaluate import Evaluation
    from medseg.evaluation.pairs import Pair
    from medseg.evaluation.report import Report
    from medseg.volume import Target

SOME_FAILED = 3


def add_parser(verbs: argparse._SubParsersAction, shared: argparse.ArgumentParser) -> None:
    """Register the verb."""
    parser = verbs.add_parser(
        "evaluate",
        parents=[shared],
        help="score label maps against the truth",
        description="Score label maps against the truth of the same names: Dice, NSD and HD95 in "
        "millimeters, and volumes, for each label and region. Writes scores.csv, summary.csv, "
        "scores.json and report.html. TRUTH is a folder of label maps, or one file; a run's "
        "folder, which stands for the cases that it did not train on; or with --card the folder "
        "of a data set.",
        epilog="Exit codes: 0 all cases are scored, 3 some cannot be (each is told; the others "
        "are), 2 wrong use, or none can be.",
    )
    parser.add_argument("predictions", type=Path, help="a folder, or one file")
    parser.add_argument("truth", type=Path, help="a folder, one file, a run, or a data set")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the report")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--bundle", type=Path, help="the bundle that made the predictions")
    what.add_argument("--labels", type=Path, help="a label table (CSV)")
    what.add_argument("--card", help="a data set's card, by name or path")
    parser.add_argument("--images", type=Path, help="images to show under the outlines")
    parser.add_argument(
        "--affine",
        choices=("sform", "qform"),
        help="the one to take where those of a file disagree",
    )
    parser.add_argument(
        "--tolerance-mm", type=float, default=1.0, help="tolerance of the NSD (1 mm)"
    )
    parser.add_argument(
        "--nsd",
        choices=("border-voxels", "surface-elements"),
        default="border-voxels",
        help="what the NSD counts: border voxels, as MONAI does by default, or the area of "
        "surface elements, as DeepMind's surface-distance (border-voxels)",
    )
    parser.add_argument(
        "--cases", help="only these: names with commas, or a run's split.json (its validation)"
    )
    parser.add_argument(
        "--allow-missing", action="store_true", help="count a missing prediction as empty"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, terminal: Terminal) -> int:
    """Score, write the report, print the means."""
    from medseg.evaluation.pairs import find_pairs

    if not 0 <= args.tolerance_mm < math.inf:
        raise InputFault(
            f"--tolerance-mm {args.tolerance_mm:g}: it is a length, 0 or more.", code="E_USE"
        )
    if args.output.exists() and not args.output.is_dir():
        raise InputFault(f"-o {args.output}: it is a file; name a folder.", code="E_USE")
    truth = _truth(args)
    # What was mistyped is told before anything heavy is loaded.
    found = find_pairs(
        args.predictions,
        truth.maps,
        images=args.images,
        cases=truth.cases,
        allow_missing=args.allow_missing,
    )

    from medseg.evaluation.evaluate import evaluate_pairs
    from medseg.evaluation.report import write_report

    with terminal.progress() as listener:
        evaluation = evaluate_pairs(
            found.pairs,
            truth.target,
            tolerance_mm=args.tolerance_mm,
            nsd=args.nsd,
            unscored=found.unscored,
            form=args.affine,
            listener=listener,
        )
        title = args.predictions.resolve().name
        report = write_report(evaluation, args.output, title=title, listener=listener)
    _show(evaluation, args.tolerance_mm, terminal)
    _show_gaps(evaluation, report, found.pairs, terminal)
    terminal.say(f"Report: {report.page}")
    return SOME_FAILED if evaluation.refused else 0


def _show(evaluation: "Evaluation", tolerance_mm: float, terminal: Terminal) -> None:
    from medseg.evaluation.evaluate import MEAN

    names = (MEAN, *(structure.name for structure in evaluation.structures))
    lines = {(line.name, line.metric): line for line in evaluation.summaries()}
    rows = []
    for name in names:
        dice = lines[name, "dice"]
        rows.append(
            (
                name,
                _shown(dice.mean, 4),
                f"{_shown(dice.low, 4)} to {_shown(dice.high, 4)}",
                _shown(lines[name, "nsd"].mean, 4),
                _shown(lines[name, "hd95_mm"].mean, 2),
            )
        )
    nsd = f"NSD {tolerance_mm:g} mm, {evaluation.nsd.replace('-', ' ')}"
    columns = ("", "Dice", "95 % interval", nsd, "HD95 mm")
    count = len(evaluation.cases)
    terminal.table(f"{count} case{'' if count == 1 else 's'}", columns, rows)


def _show_gaps(
    evaluation: "Evaluation", report: "Report", pairs: "Sequence[Pair]", terminal: Terminal
) -> None:
    """What was asked for and is not in the report."""
    count = len(pairs)
    if evaluation.refused:
        rows = [(case.case, case.code, case.text) for case in evaluation.refused]
        title = f"{len(rows)} of {count} cases could not be scored and are in no mean"
        terminal.table(title, ("Case", "Code", "Fault"), rows)
    imageless = sum(pair.image is None for pair in pairs)
    if 0 < imageless < count:
        terminal.say(f"{imageless} of {count} cases have no image of their name.")
    if report.without_image:
        terminal.say(
            f"{len(report.without_image)} pictures are without their image; the page says why."
        )


@dataclass(frozen=True, eq=False)
class _Truth:
    """What is scored against, which of its labels, and which of its cases (None: all)."""

    maps: "Path | Listing"
    target: "Target"
    cases: tuple[str, ...] | None


def _truth(args: argparse.Namespace) -> _Truth:
    from medseg.bundle.held_out import held_out, is_run

    target, cases = _target(args), _cases(args.cases)
    if is_run(args.truth):
        run = held_out(args.truth)
        return _Truth(run.listing, target or run.target, cases or run.names)
    listing = _data_set(args)
    if listing is not None:
        return _Truth(listing, listing.target(regions=bool(listing.regions)), cases)
    if target is None:
        leaves = f"the card {args.card} leaves its labels to a data set's dataset.json"
        raise InputFault(
            f"{args.truth}: {leaves if args.card else 'nothing says which labels are scored'}; "
            f"give --bundle{'' if args.card else ', --card'} or a label table with --labels.",
            code="E_USE",
        )
    return _Truth(args.truth, target, cases)


def _data_set(args: argparse.Namespace) -> "Listing | None":
    """The data set that lies in the folder by its card; None for a folder of label maps."""
    if not args.card or not args.truth.is_dir():
        return None
    from medseg.data.card import load_card
    from medseg.data.cases import open_listing
    from medseg.evaluation.pairs import holds_maps

    try:
        return open_listing(load_card(args.card), args.truth)
    except InputFault:
        if holds_maps(args.truth):
            return None
        raise


def _target(args: argparse.Namespace) -> "Target | None":
    """The labels that the options name; None where they are the data set's to say."""
    from medseg.volume import Target

    if args.bundle is not None:
        from medseg.bundle.manifest import read_manifest
        from medseg.volume import Task

        return Task.from_json(read_manifest(args.bundle)["task"]).target
    if args.labels is not None:
        from medseg.io.label_table import read_label_table

        return Target(read_label_table(args.labels))
    if args.card is None:
        return None
    from medseg.data.card import load_card

    card = load_card(args.card)
    return None if card.labels is None else card.target(regions=bool(card.regions))


def _cases(asked: str | None) -> tuple[str, ...] | None:
    if asked is None:
        return None
    if not asked.endswith(".json"):
        names = tuple(name for name in asked.split(",") if name)
        if not names:
            raise InputFault(f"--cases {asked!r}: it names no case.", code="E_USE")
        return names
    import json

    path = Path(asked)
    if not path.is_file():
        raise InputFault(f"--cases {path}: there is no such file.", code="E_NOTFILE")
    try:
        listed = json.loads(path.read_bytes())["validation"]
    except (ValueError, KeyError, TypeError):
        listed = None
    if not isinstance(listed, list) or not listed or not all(isinstance(n, str) for n in listed):
        raise InputFault(
            f"--cases {path}: it is no split of a run (it lacks a list `validation` of names).",
            code="E_SPLIT",
        )
    return tuple(listed)


def _shown(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"
