"""TransDAE's parts against DAE-Former's, which it is built from.

There is no code of TransDAE's authors, so no checkpoint of a whole network can be read; the parts
are held to what DAE-Former's code computes.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from medseg.models.checkpoints import filling
from medseg.models.checkpoints.filling import Loaded, Rule
from medseg.models.checkpoints.reference import Unit
from medseg.nn.dual_attention import DualBlock, EfficientAttention, TransposedAttention

_UNUSED = re.compile(r"^mlp[12]\.norm[23]\.")
_EFFICIENT: tuple[Rule, ...] = (
    (r"\bkeys\.", "key."),
    (r"\bqueries\.", "query."),
    (r"\bvalues\.", "value."),
    (r"\breprojection\.", "proj."),
)
_BLOCK: tuple[Rule, ...] = (
    (r"^norm([1234])\.", lambda found: f"norms.{int(found[1]) - 1}."),
    (r"^attn\.", "branches.0."),
    (r"^mlp1\.", "branches.1."),
    (r"^channel_attn\.", "branches.2."),
    (r"^mlp2\.", "branches.3."),
    (r"\.fc1\.", ".expand."),
    (r"\.fc2\.", ".contract."),
    (r"\.dwconv\.dwconv\.", ".conv."),
    (r"\.norm1\.", ".norm."),
)


def load_reference(model: nn.Module, state: Mapping[str, object]) -> Loaded:
    """Fill the network from a state of its own names: nobody else has one.

    Raises:
        InputFault: E_CHECKPOINT with all names that are missing, unknown or of another shape.
    """
    return filling.fill(model, filling.tensors_of(state))


def _load(module: nn.Module, state: Mapping[str, Tensor]) -> Loaded:
    unused = tuple(name for name in state if _UNUSED.search(name))
    # Their 1x1 convolutions are linear layers.
    kept = {
        name: value.flatten(1) if value.shape[2:] == (1, 1) and "temperature" not in name else value
        for name, value in state.items()
        if name not in unused
    }
    return filling.fill(module, filling.renamed(kept, (*_EFFICIENT, *_BLOCK)), left_out=unused)


def _block(settings: Mapping[str, Any]) -> nn.Module:
    channels, heads = settings["channels"], settings["heads"]
    return DualBlock(
        channels=channels,
        spatial=EfficientAttention(channels=channels),
        across=TransposedAttention(channels=channels, heads=heads),
        dimensions=2,
    )


def _map(module: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {"y": module(inputs["x"].movedim(1, -1)).movedim(-1, 1)}


UNITS = {
    "efficient_attention": Unit(
        build=lambda settings: EfficientAttention(**settings), load=_load, run=_map
    ),
    "transposed_attention": Unit(
        build=lambda settings: TransposedAttention(**settings),
        load=_load,
        run=lambda module, inputs: {"y": module(inputs["x"])},
    ),
    "dual_block": Unit(
        build=_block,
        load=_load,
        # Their tokens, 35 of them, are a map of 7 by 5.
        run=lambda module, inputs: {"y": module(inputs["x"].unflatten(1, (7, 5))).flatten(1, 2)},
    ),
}
