"""The weights of D-Former's public code (kkk55596/D-Former) for ours: a rename, strict.

They belong to `faithful=True`. Heads that this network does not make (the code's third, which it
never uses; its second without deep supervision) are left out, and said so.
"""

from collections.abc import Mapping
from typing import Any

from einops import rearrange
from torch import Tensor, nn

from medseg.models.checkpoints import filling
from medseg.models.checkpoints.filling import Loaded
from medseg.models.checkpoints.reference import Unit
from medseg.models.d_former import Blocks, DFormer
from medseg.nn.patch_expand import PatchExpand, unfold_cells

_BLOCK: tuple[filling.Rule, ...] = (
    (r"(^|\.)attn\.", r"\1attention."),
    (r"(^|\.)mlp\.fc1\.", r"\1mlp.expand."),
    (r"(^|\.)mlp\.fc2\.", r"\1mlp.contract."),
)
_BACKBONE: tuple[filling.Rule, ...] = (
    (r"^patch_embed\.proj\.", "embed.projection."),
    (r"^patch_embed\.norm\.", "embed.norm."),
    (r"^layers\.(\d)\.downsample\.", r"merges.\1."),
    (r"^layers\.(\d)\.", r"down.\1."),
    (r"^layers_up\.0\.", "expands.0."),
    (r"^layers_up\.(\d)\.upsample\.", r"expands.\1."),
    (r"^layers_up\.(\d)\.", lambda found: f"up.{int(found[1]) - 1}."),
    (r"^concat_back_dim\.(\d)\.", lambda found: f"joins.{int(found[1]) - 1}."),
    (r"^norm_up\.", "final_norm."),
    (r"\.pos_block\.proj\.0\.", ".position.convolution."),
    *_BLOCK,
)
_HEAD: tuple[filling.Rule, ...] = (
    (r"^final\.(\d)\.0\.expand\.", r"heads.\1.expand.expand."),
    (r"^final\.(\d)\.0\.norm\.", r"heads.\1.expand.norm."),
    (r"^final\.(\d)\.1\.", r"heads.\1.mix."),
)


def load_reference(model: DFormer, state: Mapping[str, object]) -> Loaded:
    """Fill the whole network; every tensor of either side has its partner.

    Raises:
        InputFault: E_CHECKPOINT with all names that are missing, unknown or of another shape;
            the network is then as it was.
    """
    tensors = filling.tensors_of(state)
    left_out = tuple(name for name in tensors if _head(name) in range(len(model.heads), 3))
    named = {}
    for name, tensor in tensors.items():
        if name not in left_out:
            named[our_name(name)] = _without_kernel(name, tensor)
    return filling.fill(model, named, left_out=left_out)


def our_name(name: str) -> str:
    """The reference's name of a tensor in this network's words."""
    inner = name.removeprefix("model_down.")
    if inner == name:
        return filling.our_name(name, _HEAD)
    return f"backbone.{filling.our_name(inner, _BACKBONE)}"


def _head(name: str) -> int | None:
    kind, _, rest = name.partition(".")
    number = rest.partition(".")[0]
    return int(number) if kind == "final" and number.isdigit() else None


def _without_kernel(name: str, tensor: Tensor) -> Tensor:
    """A head's 1x1x1 convolution is a linear layer here."""
    is_convolution = _head(name) is not None and tensor.ndim == 5
    return tensor.flatten(1) if is_convolution else tensor


def _load_backbone(module: nn.Module, state: Mapping[str, Tensor]) -> Loaded:
    return filling.fill(module, filling.renamed(state, _BACKBONE))


def _load_block(module: nn.Module, state: Mapping[str, Tensor]) -> Loaded:
    return filling.fill(module, filling.renamed(state, _BLOCK))


def _build_block(settings: Mapping[str, Any]) -> nn.Module:
    blocks = Blocks(
        group_size=tuple(settings["group_size"]),
        mlp_ratio=4.0,
        drop_rate=0.0,
        attention_drop_rate=0.0,
        attends=True,
        gradient_checkpointing=False,
    )
    return blocks.block(
        channels=settings["channels"],
        heads=settings["heads"],
        kind=settings["scope"],
        interval=settings["interval"],
    )


def _build_backbone(settings: Mapping[str, Any]) -> nn.Module:
    triples = {key: tuple(value) for key, value in settings.items() if isinstance(value, list)}
    return DFormer(**{**settings, **triples}, out_channels=1, faithful=True).backbone


def _build_expand(settings: Mapping[str, Any]) -> nn.Module:
    return PatchExpand(
        in_channels=settings["channels"],
        out_channels=settings["channels"],
        factors=tuple(settings["token_size"]),
    )


def _run_expand(module: nn.Module, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    assert isinstance(module, PatchExpand)
    finer = unfold_cells(module(inputs["x"]), module.factors)
    return {"y": rearrange(finer, "b i j k c -> b c i j k")}


UNITS = {
    "block": Unit(
        build=_build_block,
        load=_load_block,
        run=lambda module, inputs: {"y": module(inputs["x"])},
    ),
    "backbone": Unit(
        build=_build_backbone,
        load=_load_backbone,
        run=lambda module, inputs: {
            f"y{level}": tokens for level, tokens in enumerate(module(inputs["x"]))
        },
    ),
    "final_expand": Unit(build=_build_expand, load=filling.fill, run=_run_expand),
}
