"""The xLSTM-UNet authors' weights for ours.

Takes the state of their four networks (UxLSTMEnc, UxLSTMBot, in 2D and 3D) for a network with
`faithful=True`. An unused norm of each Vision-LSTM layer is left out.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from medseg.models.checkpoints import filling, hybrid
from medseg.models.checkpoints.filling import Loaded, Rule
from medseg.models.checkpoints.reference import Unit
from medseg.models.planned_hybrid import HybridPlan
from medseg.models.shape import ShapePolicy
from medseg.models.xlstm_unet import XLSTMUNet, mixed_unet
from medseg.nn.hybrid_form import HybridForm
from medseg.nn.hybrid_unet import HybridUNet
from medseg.nn.vision_lstm import VisionLSTMBlock
from medseg_kernels.mlstm import mlstm

_UNUSED = re.compile(r"^(encoder\.xlstm_layers\.\d+|xlstm)\.norm\.")
_LAYER: tuple[Rule, ...] = (
    (r"layer\.mlstm_cell\.outnorm\.weight$", "layer.norm"),
    (r"layer\.learnable_skip$", "layer.skip"),
    (r"layer\.conv1d\.conv\.", "layer.conv."),
    (r"layer\.mlstm_cell\.igate\.", "layer.input_gate."),
    (r"layer\.mlstm_cell\.fgate\.", "layer.forget_gate."),
    (r"layer\.q_proj\.", "layer.query."),
    (r"layer\.k_proj\.", "layer.key."),
    (r"layer\.v_proj\.", "layer.value."),
)
_MIXERS: tuple[Rule, ...] = (
    (r"^encoder\.xlstm_layers\.(\d+)\.vil\.", r"encoder.mixers.\1.blocks.0."),
    (r"^encoder\.xlstm_layers\.", "encoder.mixers."),
)


def load_reference(model: nn.Module, state: Mapping[str, object]) -> Loaded:
    """Fill the network; every tensor of either side has its partner.

    Raises:
        InputFault: E_CHECKPOINT with all names that are missing, unknown or of another shape.
    """
    assert isinstance(model, XLSTMUNet)
    return load_body(hybrid.body_of(model.network), state)


def load_body(body: nn.Module, state: Mapping[str, object]) -> Loaded:
    """Fill the network on volumes or on slices, without what is around it."""
    assert isinstance(body, HybridUNet)
    tensors = hybrid.first_names(state)
    unused = tuple(name for name in tensors if _UNUSED.search(name))
    kept = {name: value for name, value in tensors.items() if name not in unused}
    deepest = (r"^xlstm\.vil\.", hybrid.deepest(body) + "blocks.0.")
    rules = (*hybrid.BODY, *_MIXERS, *_LAYER, deepest)
    return filling.fill(body, filling.renamed(kept, rules), left_out=unused)


def _build(settings: Mapping[str, Any]) -> nn.Module:
    features, strides = settings["features"], settings["strides"]
    side, grids = settings["side"], []
    for stride in strides:
        side //= stride
        grids.append((side,) * 3)
    form = HybridForm(
        features=tuple(features),
        strides=tuple((stride,) * 3 for stride in strides),
        kernel_sizes=((3, 3, 3),) * len(features),
        dimensions=3,
    )
    return mixed_unet(
        HybridPlan(form, tuple(grids), ShapePolicy()),
        in_channels=settings["in_channels"],
        out_channels=settings["out_channels"],
        variant=settings["variant"],
        bidirectional=False,
        mixing="learned",
        faithful=True,
        deep_supervision=True,
    )


def _levels(model: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All resolutions, which the network puts out in training; it has nothing random."""
    levels = model.train()(inputs["x"])
    return {f"y{number}": level for number, level in enumerate(levels)}


def _cell(_: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    gates = (inputs["i"][..., 0], inputs["f"][..., 0])
    return {"h": mlstm(inputs["q"], inputs["k"], inputs["v"], *gates, chunk=16)}


def _load_block(block: nn.Module, state: Mapping[str, Tensor]) -> Loaded:
    return filling.fill(block, filling.renamed(state, _LAYER))


UNITS = {
    "network": Unit(build=_build, load=load_body, run=_levels),
    "vision_lstm_block": Unit(
        build=lambda settings: VisionLSTMBlock(**settings),
        load=_load_block,
        run=lambda block, inputs: {"y": block(inputs["x"])},
    ),
    "mlstm": Unit(
        build=lambda _: nn.Identity(),
        load=lambda _, state: Loaded(len(state)),
        run=_cell,
        tolerance=1e-4,
    ),
}
