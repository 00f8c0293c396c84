"""`medseg check RECIPE`: every mistake in a recipe, before anything heavy is loaded."""

import argparse

from medseg.cli.terminal import Terminal


def add_parser(verbs: argparse._SubParsersAction, shared: argparse.ArgumentParser) -> None:
    """Register the verb."""
    parser = verbs.add_parser(
        "check",
        parents=[shared],
        help="tell every mistake in a recipe",
        description="Check a recipe and its overrides: names, types, ranges, and the rules between "
        "sections. Nothing is trained and no data are needed.",
    )
    parser.add_argument("recipe", help="a YAML file, or the name of a shipped recipe")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--resolved", action="store_true", help="print it with every default")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, terminal: Terminal) -> int:
    """Load the recipe; a mistake ends with code 2."""
    from medseg.recipe import load_recipe

    recipe = load_recipe(args.recipe, args.overrides)
    if args.resolved:
        terminal.result(recipe.to_yaml().rstrip())
    terminal.say(f"{args.recipe}: no mistakes; trains {recipe.model.name} on {recipe.data.card}.")
    return 0
