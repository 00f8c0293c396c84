"""`medseg predict BUNDLE INPUT... -o OUT`: label maps on the grids of the inputs."""

import argparse
from pathlib import Path

from medseg.cli.terminal import Terminal
from medseg.fault import InputFault


def add_parser(verbs: argparse._SubParsersAction, shared: argparse.ArgumentParser) -> None:
    """Register the verb."""
    parser = verbs.add_parser(
        "predict",
        parents=[shared],
        help="label NIfTI images with a bundle",
        description="Label images with a trained bundle. An INPUT is a NIfTI file, a folder of "
        "them, or a folder with one folder a case. The channels of a case are one 4D file, files "
        "CASE_0000.nii.gz, CASE_0001.nii.gz, ... in the order of the bundle, or files whose names "
        "end in the channels' names. Each result is OUT/CASE.nii.gz.",
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("inputs", type=Path, nargs="+", metavar="INPUT")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the results")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... (auto)")
    parser.add_argument("--overlap", type=float, help="of windows, 0 to below 1 (the recipe's)")
    parser.add_argument("--overwrite", action="store_true", help="predict again what is there")
    parser.add_argument(
        "--trust-code",
        action="store_true",
        help="import the code that a bundle of a `custom` network names",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, terminal: Terminal) -> int:
    """Predict every case; one that cannot be is reported and the rest is done (code 3)."""
    from medseg.bundle.bundle import load_bundle
    from medseg.bundle.cases import find_cases
    from medseg.bundle.predict import best_device, predict_case

    if args.overlap is not None and not 0 <= args.overlap < 1:
        raise InputFault(f"--overlap {args.overlap}: it lies from 0 to below 1.", code="E_USE")
    bundle = load_bundle(args.bundle, trust_code=args.trust_code)
    cases = find_cases(args.inputs, bundle.task.channels)
    predictor = bundle.predictor(device=best_device(args.device), overlap=args.overlap)
    failed = 0
    for number, (name, files) in enumerate(cases.items(), start=1):
        target = args.output / f"{name}.nii.gz"
        if target.exists() and not args.overwrite:
            terminal.say(f"{target}: there already (--overwrite predicts it again).")
            continue
        try:
            with terminal.progress() as listener:
                volumes_ml = predict_case(predictor, files, target, listener=listener)
        except InputFault as fault:
            failed += 1
            terminal.error(f"{name}: {fault}", code=fault.code)
            continue
        told = ", ".join(f"{label} {volume:.1f} ml" for label, volume in volumes_ml.items())
        terminal.say(f"{target} ({number}/{len(cases)}): {told}")
    if failed:
        terminal.error(f"{failed} of {len(cases)} cases failed.", code="E_CASES")
    return 3 if failed else 0
