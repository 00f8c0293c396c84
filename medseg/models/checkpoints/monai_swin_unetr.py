"""MONAI's Swin UNETR weights for ours: a rename, strict on both sides.

Takes the state of `monai.networks.nets.SwinUNETR` (with or without "module." before every name,
or inside {"state_dict": ...}), and that of its self-supervised encoder (`model_swinvit.pt`, whose
layers are named fc1 and fc2). Weights made before MONAI 1.5 belong to `legacy_merging=True`, and
all of MONAI's to `faithful=True`; nothing in the file tells its age, so the caller does.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from medseg.models.checkpoints import filling
from medseg.models.checkpoints.filling import Loaded
from medseg.models.checkpoints.reference import Unit
from medseg.models.swin_unetr import LEGACY, SwinUNETR
from medseg.nn.swin import PatchMerging
from medseg.nn.window_attention import WindowAttention

# Applied one after the other; MONAI counts stages from 1 and decoders down to 1.
_RENAMES: tuple[filling.Rule, ...] = (
    (r"^swin_vit\.", "swinViT."),
    (r"^(?=patch_embed\.|layers\d)", "swinViT."),
    (r"^swinViT\.patch_embed\.proj\.", "encoder.embed."),
    (r"^swinViT\.layers(\d)", lambda found: f"encoder.stages.{int(found[1]) - 1}"),
    (r"^(encoder\.stages\.\d)c\.0\.layer\.", r"\1.residual."),
    (r"^(encoder\.stages\.\d)\.0\.downsample\.", r"\1.merge."),
    (r"^(encoder\.stages\.\d)\.0\.blocks\.", r"\1.blocks."),
    (r"\.attn\.relative_position_bias_table$", ".attention.table"),
    (r"\.attn\.", ".attention."),
    (r"\.mlp\.(linear1|fc1)\.", ".mlp.expand."),
    (r"\.mlp\.(linear2|fc2)\.", ".mlp.contract."),
    (r"^encoder1\.layer\.", "stem."),
    (r"^encoder10\.layer\.", "bottleneck."),
    (r"^encoder([234])\.layer\.", lambda found: f"skips.{int(found[1]) - 2}."),
    (r"^decoder([54321])\.transp_conv\.conv\.", lambda found: f"ups.{5 - int(found[1])}.up."),
    (r"^decoder([54321])\.conv_block\.", lambda found: f"ups.{5 - int(found[1])}.mix."),
    (r"^out\.conv\.conv\.", "head."),
    (r"\.(conv[123])\.conv\.", r".\1."),
)
_INDEX = ".relative_position_index"
_PRETRAINING_HEADS = ("rotation_head.", "contrastive_head.", "conv.")


def load_monai(model: SwinUNETR, state: Mapping[str, object]) -> Loaded:
    """Fill the whole network; every tensor of either side has its partner.

    Raises:
        InputFault: E_CHECKPOINT with all names that are missing, unknown or of another shape;
            the network is then as it was.
    """
    tensors, indices = _translate(state)
    return _fill(model, tensors, indices, wanted=set(model.state_dict()), left_out=())


def load_monai_encoder(model: SwinUNETR, state: Mapping[str, object]) -> Loaded:
    """Fill the encoder from self-supervised weights; the heads of that task are left out.

    Raises:
        InputFault: E_CHECKPOINT as `load_monai`, for the encoder.
    """
    tensors, indices = _translate(state)
    left_out = tuple(name for name in tensors if name.startswith(_PRETRAINING_HEADS))
    kept = {name: tensor for name, tensor in tensors.items() if name not in left_out}
    wanted = {name for name in model.state_dict() if name.startswith("encoder.")}
    return _fill(model, kept, indices, wanted=wanted, left_out=left_out)


def our_name(name: str) -> str:
    """MONAI's name of a tensor in this network's words."""
    return filling.our_name(name, _RENAMES)


def _translate(state: Mapping[str, object]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Tensors by our names, and the index buffers apart."""
    tensors = filling.renamed(filling.tensors_of(state), _RENAMES)
    indices = {name: tensor for name, tensor in tensors.items() if name.endswith(_INDEX)}
    return {n: t for n, t in tensors.items() if n not in indices}, indices


def _fill(
    model: SwinUNETR,
    tensors: Mapping[str, Tensor],
    indices: Mapping[str, Tensor],
    *,
    wanted: set[str],
    left_out: tuple[str, ...],
) -> Loaded:
    loaded = filling.fill(
        model, tensors, wanted=wanted, left_out=left_out, faults=_index_faults(model, indices)
    )
    return replace(loaded, indices=len(indices))


def _index_faults(model: SwinUNETR, indices: Mapping[str, Tensor]) -> list[str]:
    """MONAI stores which table row each pair reads; ours computes it, so they must agree."""
    modules, faults = dict(model.named_modules()), []
    for name, index in indices.items():
        attention = modules.get(name.removesuffix(_INDEX))
        if not isinstance(attention, WindowAttention):
            faults.append(f"{name}: not part of this network")
        elif not torch.equal(index.cpu(), attention.pair_entries()):
            faults.append(f"{name}: another window than {attention.window}")
    return faults


load_reference = load_monai
UNITS = {
    "patch_merging_before_1_5": Unit(
        build=lambda settings: PatchMerging(**settings, offsets=LEGACY),
        load=filling.fill,
        run=lambda module, inputs: {"y": module(inputs["x"])},
    )
}
