"""The walk of windows from image to labels: medseg against MONAI's inferer and nnU-Net's predictor.

What is measured is what surrounds the network: processor time without that of the network itself,
and the largest memory above what the process held before. Each contender runs in a process of its
own, in turn, on the same image, with the same 1x1x1 network of 32 features, one thread. Labels are
compared with those of MONAI's windows in float32 (nnU-Net: of its own windows in float32).

Run: python -m tests.benchmarks.window_walk [--classes 105] [--shape 256 256 200] [--patch 128]
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medseg.inference import memory
from medseg.inference.predictor import Predictor, Prepared
from medseg.inference.settings import WalkSettings
from medseg.preprocess.normalise import Normalisation
from medseg.preprocess.record import Preprocessing
from medseg.volume import Grid, LabelTable, Target, Task, Volume

FEATURES = 32
Shape = tuple[int, int, int]


class Cheap(nn.Module):
    """Features of each voxel alone, and a head; it counts the seconds it takes."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv3d(1, FEATURES, 1)
        self.head = nn.Conv3d(FEATURES, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        # In place, so that it takes little memory of its own.
        return self.head(self.stem(image).mul_(3).tanh_())


class Spent:
    """Processor seconds within a network, and within copies that are made of it."""

    seconds = 0.0
    began = 0.0

    @staticmethod
    def watch(network: nn.Module) -> None:
        network.register_forward_pre_hook(Spent.start)
        network.register_forward_hook(Spent.stop)

    @staticmethod
    def start(*_: Any) -> None:
        Spent.began = time.process_time()

    @staticmethod
    def stop(*_: Any) -> None:
        Spent.seconds += time.process_time() - Spent.began


def image_of(shape: Shape) -> Tensor:
    """Smooth blobs, so that labels are organs and not noise."""
    coarse = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 1, 12, 12, 12))).float()
    return torch.nn.functional.interpolate(coarse, size=shape, mode="trilinear")[0]


def ours(network: nn.Module, image: Tensor, patch: Shape, **settings: Any) -> np.ndarray:
    classes = network.head.out_channels
    i, j, k = image.shape[1:]
    table = LabelTable.from_names({n: f"organ {n}" for n in range(1, classes)})
    preprocessing = Preprocessing(None, (Normalisation("none"),))
    predictor = Predictor(
        models=(network,),
        task=Task(("CT",), Target(table), (1.0, 1.0, 1.0), patch),
        preprocessing=preprocessing,
        settings=WalkSettings(**settings),
    )
    grid = Grid.from_spacing((i, j, k))
    array = image.numpy()
    record = preprocessing.record_of(Volume(array, grid, ("CT",)))
    return predictor.label(Prepared(array, record)).array


def monais(network: nn.Module, image: Tensor, patch: Shape) -> np.ndarray:
    from monai.inferers import SlidingWindowInferer

    inferer = SlidingWindowInferer(patch, sw_batch_size=1, overlap=0.5, mode="gaussian")
    with torch.inference_mode():
        logits = inferer(image[None], network)[0]
        return logits.argmax(dim=0).to(torch.uint8).numpy()


def nnunets(network: nn.Module, image: Tensor, patch: Shape) -> np.ndarray:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(
        use_mirroring=False,
        device=torch.device("cpu"),
        allow_tqdm=False,
        perform_everything_on_device=False,
    )
    predictor.network = network
    predictor.configuration_manager = argparse.Namespace(patch_size=patch)
    predictor.label_manager = argparse.Namespace(num_segmentation_heads=network.head.out_channels)
    predictor.allowed_mirroring_axes = None
    return predictor.predict_sliding_window_return_logits(image).argmax(0).to(torch.uint8).numpy()


CONTENDERS: dict[str, Callable[..., np.ndarray]] = {
    "MONAI SlidingWindowInferer": monais,
    "nnU-Net predictor": nnunets,
    "medseg": ours,
    "medseg, nnU-Net's windows": lambda *given: ours(*given, windows="nnunet"),
    "medseg, float16 sums": lambda *given: ours(*given, sums="float16"),
    "medseg, logits blended": lambda *given: ours(*given, blended="logits"),
    "medseg, nnU-Net's windows and rounding": lambda *given: ours(
        *given, windows="nnunet", sums="float16", blended="logits"
    ),
}
TRUTH = dict.fromkeys(CONTENDERS, "medseg") | {
    "nnU-Net predictor": "medseg, nnU-Net's windows",
    "medseg, nnU-Net's windows and rounding": "nnU-Net predictor",
}


def run_one(name: str, classes: int, shape: Shape, patch: Shape, result: Path) -> None:
    """In a process of its own: seconds, bytes and labels into `result`."""
    torch.set_num_threads(1)
    network, image = Cheap(classes).eval(), image_of(shape)
    # What is loaded and allocated once is not the walk's.
    CONTENDERS[name](network, image[:, :32, :32, :32], (32, 32, 32))
    Spent.watch(network)
    before = memory.resident()
    assert memory.reset_peak()
    began = time.process_time()
    labels = CONTENDERS[name](network, image, patch)
    seconds = time.process_time() - began - Spent.seconds
    np.savez(result, labels=labels, seconds=seconds, above=memory.peak() - before, held=before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--classes", type=int, default=105)
    parser.add_argument("--shape", type=int, nargs=3, default=(256, 256, 200))
    parser.add_argument("--patch", type=int, nargs="+", default=(128,))
    parser.add_argument("--only", nargs="*", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    patch = tuple(asked.patch) * (3 // len(asked.patch))
    if asked.one:
        run_one(asked.one[0], asked.classes, tuple(asked.shape), patch, Path(asked.one[1]))
        return
    given = sys.argv[1:]
    print(
        f"{asked.classes} classes, {asked.shape} voxels, patch {patch}, overlap 0.5, one thread\n"
    )
    print("| what | CPU s beside the network | memory above the image | labels that are other |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        results = {}
        for number, name in enumerate(asked.only):
            place = str(Path(folder) / f"{number}.npz")
            command = [sys.executable, "-m", "tests.benchmarks.window_walk", *given]
            subprocess.run([*command, "--one", name, place], check=True)
            results[name] = np.load(place)
        for name, found in results.items():
            truth = results.get(TRUTH[name])
            other = "" if truth is None else f"{(found['labels'] != truth['labels']).mean():.1e}"
            gigabytes = found["above"] / 1e9
            print(f"| {name} | {found['seconds']:.1f} | {gigabytes:.2f} GB | {other} |")


if __name__ == "__main__":
    main()
