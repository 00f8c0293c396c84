"""SWTR-Unet in a recipe."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from medseg.models.shape import ShapePolicy
from medseg.recipe.contradiction import Contradiction
from medseg.recipe.networks.network import Mixing, NetworkSection, Patch, Spacing
from medseg.recipe.section import BelowOne
from medseg.volume import Task

if TYPE_CHECKING:
    from torch import nn


class SWTRUNetSection(NetworkSection):
    """SWTR-Unet (arXiv 2201.10981), a reconstruction."""

    demo_settings: ClassVar[Mapping[str, Any]] = {
        "size": "tiny",
        "window_size": 4,
        "pretrained": None,
    }
    not_arguments: ClassVar[tuple[str, ...]] = ("pretrained",)

    name: Literal["swtr_unet"]
    """The network's name."""
    size: Literal["base", "tiny"] = "base"
    """base has ResNet-50 and a transformer of ViT-B's width; tiny is for two cores."""
    window_size: Annotated[int, Field(ge=2, le=32)] = 8
    """Side of an attention window, in tokens."""
    drop_rate: BelowOne = 0.0
    """Dropout of attention weights, projections and hidden layers."""
    dimensions: Literal[2, 3] = 2
    """2 looks at one slice at a time, as published; 3 is ours."""
    slice_axis: Literal[0, 1, 2] = 2
    """With dimensions 2: the axis across which slices lie."""
    mixing: Mixing = "learned"
    """identity: without attention, to see what attention is worth."""
    pretrained: str | None = None
    """torchvision's resnet50 weights (a .pth or .safetensors file) to begin training with."""

    def build(self, task: Task) -> "nn.Module":
        """The network for `task`."""
        from medseg.models.swtr_unet import SWTRUNet

        return SWTRUNet(
            in_channels=task.in_channels, out_channels=task.out_channels, **self.settings()
        )

    def load_pretrained(self, model: "nn.Module") -> None:
        """ImageNet's weights for the residual network, where the recipe names them."""
        if self.pretrained is None:
            return
        from medseg.io.checkpoint_file import load_checkpoint_file
        from medseg.models.checkpoints.resnet50 import load_resnet50
        from medseg.models.swtr_unet import SWTRUNet

        assert isinstance(model, SWTRUNet)
        load_resnet50(model.residual_network, load_checkpoint_file(Path(self.pretrained)))

    def shape_policy(self, patch_size: Patch, spacing_mm: Spacing) -> ShapePolicy:  # noqa: ARG002
        """The sizes of input the network takes."""
        if self.dimensions == 2:
            return ShapePolicy.of_slices(self.slice_axis, divisor=(16, 16))
        return ShapePolicy.of_volumes((16, 16, 16))

    def contradictions(self) -> Iterator[Contradiction]:
        """Weights of a network of another form."""
        if self.pretrained is not None and (self.size != "base" or self.dimensions != 2):
            yield Contradiction(
                ("pretrained",),
                "resnet50's weights are of images and of size base; write `size: base, "
                "dimensions: 2`, or leave pretrained out",
                because=(("size",), ("dimensions",)),
            )
