"""Whole networks with the fast kernels and in torch's own operations, same weights, in turn.

python kernels/benchmarks/networks.py [NAME ...]
prints rows of kernels/README.md: processor seconds of one thread, and what autograd holds between
the forward and the backward pass, parameters not counted. Without names: the first.
Torch's operations run as torch runs them, and again where memory that is freed stays with the
process, as it does where medseg trains and predicts; hence two ratios.
"""

import argparse
from collections.abc import Callable
from contextlib import nullcontext

import torch
from machine import machine
from measured import kept, seconds
from torch import Tensor, nn

from medseg.models.d_former import DFormer
from medseg.models.mednext import MedNeXt
from medseg.models.nnunet import residual_unet
from medseg.models.seg_mamba import SegMamba
from medseg.models.trans_dae import TransDAE
from medseg.models.xlstm_unet import XLSTMUNet
from medseg.nn.kernels import choose_kernels
from medseg.nn.memory import reused_memory


def _residual_unet(patch: tuple[int, int, int]) -> nn.Module:
    return residual_unet(
        in_channels=1,
        out_channels=4,
        patch_size=patch,
        spacing_mm=(1, 1, 1),
        deep_supervision=False,
    )


def _xlstm_unet(patch: tuple[int, int, int]) -> nn.Module:
    return XLSTMUNet(
        in_channels=1,
        out_channels=4,
        patch_size=patch,
        spacing_mm=(1, 1, 1),
        deep_supervision=False,
    )


# What is built, and the size of its input.
NETWORKS: dict[str, tuple[Callable[[tuple[int, int, int]], nn.Module], tuple[int, int, int]]] = {
    "xlstm_unet": (_xlstm_unet, (64, 64, 64)),
    "d_former": (
        lambda _: DFormer(in_channels=1, out_channels=14, deep_supervision=False),
        (32, 128, 128),
    ),
    "nnunet_resenc": (_residual_unet, (64, 64, 64)),
    "mednext": (
        lambda _: MedNeXt(in_channels=1, out_channels=4, deep_supervision=False),
        (64, 64, 64),
    ),
    "trans_dae": (
        lambda _: TransDAE(in_channels=1, out_channels=4, deep_supervision=False),
        (64, 64, 64),
    ),
    "seg_mamba": (lambda _: SegMamba(in_channels=1, out_channels=4), (64, 64, 64)),
}
# The kernels, whether memory that is freed stays with the process, and how many steps go by before
# they are measured: where it does, the heap has found its size after two at most.
RUNS = (("reference", nullcontext, 0), ("reference", reused_memory, 1), ("fast", reused_memory, 2))
# Measured when they are named: the scan of one takes minutes in torch, and so do all of them.
NAMED = ("d_former", "nnunet_resenc", "mednext", "trans_dae", "seg_mamba")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=[n for n in NETWORKS if n not in NAMED])
    names = parser.parse_args().names
    torch.set_num_threads(1)
    print(machine())
    print("| network | torch | memory kept | here | ratios | torch holds | here | difference |")
    print("|---|---|---|---|---|---|---|---|")
    for name in names:
        make, size = NETWORKS[name]
        model, image = make(size), torch.randn(1, 1, *size)
        for row in _rows(f"{name} {'x'.join(map(str, size))}", model, image):
            print(row, flush=True)


def _rows(name: str, model: nn.Module, image: Tensor) -> list[str]:
    forward, training, held, outputs = [], [], [], []
    for kernels, keeps, warm in RUNS:
        choose_kernels(model, kernels)
        with keeps():
            with torch.no_grad():
                outputs.append(model.eval()(image))
                forward.append(seconds(lambda: model(image), warm=min(warm, 1), repeats=2))
            training.append(seconds(lambda: _train(model, image), warm=warm, repeats=2))
            held.append(f"{kept(lambda: model(image), model) / 2**30:.2f} GiB")
    apart = (outputs[0] - outputs[-1]).abs().max() / outputs[0].abs().max()
    return [
        _row(f"{name} forward", forward, ["", ""], apart.item()),
        _row(f"{name} forward + backward", training, held[1:], apart.item()),
    ]


def _train(model: nn.Module, image: Tensor) -> None:
    model.zero_grad(set_to_none=True)
    model(image).square().mean().backward()


def _row(name: str, seconds: list[float], held: list[str], apart: float) -> str:
    times, ratios = ([f"{one:.2f} s" for one in seconds], [one / seconds[-1] for one in seconds])
    told = f"x{ratios[0]:.2f}, x{ratios[1]:.2f}"
    return "| " + " | ".join([name, *times, told, *held, f"{apart:.0e}"]) + " |"


if __name__ == "__main__":
    main()
