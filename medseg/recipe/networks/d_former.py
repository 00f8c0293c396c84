"""D-Former in a recipe."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from medseg.fault import InputFault
from medseg.models import d_former_sizes
from medseg.models.shape import ShapePolicy
from medseg.recipe.contradiction import Contradiction
from medseg.recipe.networks.network import Mixing, NetworkSection, Patch, Spacing
from medseg.recipe.section import BelowOne, Count, Positive
from medseg.volume import Task

if TYPE_CHECKING:
    from torch import nn

_Side = Annotated[int, Field(ge=1, le=64)]


class DFormerSection(NetworkSection):
    """D-Former (arXiv 2201.00462)."""

    demo_settings: ClassVar[Mapping[str, Any]] = {
        "feature_size": 24,
        "token_size": (2, 2, 2),
        "group_size": (4, 4, 4),
        "depths": (2, 2, 2, 2),
        "heads": (2, 4, 8, 16),
    }

    name: Literal["d_former"]
    """The network's name."""
    feature_size: Annotated[int, Field(ge=1, le=768)] = 96
    """Channels of the finest tokens, doubled at each stage; a multiple of 3 with these heads."""
    token_size: tuple[_Side, _Side, _Side] = (2, 4, 4)
    """Voxels of a token along i, j and k; the paper's, with depth first."""
    group_size: tuple[_Side, _Side, _Side] = (2, 8, 8)
    """Tokens of a group along i, j and k, near each other or evenly spread."""
    depths: tuple[Count, Count, Count, Count] = (2, 2, 6, 2)
    """Blocks of each stage down; near and far groups alternate. The way up has the first three."""
    heads: tuple[Count, Count, Count, Count] = (3, 6, 12, 24)
    """Attention heads of each stage; they divide its channels."""
    mlp_ratio: Positive = 4.0
    """Width of the hidden layer of a block, in those of the block."""
    drop_rate: BelowOne = 0.0
    """Dropout after embedding, projections and hidden layers."""
    attention_drop_rate: BelowOne = 0.0
    """Dropout of attention weights."""
    drop_path_rate: BelowOne = 0.0
    """Largest chance that a block is left out; it rises from 0 with depth."""
    deep_supervision: bool = True
    """In training, a loss at half the resolution too."""
    mixing: Mixing = "learned"
    """identity: without attention, to see what attention is worth."""
    intervals: tuple[Count, Count, Count, Count] = (8, 4, 2, 1)
    """With `faithful`: what each stage's grid is padded to multiples of."""
    faithful: bool = False
    """Padding, groups and heads as in the reference's code; false: mended, for any size."""
    gradient_checkpointing: bool = False
    """Less memory for more time: blocks are computed again on the way back."""

    def build(self, task: Task) -> "nn.Module":
        """The network for `task`."""
        from medseg.models.d_former import DFormer

        return DFormer(
            in_channels=task.in_channels, out_channels=task.out_channels, **self.settings()
        )

    def shape_policy(self, patch_size: Patch, spacing_mm: Spacing) -> ShapePolicy:  # noqa: ARG002
        """The sizes of input the network takes: any, but with `faithful`."""
        policy = d_former_sizes.shape_policy(self.token_size, faithful=self.faithful)
        if self.faithful and policy.refuses(patch_size) is None:
            refusal = d_former_sizes.reference_refuses(
                patch_size,
                token_size=self.token_size,
                group_size=self.group_size,
                intervals=self.intervals,
            )
            if refusal is not None:
                raise InputFault(refusal, code="E_PATCH")
        return policy

    def contradictions(self) -> Iterator[Contradiction]:
        """Heads that do not divide the channels of their stage."""
        for stage, heads in enumerate(self.heads):
            channels = self.feature_size * 2**stage
            if channels % heads:
                yield Contradiction(
                    ("heads", str(stage)),
                    f"{heads} heads do not divide the {channels} channels of stage {stage} "
                    f"(feature_size {self.feature_size}); with heads [3, 6, 12, 24] take a "
                    "feature_size that is a multiple of 3",
                    because=(("feature_size",), ("heads",)),
                )
                return
