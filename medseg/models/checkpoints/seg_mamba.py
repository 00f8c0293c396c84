"""The SegMamba authors' weights for ours.

There is no fixture of theirs: names and shapes are held, not outputs. Weights of a network for
128x128x128 voxels mean the same with `faithful` and without.
"""

from collections.abc import Mapping

from torch import nn

from medseg.models.checkpoints import filling
from medseg.models.checkpoints.filling import Loaded, Rule
from medseg.models.checkpoints.mamba import MAMBA
from medseg.models.checkpoints.reference import Unit

_NAMES: tuple[Rule, ...] = (
    (r"^vit\.downsample_layers\.0\.0\.", "stages.0.down."),
    (r"^vit\.downsample_layers\.(\d)\.1\.", r"stages.\1.down.embed."),
    (r"^vit\.gscs\.(\d)\.proj\.", r"stages.\1.gate.wide1."),
    (r"^vit\.gscs\.(\d)\.proj2\.", r"stages.\1.gate.wide2."),
    (r"^vit\.gscs\.(\d)\.proj3\.", r"stages.\1.gate.narrow."),
    (r"^vit\.gscs\.(\d)\.proj4\.", r"stages.\1.gate.mix."),
    (r"^vit\.stages\.(\d)\.", r"stages.\1.layers."),
    (r"^vit\.mlps\.(\d)\.fc1\.", r"stages.\1.expand."),
    (r"^vit\.mlps\.(\d)\.fc2\.", r"stages.\1.contract."),
    (r"^encoder1\.layer\.", "stem."),
    (r"^encoder([2345])\.layer\.", lambda found: f"skips.{int(found[1]) - 2}."),
    (r"^decoder1\.layer\.", "last."),
    (r"^decoder([5432])\.transp_conv\.conv\.", lambda found: f"ups.{5 - int(found[1])}.up."),
    (r"^decoder([5432])\.conv_block\.", lambda found: f"ups.{5 - int(found[1])}.mix."),
    (r"^out\.conv\.conv\.", "head."),
    (r"\.(conv[123])\.conv\.", r".\1."),
)


def load_reference(model: nn.Module, state: Mapping[str, object]) -> Loaded:
    """Fill the network; every tensor of either side has its partner.

    Raises:
        InputFault: E_CHECKPOINT with all names that are missing, unknown or of another shape.
    """
    return filling.fill(model, filling.renamed(filling.tensors_of(state), (*_NAMES, *MAMBA)))


UNITS: Mapping[str, Unit] = {}
