"""`medseg compare RECIPE... -o OUT`: recipes trained alike, and one table of what came of them."""

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.cli.amounts import numbers
from medseg.cli.terminal import Terminal
from medseg.fault import InputFault

if TYPE_CHECKING:
    from medseg.engine.compare_plan import Budget, Entry
    from medseg.evaluation.comparison import Comparison

SOME_FAILED = 3


def add_parser(verbs: argparse._SubParsersAction, shared: argparse.ArgumentParser) -> None:
    """Register the verb."""
    parser = verbs.add_parser(
        "compare",
        parents=[shared],
        help="train several recipes alike and compare them",
        description="Train several recipes on the same folds under the same budget, predict the "
        "held-out cases, score them, and write one table: OUT/comparison.csv, .json and .html. "
        "Each training is a run of its own under OUT/runs, with a bundle for predict. One that "
        "fails is told in its row, and the rest is done (exit code 3).",
    )
    parser.add_argument(
        "overrides",
        nargs="+",
        metavar="RECIPE|key=value",
        help="YAML files or names of shipped recipes, and settings that replace those of all",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the comparison")
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--steps", type=int, metavar="N", help="train each for N steps")
    budget.add_argument("--minutes", type=float, metavar="M", help="train each for M minutes")
    parser.add_argument(
        "--folds", metavar="NUMBERS", help="held out one after the other: 0,1 or all (the recipe's)"
    )
    parser.add_argument(
        "--identity",
        action="store_true",
        help="add a twin NAME+identity of each network that mixes distant tokens, with those "
        "layers replaced by the identity",
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue; what is finished is not done again"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, terminal: Terminal) -> int:
    """Compare, write the table, print it."""
    # What was mistyped is told before anything heavy is loaded.
    entries, budget = _asked(args)

    from medseg.engine.compare import compare
    from medseg.evaluation.comparison_report import write_comparison

    terminal.say(
        f"{sum(len(entry.recipes) for entry in entries)} runs of {budget} each: "
        f"{', '.join(entry.name for entry in entries)}."
    )
    with terminal.progress() as listener:
        comparison = compare(
            entries, args.output, budget=budget, resume=args.resume, listener=listener
        )
    report = write_comparison(comparison, args.output)
    _show(comparison, terminal)
    terminal.say(f"Table: {report.csv}")
    terminal.say(f"Page:  {report.page}")
    return 0 if len(comparison.done) == len(comparison.rows) else SOME_FAILED


def _asked(args: argparse.Namespace) -> "tuple[tuple[Entry, ...], Budget]":
    from medseg.engine.compare_plan import Budget, entries

    recipes = [word for word in args.overrides if "=" not in word]
    settings = [word for word in args.overrides if "=" in word]
    if not recipes:
        raise InputFault("name a recipe, or several to compare.", code="E_USE")
    if args.steps is not None and not 1 <= args.steps <= 1_000_000:
        raise InputFault(f"--steps {args.steps}: it is 1 to 1000000.", code="E_USE")
    if args.minutes is not None and not 0 < args.minutes < math.inf:
        raise InputFault(f"--minutes {args.minutes:g}: it lies above 0.", code="E_USE")
    budget = Budget(args.steps, args.minutes)
    made = entries(
        recipes,
        settings,
        budget=budget,
        folds=_folds(args.folds, recipes, settings),
        identity=args.identity,
        cache=args.output / "cache",
    )
    return made, budget


def _folds(asked: str | None, recipes: list[str], settings: list[str]) -> tuple[int, ...] | None:
    if asked is None:
        return None
    from medseg.recipe import load_recipe

    count = load_recipe(recipes[0], settings).data.fold_count
    folds = numbers("--folds", asked) or tuple(range(count))
    if folds[-1] >= count:
        raise InputFault(
            f"--folds {asked}: there are {count} folds, 0 to {count - 1}.",
            code="E_USE",
        )
    return folds


# What is printed of a row: column, fact, digits. Two tables, for one would not fit a terminal.
SCORES = (("Dice", "dice", 3), ("from", "dice_low", 3), ("to", "dice_high", 3))
SCORES += (("NSD", "nsd", 3), ("HD95", "hd95_mm", 2), ("p", "p_holm", 4))
COSTS = (("M weights", "parameters", 2), ("GMACs", "gmacs", 2), ("GB", "peak_memory_gb", 2))
COSTS += (("s/step", "seconds_per_step", 3), ("min", "minutes", 1))


def _show(comparison: "Comparison", terminal: Terminal) -> None:
    from medseg.evaluation.comparison import facts_of

    rows = facts_of(comparison)
    title = f"{comparison.cases} held-out cases, {comparison.budget}, {comparison.split}"
    for heading, columns in ((title, SCORES), ("", COSTS)):
        terminal.table(
            heading,
            ("", *(column for column, _, _ in columns)),
            [(facts["name"], *_cells(facts, columns)) for facts in rows],
        )
    terminal.say(
        "Dice from ... to: 95 % bootstrap interval; NSD at 1 mm; p: to the best row, Holm."
    )


def _cells(facts: Mapping[str, Any], columns: Sequence[tuple[str, str, int]]) -> list[str]:
    if facts["state"] == "failed":
        return [f"failed ({facts['code']})", *["-"] * (len(columns) - 1)]
    values = {**facts, "parameters": facts["parameters"] / 1e6}
    return [
        "best" if key == "p_holm" and facts["is_best"] else _shown(values[key], digits)
        for _, key, digits in columns
    ]


def _shown(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"
