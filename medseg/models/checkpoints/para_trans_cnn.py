"""The ParaTransCNN authors' weights for ours, in two dimensions."""

import re
from collections.abc import Mapping

from torch import nn

from medseg.models.checkpoints import filling
from medseg.models.checkpoints.filling import Loaded, Rule
from medseg.models.checkpoints.reference import Unit
from medseg.models.para_trans_cnn import ParaTransCNN
from medseg.nn.slicewise import SliceWise

RULES: tuple[Rule, ...] = (
    (r"^vit_(\d)\.net\.(\d+)\.fn\.norm\.", lambda f: f"{_layer(f)}norm{1 + int(f[2]) % 2}."),
    (r"^vit_(\d)\.net\.(\d+)\.fn\.fn\.(qkv|proj)\.", lambda f: f"{_layer(f)}attention.{f[3]}."),
    (r"^vit_(\d)\.net\.(\d+)\.fn\.fn\.net\.", lambda f: f"{_layer(f)}mlp."),
    (r"^patch_embed_(\d)\.", lambda f: f"transformer.embeds.{int(f[1]) - 1}."),
    (r"^firstconv\.", "cnn.stem.0."),
    (r"^firstbn\.", "cnn.stem.1."),
    (r"^encoder(\d)\.", lambda f: f"cnn.stages.{int(f[1]) - 1}."),
    (r"\.bn([12])\.", r".norm\1."),
    (r"\.downsample\.", ".shortcut."),
    (r"^SE_([123])\.fc\.0\.", lambda f: f"joins.{3 - int(f[1])}.squeeze."),
    (r"^SE_([123])\.fc\.2\.", lambda f: f"joins.{3 - int(f[1])}.excite."),
    (r"^decoder1\.", "mix_coarse."),
    (r"^decoder2\.", "mix_middle."),
    (r"^decoder3\.", "mix_fine."),
    (r"^(mix_\w+)\.conv1\.", r"\1.0."),
    (r"^(mix_\w+)\.norm1\.", r"\1.1."),
    (r"^(mix_\w+)\.conv3\.", r"\1.3."),
    (r"^(mix_\w+)\.norm3\.", r"\1.4."),
    (r"^up3_1\.", "up_coarse."),
    (r"^up2_1\.", "up_middle."),
    (r"^up1_1\.", "up_fine."),
    (r"^out\.", "head."),
)


def _layer(found: re.Match[str]) -> str:
    return f"transformer.scales.{int(found[1]) - 1}.{int(found[2]) // 2}."


def load_reference(model: nn.Module, state: Mapping[str, object]) -> Loaded:
    """Fill the 2D network; every tensor of either side has its partner.

    Raises:
        InputFault: E_CHECKPOINT with all names that are missing, unknown or of another shape.
    """
    assert isinstance(model, ParaTransCNN)
    network = model.network
    body = network.network if isinstance(network, SliceWise) else network
    return filling.fill(body, filling.renamed(filling.tensors_of(state), RULES))


UNITS: Mapping[str, Unit] = {}
