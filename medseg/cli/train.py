"""`medseg train RECIPE`: a recipe and a data set in, a bundle out."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from medseg.cli.terminal import Terminal

if TYPE_CHECKING:
    from medseg.bundle.demo import DemoScores
    from medseg.recipe import Recipe


def add_parser(verbs: argparse._SubParsersAction, shared: argparse.ArgumentParser) -> None:
    """Register the verb."""
    parser = verbs.add_parser(
        "train",
        parents=[shared],
        help="train a network from a recipe",
        description="Train a network from a recipe. The run folder receives the resolved recipe, "
        "the split, the plan, logs, pictures, checkpoints, and at the end a bundle for predict.",
    )
    parser.add_argument("recipe", help="a YAML file, or the name of a shipped recipe")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings that replace the recipe's"
    )
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("runs"), help="where runs are kept (runs/)"
    )
    parser.add_argument(
        "--demo",
        action="store_true",
        help="train on a synthetic set made for this recipe, scaled down to minutes on two cores",
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue this recipe's run where it stopped"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, terminal: Terminal) -> int:
    """Train, and print where the bundle lies."""
    from medseg.recipe import load_recipe

    recipe = load_recipe(args.recipe, args.overrides)
    if args.demo:
        return _run_demo(recipe, args, terminal)
    from medseg.bundle.run import run_folder, train_run
    from medseg.training.trainer import is_first_rank

    if not is_first_rank():
        terminal = Terminal(quiet=True)
    folder = run_folder(args.output, recipe)
    with terminal.progress() as listener:
        made = train_run(recipe, folder=folder, resume=args.resume, listener=listener)
    how = (
        f"best mean validation Dice {made.best_score:.4f}"
        if made.split.validation
        else "no case was held out, the last weights are kept"
    )
    terminal.say(f"Trained {made.steps} steps in {made.seconds / 60:.1f} min; {how}.")
    terminal.say(f"Bundle: {made.bundle}")
    if made.split.validation:
        terminal.say(
            "The held-out cases are predicted and scored by\n"
            f"  medseg predict {made.bundle} {folder} -o out\n"
            f"  medseg evaluate out {folder} -o report"
        )
    return 0


def _run_demo(recipe: "Recipe", args: argparse.Namespace, terminal: Terminal) -> int:
    from medseg.bundle.demo import run_demo

    terminal.say(
        f"Demo of {recipe.name}: the data set is SYNTHETIC, made on this machine to show the "
        "pipeline; the model it trains is of no medical use."
    )
    with terminal.progress() as listener:
        scores = run_demo(recipe, output=args.output, listener=listener)
    _tell(scores, terminal)
    return 0


def _tell(scores: "DemoScores", terminal: Terminal) -> None:
    rows = [
        (name, f"{scores.untrained[name]:.3f}", f"{scores.trained[name]:.3f}")
        for name in scores.trained
    ]
    terminal.table(
        f"Dice on {scores.subjects} unseen synthetic subjects",
        ("", "untrained", "trained"),
        [*rows, ("mean", f"{scores.untrained_mean:.3f}", f"{scores.trained_mean:.3f}")],
    )
    terminal.say(f"Bundle:  {scores.bundle}")
    terminal.say(f"Report:  {scores.report}")
    terminal.say(f"Picture: {scores.picture}")
