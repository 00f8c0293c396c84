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
        rows.append((path.stem, recipe.model.name, recipe.data.card, recipe.loss.name))
    terminal.table("", ("recipe", "model", "data set", "loss"), rows)
    return 0
