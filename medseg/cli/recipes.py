"""`medseg recipes`: the recipes that come with medseg."""

import argparse

from medseg.cli.terminal import Terminal


def add_parser(verbs: argparse._SubParsersAction, shared: argparse.ArgumentParser) -> None:
    """Register the verb."""
    parser = verbs.add_parser(
        "recipes", parents=[shared], help="list the recipes that come with medseg"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, terminal: Terminal) -> int:  # noqa: ARG001
    """Print a table of them."""
    from medseg.recipe import load_recipe
    from medseg.shipped import shipped_files

    rows = []
    for path in shipped_files("recipes"):
        recipe = load_recipe(path)
        patch, trainer = recipe.plan.patch_size, recipe.trainer
        rows.append(
            (
                path.stem,
                recipe.model.name,
                recipe.data.card,
                recipe.loss.name,
                patch if isinstance(patch, str) else "x".join(map(str, patch)),
                f"{trainer.epochs * trainer.steps_per_epoch:,}",
            )
        )
    terminal.table("", ("recipe", "network", "data set", "loss", "patch", "steps"), rows)
    terminal.say(
        "\nmedseg train RECIPE --demo tries one on a synthetic set; check RECIPE --resolved"
    )
    terminal.say("prints all its settings, and models NETWORK tells what each of them is.")
    return 0
