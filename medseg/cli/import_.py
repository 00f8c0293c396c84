"""`medseg import nnunet|folds|reference PATH...`: bundles of what was trained elsewhere."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from medseg.cli.import_reference import run_reference
from medseg.cli.terminal import Terminal
from medseg.fault import InputFault

if TYPE_CHECKING:
    from medseg.bundle.imported.nnunet import Imported

KINDS = ("nnunet", "folds", "reference")


def add_parser(verbs: argparse._SubParsersAction, shared: argparse.ArgumentParser) -> None:
    """Register the verb."""
    parser = verbs.add_parser(
        "import",
        parents=[shared],
        help="make a bundle of an nnU-Net model, of several bundles, or of an author's weights",
        description="nnunet: a trained nnU-Net v2 model, the folder TRAINER__PLANS__CONFIGURATION "
        "or the data set's folder above it, becomes a bundle that gives nnUNetv2_predict's labels; "
        "a cascade brings its first stage along. No code in a checkpoint is run. folds: bundles of "
        "one recipe, one a fold, become one bundle that averages them. reference: weights of the "
        "network's authors, named as they name them, become the bundle of --recipe (key=value "
        "after PATH override it); a fixture (.npz) is compared, and nothing is written.",
    )
    parser.add_argument("kind", choices=KINDS, metavar="nnunet|folds|reference")
    parser.add_argument("paths", type=Path, nargs="+", metavar="PATH")
    parser.add_argument("-o", "--output", type=Path, help="folder of the bundle")
    parser.add_argument("--model", help="reference: the network's name (medseg models)")
    parser.add_argument("--recipe", help="reference: what the network is for")
    parser.add_argument(
        "--configuration",
        help="nnunet: which, where a folder has several (3d_fullres, 2d, ... or the folder's name)",
    )
    parser.add_argument(
        "--folds",
        metavar="0,1,...|all",
        help="nnunet: the folds to average, or the one of all cases (every numbered one there is)",
    )
    parser.add_argument(
        "--checkpoint", choices=("final", "best"), default=None, help="nnunet: which one (final)"
    )
    parser.add_argument(
        "--trust-code",
        action="store_true",
        help="folds: import the code that a bundle of a `custom` network names",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, terminal: Terminal) -> int:
    """Write the bundle and say what is in it."""
    _refuse_strange_options(args)
    if args.kind == "reference":
        return run_reference(args, terminal)
    if args.kind == "folds":
        return _import_folds(args, terminal)
    folds = _folds(args.folds)
    # What was mistyped is told before torch is loaded.
    from medseg.bundle.imported.nnunet_folder import found_model

    found_model(
        args.paths[0],
        configuration=args.configuration,
        folds=folds,
        which=args.checkpoint or "final",
    )
    from medseg.bundle.imported.nnunet import import_nnunet

    with terminal.progress() as listener:
        made = import_nnunet(
            args.paths[0],
            args.output,
            configuration=args.configuration,
            folds=folds,
            which=args.checkpoint or "final",
            listener=listener,
        )
    terminal.say(
        f"{args.output}: {_told(made)}; medseg predict {args.output} INPUT... -o OUT",
        {"bundle": str(args.output), **_facts(made)},
    )
    return 0


def _import_folds(args: argparse.Namespace, terminal: Terminal) -> int:
    from medseg.bundle.imported.folds import import_folds

    made = import_folds(args.paths, args.output, trust_code=args.trust_code)
    terminal.say(
        f"{args.output}: an ensemble of {len(made.models)} networks; "
        f"medseg predict {args.output} INPUT... -o OUT",
        {"bundle": str(args.output), "networks": len(made.models)},
    )
    return 0


# Which options belong to which kind.
OPTIONS: dict[str, tuple[str, ...]] = {
    "nnunet": ("configuration", "folds", "checkpoint"),
    "reference": ("model", "recipe"),
}


def _refuse_strange_options(args: argparse.Namespace) -> None:
    for kind, names in OPTIONS.items():
        given = [name for name in names if getattr(args, name) is not None]
        if given and kind != args.kind:
            raise InputFault(
                f"--{given[0]} is for medseg import {kind}, not for {args.kind}.", code="E_USE"
            )
    if args.output is None and args.kind != "reference":
        raise InputFault("-o FOLDER is missing: where the bundle is to be written.", code="E_USE")
    if args.kind == "nnunet" and len(args.paths) > 1:
        raise InputFault(
            f"{len(args.paths)} folders given; medseg import nnunet takes one, and its folds by "
            "--folds.",
            code="E_USE",
        )


def _folds(told: str | None) -> tuple[str, ...]:
    if told is None:
        return ()
    names = [name.strip() for name in told.split(",") if name.strip()]
    if not names or len(set(names)) < len(names) or not all(map(_is_fold, names)):
        raise InputFault(
            f"--folds {told}: numbers with commas (0,1,2), each once, or all (the fold that was "
            "trained on all cases).",
            code="E_USE",
        )
    return tuple(name if name == "all" else str(int(name)) for name in names)


def _is_fold(name: str) -> bool:
    return name == "all" or (name.isascii() and name.isdecimal())


def _told(made: "Imported") -> str:
    folds = made.model.folds
    told = f"{made.configuration}, fold{'s' * (len(folds) > 1)} {', '.join(folds)}"
    first = f" after {_told(made.previous)}" if made.previous else ""
    return f"{told} ({made.model.which} checkpoint){first}"


def _facts(made: "Imported") -> dict:
    facts = {
        "configuration": made.configuration,
        "folds": list(made.model.folds),
        "checkpoint": made.model.which,
    }
    return {**facts, **({"previous": _facts(made.previous)} if made.previous else {})}
