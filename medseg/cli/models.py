"""`medseg models`: the networks a recipe can name, and what can be set of each."""

import argparse
import difflib

from medseg.cli.terminal import Terminal
from medseg.fault import InputFault


def add_parser(verbs: argparse._SubParsersAction, shared: argparse.ArgumentParser) -> None:
    """Register the verb."""
    parser = verbs.add_parser(
        "models", parents=[shared], help="list the networks, or the settings of one"
    )
    parser.add_argument("name", nargs="?", help="a network's name")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, terminal: Terminal) -> int:
    """Print a table of the networks, or of one network's settings."""
    from medseg.models.catalog import CATALOG

    if args.name is None:
        rows = [(one.name, one.title, one.source, one.parity, one.paper) for one in CATALOG]
        terminal.table("", ("name", "network", "code", "held to", "paper"), rows)
        return 0
    from medseg.recipe.models import settings_of_network

    names = [*(entry.name for entry in CATALOG), "custom"]
    if args.name not in names:
        near = difflib.get_close_matches(args.name, names, n=1)
        raise InputFault(
            f"{args.name} is no network{f'; did you mean {near[0]}?' if near else '.'} "
            f"({', '.join(names)})",
            code="E_USE",
        )
    entries = [entry for entry in CATALOG if entry.name == args.name]
    for entry in entries:
        terminal.say(f"{entry.title}: {entry.summary}. {entry.paper}.")
    rows = settings_of_network(args.name)
    terminal.table("", ("setting", "default", "what it is"), rows)
    return 0
