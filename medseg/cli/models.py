"""`medseg models`: the networks a recipe can name, what they cost, and what can be set of each."""

import argparse
import difflib
from typing import TYPE_CHECKING

from medseg.cli.terminal import Terminal
from medseg.fault import InputFault

if TYPE_CHECKING:
    from medseg.models.catalog import ModelEntry


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
        columns = ("name", "network", "M weights", "GMAC", "at")
        terminal.table(
            "What each costs with its defaults", columns, [_costs(one) for one in CATALOG]
        )
        origins = [(one.name, one.parity, one.source, one.paper) for one in CATALOG]
        terminal.table("What tests hold each to", ("name", "held to", "code", "paper"), origins)
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


def _costs(entry: "ModelEntry") -> tuple[str, ...]:
    """A network with its defaults, at its example's input: channels x i x j x k to classes."""
    example = entry.example
    size = "x".join(map(str, (example.in_channels, *example.patch_size)))
    return (
        entry.name,
        entry.title,
        f"{example.parameters / 1e6:.1f}",
        f"{example.gmacs:.1f}",
        f"{size} to {example.out_channels}",
    )
