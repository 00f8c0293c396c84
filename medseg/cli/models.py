"""`medseg models`: the networks a recipe can name."""

import argparse

from medseg.cli.terminal import Terminal


def add_parser(verbs: argparse._SubParsersAction, shared: argparse.ArgumentParser) -> None:
    """Register the verb."""
    parser = verbs.add_parser("models", parents=[shared], help="list the networks")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, terminal: Terminal) -> int:  # noqa: ARG001
    """Print a table of them."""
    from medseg.models.catalog import CATALOG

    rows = [(entry.name, entry.title, entry.source, entry.parity, entry.paper) for entry in CATALOG]
    terminal.table("", ("name", "network", "code", "held to", "paper"), rows)
    return 0
