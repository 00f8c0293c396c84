"""`medseg import reference PATH --model NAME`: authors' weights, or what they computed once."""

import argparse
import difflib
from pathlib import Path

from medseg.cli.terminal import Terminal
from medseg.fault import InputFault

FIXTURE = ".npz"


def run_reference(args: argparse.Namespace, terminal: Terminal) -> int:
    """Compare with a fixture, or write the bundle of a checkpoint."""
    from medseg.models.catalog import CATALOG

    names = [entry.name for entry in CATALOG]
    if args.model not in names:
        near = difflib.get_close_matches(str(args.model), names, n=1)
        raise InputFault(
            f"--model {args.model}: reference needs the name of a network"
            f"{f'; did you mean {near[0]}?' if near else ''} ({', '.join(names)})",
            code="E_USE",
        )
    path, *overrides = args.paths
    if not path.is_file():
        raise InputFault(f"{path}: there is no such file.", code="E_NOTFILE")
    if path.suffix == FIXTURE:
        return _compare(args, path, terminal)
    return _import(args, path, [str(one) for one in overrides], terminal)


def _compare(args: argparse.Namespace, path: Path, terminal: Terminal) -> int:
    if args.output is not None or args.recipe is not None or len(args.paths) > 1:
        raise InputFault(
            f"{path}: a fixture is compared, and nothing written; leave out -o, --recipe and "
            "key=value.",
            code="E_USE",
        )
    from medseg.models.checkpoints.reference import compare, read_fixture

    fixture = read_fixture(path)
    if fixture.model != args.model:
        raise InputFault(f"{path}: it is of {fixture.model}, not of {args.model}.", code="E_USE")
    parity = compare(fixture)
    equal = parity.excess <= 1
    terminal.say(
        f"{path.name}: {args.model}, {parity.unit}: {parity.loaded.tensors} tensors loaded; of "
        f"{parity.values} values the largest difference is {parity.difference:.2g}, "
        f"{parity.excess:.2g} times what is allowed: {parity.tolerance:g} and as much of the value",
        {
            "fixture": str(path),
            "unit": parity.unit,
            "tensors": parity.loaded.tensors,
            "left_out": len(parity.loaded.left_out),
            "values": parity.values,
            "difference": parity.difference,
            "tolerance": parity.tolerance,
            "equal": equal,
        },
    )
    return 0 if equal else 1


def _import(args: argparse.Namespace, path: Path, overrides: list[str], terminal: Terminal) -> int:
    if args.recipe is None or args.output is None:
        raise InputFault(
            "a checkpoint becomes a bundle by --recipe RECIPE -o FOLDER: the recipe tells "
            "channels, labels, spacing and intensities, which the checkpoint does not.",
            code="E_USE",
        )
    from medseg.recipe.loader import load_recipe

    recipe = load_recipe(args.recipe, overrides)
    from medseg.bundle.imported.reference import import_reference

    with terminal.progress() as listener:
        loaded = import_reference(
            path, args.output, model=args.model, recipe=recipe, listener=listener
        )
    left_out = f", {len(loaded.left_out)} left out" if loaded.left_out else ""
    terminal.say(
        f"{args.output}: {args.model}, {loaded.tensors} tensors loaded{left_out}; "
        f"medseg predict {args.output} INPUT... -o OUT",
        {
            "bundle": str(args.output),
            "tensors": loaded.tensors,
            "left_out": list(loaded.left_out),
        },
    )
    return 0
