"""`medseg datasets`: the data sets that have a card."""

import argparse

from medseg.cli.terminal import Terminal


def add_parser(verbs: argparse._SubParsersAction, shared: argparse.ArgumentParser) -> None:
    """Register the verb."""
    parser = verbs.add_parser(
        "datasets", parents=[shared], help="list the data sets, or tell all about one"
    )
    parser.add_argument("name", nargs="?", help="a card's name or path")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, terminal: Terminal) -> int:
    """Print a table of the cards, or one card whole."""
    from medseg.data.card import load_card, shipped_cards

    if args.name is None:
        rows = [(card.name, card.title, card.licence) for card in shipped_cards()]
        terminal.table("", ("name", "data set", "licence"), rows)
        return 0
    card = load_card(args.name)
    facts = {
        "title": card.title,
        "channels": ", ".join(card.channels or ("told by dataset.json",)),
        "labels": ", ".join(f"{v} {n}" for v, n in _labels(card)) or "told by dataset.json",
        "regions": "; ".join(f"{r.name} = {'+'.join(map(str, r.members))}" for r in card.regions),
        "licence": card.licence,
        "how to get": card.how_to_get,
        "citation": card.citation,
        "notes": card.notes,
    }
    terminal.table(card.name, ("", ""), [(key, text) for key, text in facts.items() if text])
    return 0


def _labels(card) -> list[tuple[int, str]]:  # noqa: ANN001  # the card's class is not loaded here
    return [(label.value, label.name) for label in card.labels.labels] if card.labels else []
