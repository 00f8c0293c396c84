"""The U-Mamba authors' weights for ours.

Takes the state of their four networks (UMambaEnc, UMambaBot, in 2D and 3D) for a network with
`faithful=True`. There is no fixture of theirs: names and shapes are held, not outputs.
"""

from collections.abc import Mapping

from torch import nn

from medseg.models.checkpoints import filling, hybrid
from medseg.models.checkpoints.filling import Loaded, Rule
from medseg.models.checkpoints.mamba import MAMBA
from medseg.models.checkpoints.reference import Unit
from medseg.models.u_mamba import UMamba

_MIXERS: tuple[Rule, ...] = ((r"^encoder\.mamba_layers\.", "encoder.mixers."),)


def load_reference(model: nn.Module, state: Mapping[str, object]) -> Loaded:
    """Fill the network; every tensor of either side has its partner.

    Raises:
        InputFault: E_CHECKPOINT with all names that are missing, unknown or of another shape.
    """
    assert isinstance(model, UMamba)
    body = hybrid.body_of(model.network)
    deepest = (r"^mamba_layer\.", hybrid.deepest(body))
    rules = (*hybrid.BODY, *_MIXERS, deepest, *MAMBA)
    return filling.fill(body, filling.renamed(hybrid.first_names(state), rules))


UNITS: Mapping[str, Unit] = {}
