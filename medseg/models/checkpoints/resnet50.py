"""torchvision's ResNet-50 for the residual network of SWTR-Unet."""

import re
from collections.abc import Mapping

from torch import Tensor

from medseg.models.checkpoints import filling
from medseg.models.checkpoints.filling import Loaded, Rule
from medseg.models.swtr_unet import ResidualNetwork

_BEHIND = re.compile(r"^(layer4|fc)\.")
_STEM = "stem.0.weight"
_RULES: tuple[Rule, ...] = (
    (r"^conv1\.", "stem.0."),
    (r"^bn1\.", "stem.1."),
    (r"^layer(\d)\.", lambda found: f"stages.{int(found[1]) - 1}."),
    (r"\.bn(\d)\.", r".norm\1."),
    (r"\.downsample\.", ".shortcut."),
)


def load_resnet50(network: ResidualNetwork, state: Mapping[str, object]) -> Loaded:
    """Fill the network; the last stage and the classifier are left out.

    Where an image has not three channels, each gets the mean of the three kernels, scaled so that
    the sum over channels stays what it was.

    Raises:
        InputFault: E_CHECKPOINT with all names that are missing, unknown or of another shape.
    """
    tensors = filling.tensors_of(state)
    left_out = tuple(name for name in tensors if _BEHIND.match(name))
    kept = {name: value for name, value in tensors.items() if name not in left_out}
    ours = filling.renamed(kept, _RULES)
    if _STEM in ours:
        channels = network.state_dict()[_STEM].shape[1]
        ours[_STEM] = _for_channels(ours[_STEM], channels)
    return filling.fill(network, ours, left_out=left_out)


def _for_channels(kernel: Tensor, channels: int) -> Tensor:
    theirs = kernel.shape[1]
    if theirs == channels:
        return kernel
    return kernel.mean(1, keepdim=True).expand(-1, channels, -1, -1) * theirs / channels
