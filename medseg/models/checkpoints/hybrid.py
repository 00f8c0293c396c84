"""What the authors of U-Mamba and xLSTM-UNet call the parts of the body that both share.

Their decoder holds the encoder a second time, and blocks hold each layer twice; these second names
are left out.
"""

import re
from collections.abc import Mapping

from torch import Tensor, nn

from medseg.models.checkpoints import filling
from medseg.models.checkpoints.filling import Rule
from medseg.nn.hybrid_unet import HybridUNet
from medseg.nn.slicewise import SliceWise

BODY: tuple[Rule, ...] = (
    (r"\.conv([12])\.conv\.", r".conv\1."),
    (r"\.conv([12])\.norm\.", r".norm\1."),
    (r"\.conv3\.", ".shortcut."),
    (r"^decoder\.upsample_layers\.(\d+)\.conv\.", r"decoder.ups.\1."),
    (r"^decoder\.seg_layers\.", "heads."),
)
_SECOND_NAMES = re.compile(r"(^decoder\.encoder\.|\.all_modules\.)")


def first_names(state: Mapping[str, object]) -> dict[str, Tensor]:
    """The tensors, each under one name.

    Raises:
        InputFault: E_CHECKPOINT where there is no table of tensors.
    """
    tensors = filling.tensors_of(state)
    return {name: value for name, value in tensors.items() if not _SECOND_NAMES.search(name)}


def body_of(network: nn.Module) -> HybridUNet:
    """The body on volumes, or within what gives it slices."""
    body = network.network if isinstance(network, SliceWise) else network
    assert isinstance(body, HybridUNet)
    return body


def deepest(body: HybridUNet) -> str:
    """Where the mixer of the deepest stage is."""
    return f"encoder.mixers.{len(body.encoder.stages) - 1}."
