"""A small form of every network, for the suite that holds them all to one contract."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from medseg.models.d_former import DFormer
from medseg.models.mednext import MedNeXt
from medseg.models.nnunet import plain_unet, residual_unet
from medseg.models.para_trans_cnn import ParaTransCNN
from medseg.models.seg_mamba import SegMamba
from medseg.models.segresnet import SegResNet
from medseg.models.swin_unetr import SwinUNETR
from medseg.models.swtr_unet import SWTRUNet
from medseg.models.trans_dae import TransDAE
from medseg.models.u_mamba import UMamba
from medseg.models.xlstm_unet import XLSTMUNet
from medseg.recipe.models import section_of_network
from medseg.recipe.networks.network import NetworkSection
from medseg.volume import LabelTable, Target, Task

CHANNELS, CLASSES = 2, 3
SINGLE = {"single": {"deep_supervision": False}}


@dataclass(frozen=True)
class Small:
    """Settings narrow enough for a test, a patch that fits them, and what the section builds.

    `forms` are further settings that the contract holds for, each laid over `settings`; `levels`
    how many resolutions training puts out with deep supervision; `not_exported` why torch.export
    cannot take the network, `not_bf16` why its weights cannot be bfloat16 throughout, `bf16`
    how far autocast may take its logits, in their standard deviation. `kept_mb` is what autograd
    may hold between forward and backward for one patch, weights aside.
    """

    builds: Callable[..., nn.Module]
    settings: Mapping[str, Any]
    kept_mb: float
    patch: tuple[int, int, int] = (32, 32, 32)
    forms: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    levels: int = 1
    not_exported: str | None = None
    not_bf16: str | None = None
    bf16: float = 0.05


SMALL: dict[str, Small] = {
    "swin_unetr": Small(
        SwinUNETR,
        {"feature_size": 12, "window_size": 4},
        patch=(64, 32, 32),
        forms={"identity": {"mixing": "identity"}, "v2": {"v2": True}},
        kept_mb=49.8,
    ),
    "nnunet_plain": Small(
        plain_unet, {"base_features": 4}, patch=(16, 24, 16), levels=2, forms=SINGLE, kept_mb=1.25
    ),
    "nnunet_resenc": Small(
        residual_unet,
        {"size": "s", "base_features": 4},
        patch=(16, 24, 16),
        levels=2,
        forms=SINGLE,
        not_bf16="torch's average pooling has no bfloat16 form on a CPU",
        kept_mb=1.4,
    ),
    "mednext": Small(MedNeXt, {"base_features": 4}, levels=5, forms=SINGLE, kept_mb=27.7),
    "segresnet": Small(
        SegResNet,
        {"base_features": 8, "deep_supervision": True},
        patch=(16, 24, 16),
        levels=3,
        forms=SINGLE,
        kept_mb=3.1,
    ),
    "xlstm_unet": Small(
        XLSTMUNet,
        {"base_features": 4},
        levels=3,
        forms={
            "bottleneck": {"variant": "bottleneck"},
            "faithful": {"faithful": True, "base_features": 8},
            "bidirectional": {"bidirectional": True},
            "flat": {"dimensions": 2, "slice_axis": 1},
            "identity": {"mixing": "identity"},
            "single": {"deep_supervision": False},
        },
        kept_mb=17.0,
    ),
    "para_trans_cnn": Small(
        ParaTransCNN,
        {"size": "tiny", "drop_rate": 0.0},
        patch=(32, 32, 32),
        forms={
            "volume": {"dimensions": 3},
            "dropout": {"drop_rate": 0.1},
            "identity": {"mixing": "identity"},
        },
        kept_mb=24.6,
    ),
    "swtr_unet": Small(
        SWTRUNet,
        {"size": "tiny", "window_size": 2},
        patch=(32, 32, 32),
        forms={"volume": {"dimensions": 3}, "identity": {"mixing": "identity"}},
        kept_mb=22.1,
    ),
    "trans_dae": Small(
        TransDAE,
        {"size": "tiny", "token_size": (2, 2, 2)},
        patch=(32, 32, 32),
        levels=3,
        forms={
            "volume": {"dimensions": 3},
            "as_dae_former": {"spatial": "efficient", "channel": "transposed", "dimensions": 3},
            "identity": {"mixing": "identity"},
            "single": {"deep_supervision": False},
        },
        kept_mb=105.9,
    ),
    "u_mamba": Small(
        UMamba,
        {"base_features": 4},
        # No Mamba is added to its input, so what one rounds the next one enlarges.
        bf16=0.15,
        patch=(16, 32, 16),
        levels=2,
        forms={
            "bottleneck": {"variant": "bottleneck"},
            "faithful": {"faithful": True, "base_features": 64, "stages": 3},
            "flat": {"dimensions": 2},
            "identity": {"mixing": "identity"},
        },
        kept_mb=8.9,
    ),
    "seg_mamba": Small(
        SegMamba,
        {"feature_size": 4, "depths": (1, 1, 1, 1), "states": 4},
        forms={
            "faithful": {"faithful": True, "depths": (1, 1, 1, 2)},
            "identity": {"mixing": "identity"},
        },
        kept_mb=16.9,
    ),
    "d_former": Small(
        DFormer,
        {
            "feature_size": 12,
            "token_size": (2, 2, 2),
            "group_size": (2, 4, 4),
            "depths": (2, 2, 2, 2),
        },
        patch=(16, 32, 32),
        levels=2,
        forms={
            "identity": {"mixing": "identity"},
            "single": {"deep_supervision": False},
            # With deep supervision the reference's third head is dead.
            "faithful_single": {"faithful": True, "deep_supervision": False},
        },
        kept_mb=11.5,
    ),
}


def section(name: str, form: str = "") -> NetworkSection:
    """The section of the small network, in one of its further forms."""
    small = SMALL[name]
    settings = {**small.settings, **(small.forms[form] if form else {})}
    return section_of_network(name)(name=name, **settings)


def network(name: str, form: str = "", *, seed: int = 0) -> nn.Module:
    """The small network with random weights of `seed`."""
    torch.manual_seed(seed)
    return section(name, form).build(task(SMALL[name].patch))


def task(patch: tuple[int, int, int], *, channels: int = CHANNELS, classes: int = CLASSES) -> Task:
    """A task of that many channels and classes, background among them."""
    labels = LabelTable.from_names({value: f"label {value}" for value in range(1, classes)})
    names = tuple(f"channel {number}" for number in range(channels))
    return Task(names, Target(labels), (1.0, 1.0, 1.0), patch)


def image(name: str, *, batch: int = 1, seed: int = 5) -> torch.Tensor:
    """Noise in the form of the network's patch."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, CHANNELS, *SMALL[name].patch, generator=generator)
