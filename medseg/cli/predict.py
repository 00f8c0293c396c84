"""`medseg predict BUNDLE INPUT... -o OUT`: label maps on the grids of the inputs."""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.cli.amounts import axes, duration_s, numbers, size_bytes
from medseg.cli.clustered import add_cluster, is_clustered, refuse_cluster, run_clustered
from medseg.cli.foretold import tell_forecast
from medseg.cli.terminal import Terminal
from medseg.cli.told import Told
from medseg.fault import InputFault
from medseg.io.formats import FORMATS, Origin, chosen_formats, refuse_without_dicom
from medseg.progress import Progress

if TYPE_CHECKING:
    from medseg.bundle.bundle import Bundle
    from medseg.bundle.inputs import Case
    from medseg.bundle.outputs import Outputs
    from medseg.engine.job import Job, Terms
    from medseg.engine.report import Report
    from medseg.engine.speed import Speed
    from medseg.inference.predictor import Predictor
    from medseg.inference.settings import WalkSettings

SHA256_SHOWN = 12
PRECISIONS = ("float32", "bf16", "fp16", "int8")
Changes = Mapping[str, Any]


def add_parser(verbs: argparse._SubParsersAction, shared: argparse.ArgumentParser) -> None:
    """Register the verb."""
    parser = verbs.add_parser(
        "predict",
        parents=[shared],
        help="label NIfTI images and DICOM studies with a bundle",
        description="Label images with a trained bundle. An INPUT is a NIfTI file, a folder of "
        "them, a tree with a folder a case, a BIDS data set, a pattern ('scans/**/*.nii.gz'), a "
        "run's folder, which stands for the cases that it did not train on, or DICOM: a folder of "
        "any depth, a DICOMDIR, a zip, a file. The channels of a NIfTI case are one 4D file, files "
        "CASE_0000.nii.gz, CASE_0001.nii.gz, ... in the order of the bundle, or files whose names "
        "end in the channels' names; those of a DICOM study are found by the rules of the bundle's "
        "data card. Each result is OUT/CASE.nii.gz, or as --format says; OUT/report.csv tells what "
        "became of each case. Run again, it goes on where it stopped.",
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("inputs", nargs="*", metavar="INPUT")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the results")
    parser.add_argument(
        "--list",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="take the inputs of a file: one a line, or a CSV with case and the channels' names",
    )
    parser.add_argument("--overwrite", action="store_true", help="predict again what is there")
    _add_outputs(parser.add_argument_group("what is written"))
    _add_reading(parser.add_argument_group("how inputs are read"))
    _add_network(parser.add_argument_group("how the network is walked"))
    add_cluster(parser.add_argument_group("many processes and machines (Dask)"))
    parser.set_defaults(run=run)


def _add_outputs(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--format",
        action="append",
        default=[],
        metavar="FORMAT",
        help=f"{', '.join(FORMATS)}; several with commas (nifti)",
    )
    group.add_argument(
        "--probabilities",
        action="store_true",
        help="write those of each label too: 4D NIfTI, with dicom-seg a fractional SEG",
    )
    group.add_argument("--no-pictures", action="store_true", help="leave the quality sheets out")
    group.add_argument(
        "--no-postprocess", action="store_true", help="leave the bundle's rules for labels out"
    )
    group.add_argument(
        "--dry-run",
        action="store_true",
        help="tell the cases, windows, time and memory; write nothing",
    )


def _add_reading(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--card", help="folders are data sets, laid out as this card says: its name or path"
    )
    group.add_argument(
        "--affine",
        choices=("sform", "qform"),
        help="which decides where those of a NIfTI file disagree (refused)",
    )
    group.add_argument(
        "--series",
        action="append",
        default=[],
        metavar="NUMBER",
        help="the DICOM series to label, by its number or UID; once a channel",
    )
    group.add_argument(
        "--no-repair",
        action="store_true",
        help="refuse DICOM series that need mending (tilted gantry, uneven gaps, copies, scouts)",
    )


def _add_network(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... (auto)")
    group.add_argument(
        "--step",
        type=float,
        help="from window to window, as a share of the patch: 0.5 is usual, 1 fastest (the "
        "recipe's)",
    )
    group.add_argument(
        "--mirror", metavar="AXES", help="average over mirrored images: all, none, or i,j,k"
    )
    group.add_argument("--folds", metavar="NUMBERS", help="of an ensemble: 0,2, or all (all)")
    group.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="of the arithmetic; int8: convolutions in eight bits on a CPU (float32)",
    )
    group.add_argument(
        "--rounding",
        choices=("float32", "nnunet"),
        help="of the sums over windows; nnunet: in float16 as there, and the network in torch's "
        "own operations, for labels of an imported model with its predictor's rounding errors "
        "(float32)",
    )
    group.add_argument("--batch-size", type=int, metavar="N", help="windows at a time")
    group.add_argument("--max-ram", metavar="SIZE", help="memory to take at most: 8GB, 512MB")
    group.add_argument("--max-vram", metavar="SIZE", help="the same of the GPU")
    group.add_argument(
        "--deadline",
        metavar="TIME",
        help="be done in 30m, 1h30m, ...: mirroring, folds and overlap are given up as needed",
    )
    group.add_argument(
        "--trust-code",
        action="store_true",
        help="import the code that a bundle of a `custom` network names",
    )


def run(args: argparse.Namespace, terminal: Terminal) -> int:
    """Predict every case; one that cannot be is reported and the rest is done (code 3)."""
    # What was mistyped is told before anything heavy is loaded.
    changes = _changes(args)
    refuse_cluster(args)
    formats = chosen_formats(args.format)
    if not args.inputs and not args.list:
        raise InputFault("name an INPUT, or a list of them (--list).", code="E_USE")

    from medseg.bundle.cases import Reading, found_cases
    from medseg.bundle.listed import expanded, listed
    from medseg.bundle.manifest import read_manifest
    from medseg.bundle.outputs import Outputs
    from medseg.data.card import load_card
    from medseg.io.dicom.channels import rules_from_json

    outputs = Outputs(args.output, formats, args.probabilities)
    manifest = read_manifest(args.bundle)
    channels, rules = manifest["task"].get("channels", []), manifest.get("dicom", {})
    card = load_card(args.card) if args.card else None
    reading = Reading(args.affine, tuple(args.series), not args.no_repair, card)
    inputs, named = expanded(args.inputs), {}
    lists = args.list
    if is_clustered(args):
        # Workers need not stand in this folder.
        inputs = [path.absolute() for path in inputs]
        lists = [file.absolute() for file in lists]
    for file in lists:
        paths, table = listed(file, channels, reading)
        inputs, named = [*inputs, *paths], {**named, **table}
    with found_cases(
        inputs,
        channels,
        rules=rules_from_json(rules),
        reading=reading,
        listed=named,
        output=args.output,
    ) as cases:
        outputs.refuse_clashes(cases)
        _refuse_unsuited(cases, outputs)
        return _predict_all(args, changes, cases, outputs, terminal)


def _changes(args: argparse.Namespace) -> dict[str, Any]:
    """The settings of the walk that the options change."""
    if args.step is not None and not 0 < args.step <= 1:
        raise InputFault(f"--step {args.step}: it lies above 0 and up to 1.", code="E_USE")
    if args.batch_size is not None and args.batch_size < 1:
        raise InputFault(f"--batch-size {args.batch_size}: it is 1 or more.", code="E_USE")
    if args.deadline is not None:
        duration_s("--deadline", args.deadline)
    if args.folds is not None:
        numbers("--folds", args.folds)
    given = {
        "overlap": None if args.step is None else round(1 - args.step, 9),
        "mirror_axes": None if args.mirror is None else axes("--mirror", args.mirror),
        "precision": args.precision,
        "batch_size": args.batch_size,
        "max_ram": None if args.max_ram is None else size_bytes("--max-ram", args.max_ram),
        "max_vram": None if args.max_vram is None else size_bytes("--max-vram", args.max_vram),
    }
    if args.rounding == "nnunet":
        given |= {"sums": "float16", "blended": "logits", "kernels": "reference"}
    return {name: value for name, value in given.items() if value is not None}


def _refuse_unsuited(cases: Mapping[str, "Case"], outputs: "Outputs") -> None:
    """Formats that need what the inputs have not, and results that would replace an input."""
    from medseg.bundle.inputs import NiftiCase

    for name, case in cases.items():
        if isinstance(case, NiftiCase):
            refuse_without_dicom(outputs.formats, name)
        outputs.refuse_replacing(name, case.files)


def _predict_all(
    args: argparse.Namespace,
    changes: Changes,
    cases: Mapping[str, "Case"],
    outputs: "Outputs",
    terminal: Terminal,
) -> int:
    from medseg.bundle.bundle import load_bundle
    from medseg.bundle.predict import best_device
    from medseg.engine.report import Report

    device = best_device(args.device)
    bundle = load_bundle(args.bundle, trust_code=args.trust_code)
    bundle = _with_folds(bundle, None if args.folds is None else numbers("--folds", args.folds))
    settings = replace(bundle.walk_settings(), **changes)
    jobs = _jobs(cases, outputs, _terms(args, bundle, settings, str(device)))
    report = Report(args.output)
    predictor = bundle.predictor(device=device, settings=settings)
    if args.deadline is not None:
        fixed = frozenset(changes) | ({"folds"} if args.folds else set())
        predictor = _in_time(args, bundle, predictor, jobs, fixed, terminal)
    if args.dry_run:
        return tell_forecast(predictor, jobs, _speed(predictor, jobs), terminal)
    if is_clustered(args):
        return run_clustered(args, settings, jobs, report, terminal)
    return _run_all(predictor, jobs, report, terminal)


def _run_all(
    predictor: "Predictor", jobs: list["Job"], report: "Report", terminal: Terminal
) -> int:
    from medseg.engine.local import run_local
    from medseg.engine.speed import keep_speed, speed_of

    told = Told(len(jobs), terminal, report)
    try:
        with terminal.progress() as listener:
            told.listener = listener
            listener(Progress("cases", 0, len(jobs)))
            run_local(
                predictor,
                jobs,
                settle=told,
                listener=listener,
                overlapped=predictor.settings.max_ram is None,
            )
    finally:
        report.write()
    if jobs[0].terms.pictures:
        told.page_of(jobs[0].outputs.folder)
    speed = speed_of(told.outcomes)
    if speed is not None:
        keep_speed(_speeds(), predictor, jobs[0].terms.bundle_sha256, speed)
    return told.exit_code()


def _in_time(
    args: argparse.Namespace,
    bundle: "Bundle",
    predictor: "Predictor",
    jobs: list["Job"],
    fixed: frozenset[str],
    terminal: Terminal,
) -> "Predictor":
    """A predictor with which the run is forecast to end by the deadline."""
    from medseg.engine.deadline import in_time
    from medseg.engine.forecast import run_seconds, seen
    from medseg.engine.receipt import looks_done

    speed = _speed(predictor, jobs)
    sights = seen([job for job in jobs if not looks_done(job)], predictor.task.channels)
    choice = in_time(
        duration_s("--deadline", args.deadline),
        predictor.settings,
        len(bundle.models),
        seconds_of=lambda settings, folds: run_seconds(
            predictor,
            sights,
            speed,
            settings=settings,
            folds=folds,
            overlapped=settings.max_ram is None,
        ),
        fixed=fixed,
    )
    terminal.say(
        f"forecast {choice.seconds:.0f} s for {len(sights)} cases, "
        f"{f'to be in time with {choice.given_up}' if choice.given_up else 'nothing given up'}.",
        {"seconds": choice.seconds, "given_up": choice.given_up},
    )
    chosen = replace(bundle, models=bundle.models[: choice.folds])
    return chosen.predictor(device=predictor.device, settings=choice.settings)


def _speed(predictor: "Predictor", jobs: list["Job"]) -> "Speed":
    from medseg.engine.speed import kept_speed, measured_speed

    kept = kept_speed(_speeds(), predictor, jobs[0].terms.bundle_sha256)
    return kept or measured_speed(predictor)


def _speeds() -> Path:
    """Where what was measured on this machine is kept."""
    return Path.home() / ".cache" / "medseg" / "speed"


def _with_folds(bundle: "Bundle", chosen: tuple[int, ...] | None) -> "Bundle":
    """The bundle with the networks of --folds alone."""
    if chosen is None:
        return bundle
    last = len(bundle.models) - 1
    if chosen[-1] > last:
        raise InputFault(
            f"--folds {chosen[-1]}: the bundle has "
            f"{f'the folds 0 to {last}' if last else 'one, 0'}.",
            code="E_USE",
        )
    return replace(bundle, models=tuple(bundle.models[fold] for fold in chosen))


def _terms(
    args: argparse.Namespace, bundle: "Bundle", settings: "WalkSettings", device: str
) -> "Terms":
    from medseg.bundle.manifest import MANIFEST
    from medseg.engine.job import Terms
    from medseg.inference.postprocess import rules_to_json
    from medseg.io.pickled import file_sha256

    rules = () if args.no_postprocess else bundle.postprocess
    return Terms(
        origin=Origin(str(bundle.recipe.get("name", "medseg")), bundle.sha256[:SHA256_SHOWN]),
        bundle_sha256=file_sha256(args.bundle / MANIFEST),
        settings={
            **_deciding(settings),
            "folds": args.folds or "all",
            # What a deadline makes of them differs from run to run, so it is no reason to redo.
            "deadline": args.deadline is not None,
            "postprocess": rules_to_json(rules),
            "affine": args.affine,
            "series": _digest(args.series),
            "repair": not args.no_repair,
        },
        facts={"device": device},
        rules=rules,
        pictures=not args.no_pictures,
        overwrite=args.overwrite,
    )


def _deciding(settings: "WalkSettings") -> dict[str, Any]:
    """The settings that decide the labels; how much is done at a time does not."""
    from dataclasses import asdict

    beside = ("batch_size", "max_ram", "max_vram")
    return {name: value for name, value in asdict(settings).items() if name not in beside}


def _digest(series: list[str]) -> str:
    """Series may be named by their UIDs, which no receipt holds."""
    import hashlib

    return hashlib.sha256("\n".join(series).encode()).hexdigest() if series else ""


def _jobs(cases: Mapping[str, "Case"], outputs: "Outputs", terms: "Terms") -> list["Job"]:
    from medseg.engine.job import Job

    return [Job(name=name, case=case, outputs=outputs, terms=terms) for name, case in cases.items()]
