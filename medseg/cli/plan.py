"""`medseg plan DATASET`: spacing, patch, batch and normalization by nnU-Net's rules."""

import argparse
import json
from pathlib import Path

from medseg.cli.terminal import Terminal
from medseg.fault import InputFault


def add_parser(verbs: argparse._SubParsersAction, shared: argparse.ArgumentParser) -> None:
    """Register the verb."""
    parser = verbs.add_parser(
        "plan",
        parents=[shared],
        help="look at a data set and propose how to train on it",
        description="Fingerprint a data set and plan spacing, patch size, batch size and "
        "normalization by nnU-Net's published rules.",
    )
    parser.add_argument("root", type=Path, help="the folder of the data set")
    parser.add_argument(
        "--card", help="its card (medseg datasets); default: msd or nnunet, by what is there"
    )
    parser.add_argument(
        "--network",
        choices=("plain", "resenc_m", "resenc_l", "resenc_xl"),
        default="plain",
        help="whose memory to count with",
    )
    parser.add_argument("--memory-gb", type=float, help="of the GPU; default: the network's own")
    parser.add_argument("-o", "--output", type=Path, help="also write the plan as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, terminal: Terminal) -> int:
    """Print the plan as the section of a recipe."""
    from medseg.data.card import load_card
    from medseg.data.cases import open_listing

    if args.memory_gb is not None and not args.memory_gb > 0:
        raise InputFault(f"--memory-gb {args.memory_gb:g}: it is above 0.", code="E_USE")
    card = load_card(args.card or _card_for(args.root))
    # What was mistyped is told before anything heavy is loaded.
    listing = open_listing(card, args.root)

    from medseg.data.fingerprint import fingerprint
    from medseg.data.plan import plan
    from medseg.io.atomic import write_json

    with terminal.progress() as listener:
        facts = fingerprint(listing, listener=listener)
    made = plan(facts, network=args.network, memory_gb=args.memory_gb)
    shape = " x ".join(f"{side:g}" for side in made.median_shape)
    terminal.say(
        f"{len(facts.cases)} cases, median {shape} voxels of "
        f"{' x '.join(f'{mm:g}' for mm in made.spacing_mm)} mm."
    )
    kinds = ", ".join(str(step["kind"]) for step in made.normalisation)
    terminal.result(
        "plan:\n"
        # Headers hold float32, so seven digits are all of it.
        f"  spacing_mm: [{', '.join(f'{mm:.7g}' for mm in made.spacing_mm)}]\n"
        f"  patch_size: {list(made.patch_size)}\n"
        f"  batch_size: {made.batch_size}\n"
        f"  crop: {made.crop}\n"
        f"  normalise: auto  # {kinds}"
    )
    if args.output:
        write_json(args.output, json.loads(json.dumps(made.to_json())))
        terminal.say(f"Written to {args.output}.")
    return 0


def _card_for(root: Path) -> str:
    facts = root / "dataset.json"
    if facts.is_file() and b'"channel_names"' in facts.read_bytes():
        return "nnunet"
    return "msd"
