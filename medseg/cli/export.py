"""`medseg export BUNDLE --to FORMAT -o OUT`: the network for other programs."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.cli.terminal import Terminal
from medseg.fault import InputFault

if TYPE_CHECKING:
    from medseg.bundle.bundle import Bundle

SUFFIXES = {"onnx": ".onnx", "torch-export": ".pt2", "monai-bundle": ""}


def add_parser(verbs: argparse._SubParsersAction, shared: argparse.ArgumentParser) -> None:
    """Register the verb."""
    parser = verbs.add_parser(
        "export",
        parents=[shared],
        help="write a bundle's network as ONNX, torch.export archive or MONAI bundle",
        description="onnx: OUT.onnx, compared in onnxruntime. torch-export: OUT.pt2, run by torch "
        "alone. Both take any number of windows of the bundle's patch and give logits; what "
        "surrounds the network (channels, spacing, normalization, labels) stands in them as JSON "
        "under `medseg`. monai-bundle: a folder with MONAI's transforms around the network; its "
        "labels are near medseg's, not the same. Several folds become one network that averages "
        "them. What is written is read back and compared, or not kept. Not exported: cascades, "
        "test-time mirroring, rules of post-processing.",
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--to", choices=SUFFIXES, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument(
        "--trust-code",
        action="store_true",
        help="import the code that a bundle of a `custom` network names",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, terminal: Terminal) -> int:
    """Write one format and say how near it is to the bundle."""
    suffix = SUFFIXES[args.to]
    if suffix and args.output.suffix != suffix:
        raise InputFault(
            f"-o {args.output}: a file of --to {args.to} ends in {suffix}.", code="E_USE"
        )
    from medseg.bundle.manifest import read_manifest

    read_manifest(args.bundle)
    from medseg.bundle.bundle import load_bundle

    bundle = load_bundle(args.bundle, trust_code=args.trust_code)
    if bundle.previous is not None:
        raise InputFault(
            f"{args.bundle}: it is a cascade, whose second network needs the labels of the first; "
            "no format holds both. Export the first, BUNDLE/previous, or predict with medseg.",
            code="E_CASCADE",
        )
    apart = _written(args.to, args.output, bundle)
    terminal.say(
        f"{args.output}: read back, its logits are at most {apart:.2g} from the bundle's.",
        {"output": str(args.output), "largest_difference": apart},
    )
    return 0


def _written(kind: str, output: Path, bundle: "Bundle") -> float:
    from medseg.bundle.self_test import seeded_input

    shape = (1, bundle.task.in_channels, *bundle.task.patch_size)
    window = seeded_input(shape)
    # One window and several, for the number of them is free.
    windows = [window, seeded_input((3, *shape[1:]))]
    if kind == "onnx":
        from medseg.export.onnx_file import write_onnx

        return write_onnx(output, bundle.models, windows, _facts(bundle))
    if kind == "torch-export":
        from medseg.export.torch_export import write_torch_export

        return write_torch_export(output, bundle.models, windows, _facts(bundle))
    from medseg.export.monai_bundle import write_monai_bundle

    settings = bundle.walk_settings()
    return write_monai_bundle(
        output,
        bundle.models,
        windows,
        name=str(bundle.recipe.get("name", "medseg")),
        task=bundle.task,
        preprocessing=bundle.preprocessing,
        overlap=settings.overlap,
        batch_size=settings.batch_size,
    )


def _facts(bundle: "Bundle") -> dict[str, Any]:
    """What a program must know to use the network: plain JSON values."""
    from dataclasses import asdict

    return {
        "task": bundle.task.to_json(),
        "preprocessing": bundle.preprocessing.to_json(),
        "windows": asdict(bundle.walk_settings()),
        "bundle_sha256": bundle.sha256,
        "folds": len(bundle.models),
    }
