"""`medseg doctor FOLDER`: what is wrong with each file, and copies mended where that is certain."""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from medseg.cli.terminal import Terminal
from medseg.fault import InputFault

if TYPE_CHECKING:
    from medseg.doctor.finding import Finding
    from medseg.volume import LabelTable

SOMETHING_WRONG = 3


def add_parser(verbs: argparse._SubParsersAction, shared: argparse.ArgumentParser) -> None:
    """Register the verb."""
    parser = verbs.add_parser(
        "doctor",
        parents=[shared],
        help="say what is wrong with the files of a folder, and mend copies",
        description="Read every NIfTI file and DICOM series of a folder strictly and say what is "
        "wrong with each. With --repair, write mended copies of those whose mending is certain; "
        "originals are never touched.",
        epilog="Exit codes: 0 nothing is wrong, 3 something is (mended, in a copy or while it is "
        "read, or not), 2 wrong use.",
    )
    parser.add_argument("folder", type=Path, help="the folder to examine, with all below it")
    parser.add_argument("--repair", type=Path, metavar="OUT", help="folder for mended copies")
    parser.add_argument("--report", type=Path, help="folder of doctor.csv and doctor.json (OUT)")
    parser.add_argument("--all", action="store_true", help="also copy files that are fine")
    parser.add_argument("--card", help="the data set's card; default: by its dataset.json")
    parser.add_argument("--table", type=Path, help="a label table (CSV) to hold labels to")
    parser.add_argument(
        "--labels", action="append", default=[], metavar="PATTERN", help="names of label maps"
    )
    parser.add_argument("--affine", choices=("sform", "qform"), help="the place that is right")
    parser.add_argument("--unit", choices=("mm", "m", "um"), help="the unit that is right")
    parser.add_argument("--map", default="", metavar="255=1,3=2", help="what label values mean")
    parser.add_argument("--fill-nan", type=float, metavar="VALUE", help="what stands for NaN")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, terminal: Terminal) -> int:
    """Examine, mend, report."""
    label_map = _label_map(args.map)
    if args.fill_nan is not None and not math.isfinite(args.fill_nan):
        raise InputFault(f"--fill-nan {args.fill_nan:g}: it is a number.", code="E_USE")
    if not args.folder.is_dir():
        raise InputFault(f"{args.folder}: there is no such folder.", code="E_NOTFILE")

    from medseg.doctor.finding import Choices
    from medseg.doctor.patients import look_into
    from medseg.doctor.report import write_report
    from medseg.doctor.visit import refuse_out, visit

    for folder in (args.repair, args.report):
        if folder is not None:
            refuse_out(args.folder, folder)
    choices = Choices(args.affine, args.unit, label_map, args.fill_nan)
    folder = look_into(args.folder, card=args.card, table=_table(args.table), labels=args.labels)
    with terminal.progress() as listener:
        findings = visit(folder, choices, out=args.repair, copy_all=args.all, listener=listener)
    _show(findings, terminal)
    report = args.report or args.repair
    if report is not None:
        table, data = write_report(report, findings)
        terminal.say(f"Report: {table} and {data}")
    return SOMETHING_WRONG if any(finding.is_wrong for finding in findings) else 0


def _show(findings: "Sequence[Finding]", terminal: Terminal) -> None:
    from medseg.doctor.visit import counted

    told = [finding for finding in findings if finding.state != "fine"]
    rows = [(f.path, f.state, f.code, _told(f)) for f in told]
    if rows:
        terminal.table("Findings", ("File", "", "Code", "What is wrong, and what to do"), rows)
    mends = [
        (finding.copy, mend.code, mend.what, mend.before, mend.after)
        for finding in findings
        for mend in finding.mends
    ]
    if mends:
        columns = ("Copy", "Code", "What was done", "Before", "After")
        terminal.table("Mended copies", columns, mends)
    counts = ", ".join(f"{count} {state}" for state, count in counted(findings).items())
    terminal.result(f"{len(findings)} files and series: {counts or 'none'}.")


def _told(finding: "Finding") -> str:
    from medseg.doctor.finding import SAID

    said = any(finding.remedy.startswith(way) for way in SAID)
    return finding.sentence if said else f"{finding.sentence} {finding.remedy}".strip()


def _label_map(text: str) -> dict[int, int]:
    found: dict[int, int] = {}
    for part in filter(None, text.split(",")):
        old, _, new = part.partition("=")
        try:
            before, after = int(old), int(new)
        except ValueError as error:
            raise InputFault(
                f"--map {part}: it is written OLD=NEW in whole numbers, such as 255=1.",
                code="E_USE",
            ) from error
        if before in found or not 0 <= after <= 65_535:
            raise InputFault(
                f"--map {part}: each value stands once, and becomes 0 to 65535.", code="E_USE"
            )
        found[before] = after
    return found


def _table(path: Path | None) -> "LabelTable | None":
    if path is None:
        return None
    from medseg.io.label_table import read_label_table

    return read_label_table(path)
