"""Words on the command line to a verb and its arguments; a misspelled one gets its nearest name."""

import argparse
import difflib
import re
from collections.abc import Iterable, Sequence

from medseg import __version__
from medseg.cli import (
    check,
    compare,
    datasets,
    doctor,
    evaluate,
    export,
    import_,
    models,
    plan,
    predict,
    recipes,
    train,
)
from medseg.fault import InputFault, all_at_once

VERBS = (
    *(train, predict, evaluate, compare, import_, export, check),
    *(plan, doctor, recipes, models, datasets),
)


def parsed(given: Sequence[str]) -> argparse.Namespace:
    """The arguments of a verb; `run` among them carries it out.

    Overrides (`key=value`) and inputs may stand before, between and after options.

    Raises:
        InputFault: an unknown verb or option, with the nearest (E_USE).
        SystemExit: help or the version was asked for, or argparse itself refused (code 2).
    """
    top, verbs = _parsers()
    if given and given[0] not in verbs and not given[0].startswith("-"):
        raise InputFault(
            f"{given[0]} is no verb{_nearest(given[0], verbs)} ({', '.join(verbs)}).",
            code="E_USE",
        )
    args, strays = top.parse_known_args(given)
    takes_overrides = "overrides" in args
    overrides = [word for word in strays if takes_overrides and _is_override(word)]
    inputs = [word for word in strays if "inputs" in args and not word.startswith("-")]
    options = re.findall(r"--?[a-z][a-z-]*", verbs[args.verb].format_help())
    faults = [
        _stray(word, args.verb, options, takes_overrides=takes_overrides)
        for word in strays
        if word not in (*overrides, *inputs)
    ]
    if faults:
        summary = f"medseg {args.verb} --help tells what it takes:"
        raise all_at_once(faults, summary=summary, code="E_USE")
    if overrides:
        args.overrides = [*args.overrides, *overrides]
    if inputs:
        args.inputs = [*args.inputs, *inputs]
    return args


def _parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    top = argparse.ArgumentParser(
        prog="medseg",
        description="3D medical image segmentation: train, predict and evaluate.",
        epilog="Each verb has its own --help. Exit codes: 0 all done, 1 a fault of medseg, "
        "2 wrong use, 3 some cases failed.",
    )
    top.add_argument("--version", action="version", version=f"medseg {__version__}")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--quiet", action="store_true", help="print errors and results alone")
    shared.add_argument("--json", action="store_true", help="print events as JSON lines")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb in VERBS:
        verb.add_parser(verbs, shared)
    return top, dict(verbs.choices)


def _stray(word: str, verb: str, options: Sequence[str], *, takes_overrides: bool) -> str:
    if not word.startswith("-"):
        return f"{word} is no argument of medseg {verb}."
    bare = word.lstrip("-")
    if takes_overrides and "." in bare.partition("=")[0]:
        return f"{word} is no option; a setting is written without dashes: {bare}"
    return f"{word} is no option of medseg {verb}{_nearest(word.partition('=')[0], options)}"


def _is_override(word: str) -> bool:
    return "=" in word and not word.startswith("-")


def _nearest(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else "."
