"""`medseg predict BUNDLE INPUT... -o OUT`: label maps on the grids of the inputs."""

import argparse
import csv
import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from medseg.cli.terminal import Terminal
from medseg.fault import InputFault
from medseg.io.formats import FORMATS, Origin, chosen_formats, refuse_without_dicom

if TYPE_CHECKING:
    from medseg.bundle.inputs import Case
    from medseg.bundle.outputs import Outputs
    from medseg.inference.predictor import Predictor

REPORT = "report.csv"
SHA256_SHOWN = 12


@dataclass(frozen=True)
class Outcome:
    """What became of one case; `code` and `message` tell why it failed, or what was mended."""

    case: str
    state: Literal["done", "present", "failed"]
    code: str = ""
    message: str = ""
    seconds: float = 0.0
    volumes_ml: Mapping[str, float] = field(default_factory=dict)


def add_parser(verbs: argparse._SubParsersAction, shared: argparse.ArgumentParser) -> None:
    """Register the verb."""
    parser = verbs.add_parser(
        "predict",
        parents=[shared],
        help="label NIfTI images and DICOM studies with a bundle",
        description="Label images with a trained bundle. An INPUT is a NIfTI file, a folder of "
        "them, a folder with one folder a case, or DICOM: a folder of any depth, a DICOMDIR, a "
        "zip, a file. The channels of a NIfTI case are one 4D file, files CASE_0000.nii.gz, "
        "CASE_0001.nii.gz, ... in the order of the bundle, or files whose names end in the "
        "channels' names; those of a DICOM study are found by the rules of the bundle's data "
        "card. Each result is OUT/CASE.nii.gz, or as --format says; OUT/report.csv tells what "
        "became of each case, what was mended, and its volumes.",
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("inputs", type=Path, nargs="+", metavar="INPUT")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the results")
    parser.add_argument(
        "--format",
        action="append",
        default=[],
        metavar="FORMAT",
        help=f"{', '.join(FORMATS)}; several with commas (nifti)",
    )
    parser.add_argument(
        "--probabilities",
        action="store_true",
        help="write those of each label too: 4D NIfTI, with dicom-seg a fractional SEG",
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... (auto)")
    parser.add_argument("--overlap", type=float, help="of windows, 0 to below 1 (the recipe's)")
    parser.add_argument(
        "--affine",
        choices=("sform", "qform"),
        help="which decides where those of a NIfTI file disagree (refused)",
    )
    parser.add_argument(
        "--series",
        action="append",
        default=[],
        metavar="NUMBER",
        help="the DICOM series to label, by its number or UID; once a channel",
    )
    parser.add_argument(
        "--no-repair",
        action="store_true",
        help="refuse DICOM series that need mending (tilted gantry, uneven gaps, copies, scouts)",
    )
    parser.add_argument("--overwrite", action="store_true", help="predict again what is there")
    parser.add_argument(
        "--trust-code",
        action="store_true",
        help="import the code that a bundle of a `custom` network names",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, terminal: Terminal) -> int:
    """Predict every case; one that cannot be is reported and the rest is done (code 3)."""
    from medseg.bundle.cases import Reading, found_cases
    from medseg.bundle.inputs import NiftiCase
    from medseg.bundle.manifest import read_manifest
    from medseg.bundle.outputs import Outputs
    from medseg.io.dicom.channels import rules_from_json

    if args.overlap is not None and not 0 <= args.overlap < 1:
        raise InputFault(f"--overlap {args.overlap}: it lies from 0 to below 1.", code="E_USE")
    outputs = Outputs(args.output, chosen_formats(args.format), args.probabilities)
    manifest = read_manifest(args.bundle)
    channels, rules = manifest["task"].get("channels", []), manifest.get("dicom", {})
    reading = Reading(args.affine, tuple(args.series), not args.no_repair)
    # What was mistyped is told before torch is loaded.
    with found_cases(args.inputs, channels, rules=rules_from_json(rules), reading=reading) as cases:
        outputs.refuse_clashes(cases)
        for name, case in cases.items():
            if isinstance(case, NiftiCase):
                refuse_without_dicom(outputs.formats, name)
        return _predict_all(args, cases, outputs, terminal)


def _predict_all(
    args: argparse.Namespace,
    cases: Mapping[str, "Case"],
    outputs: "Outputs",
    terminal: Terminal,
) -> int:
    from medseg.bundle.bundle import load_bundle
    from medseg.bundle.predict import best_device

    device = best_device(args.device)
    bundle = load_bundle(args.bundle, trust_code=args.trust_code)
    settings = bundle.walk_settings()
    if args.overlap is not None:
        settings = replace(settings, overlap=args.overlap)
    predictor = bundle.predictor(device=device, settings=settings)
    origin = Origin(str(bundle.recipe.get("name", "medseg")), bundle.sha256[:SHA256_SHOWN])
    outcomes: list[Outcome] = []
    try:
        for name, case in cases.items():
            if outputs.are_written(name) and not args.overwrite:
                outcome = Outcome(name, "present")
            else:
                outcome = _predicted(predictor, name, case, outputs, origin, terminal)
            outcomes.append(outcome)
            _tell(outcome, f"{outputs.targets(name)[0]} ({len(outcomes)}/{len(cases)})", terminal)
            if outcome.code == "E_DISKFULL":
                raise InputFault(outcome.message, code=outcome.code)
    finally:
        _write_report(args.output / REPORT, outcomes)
    failed = sum(outcome.state == "failed" for outcome in outcomes)
    if failed:
        terminal.error(f"{failed} of {len(cases)} cases failed.", code="E_CASES")
    return 3 if failed else 0


def _predicted(
    predictor: "Predictor",
    name: str,
    case: "Case",
    outputs: "Outputs",
    origin: Origin,
    terminal: Terminal,
) -> Outcome:
    from medseg.bundle.predict import predict_case

    began = time.monotonic()
    try:
        with terminal.progress() as listener:
            made = predict_case(predictor, case, outputs, name, origin=origin, listener=listener)
    except InputFault as fault:
        return Outcome(name, "failed", fault.code, str(fault), time.monotonic() - began)
    return Outcome(
        name,
        "done",
        message=" ".join(made.notes),
        seconds=time.monotonic() - began,
        volumes_ml=made.volumes_ml,
    )


def _tell(outcome: Outcome, place: str, terminal: Terminal) -> None:
    if outcome.state == "failed":
        terminal.error(f"{outcome.case}: {outcome.message}", code=outcome.code)
    elif outcome.state == "present":
        terminal.say(f"{place}: there already (--overwrite predicts it again).")
    else:
        if outcome.message:
            terminal.say(outcome.message, {"case": outcome.case, "mended": outcome.message})
        volumes = ", ".join(f"{name} {ml:.1f} ml" for name, ml in outcome.volumes_ml.items())
        terminal.say(
            f"{place}: {volumes}", {"case": outcome.case, "volumes_ml": outcome.volumes_ml}
        )


def _write_report(path: Path, outcomes: Sequence[Outcome]) -> None:
    from medseg.io.atomic import write_text

    if not outcomes:
        return
    labels = list(dict.fromkeys(name for outcome in outcomes for name in outcome.volumes_ml))
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(
        ["case", "state", "code", "seconds", *(f"{name} ml" for name in labels), "message"]
    )
    for one in outcomes:
        volumes = [f"{one.volumes_ml[name]:.3f}" if one.volumes_ml else "" for name in labels]
        rows.writerow([one.case, one.state, one.code, f"{one.seconds:.2f}", *volumes, one.message])
    write_text(path, text.getvalue())
