"""What the sections of all networks have in common."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from medseg.models.shape import ShapePolicy
from medseg.recipe.contradiction import Contradiction
from medseg.recipe.section import Count, Section
from medseg.volume import Task

if TYPE_CHECKING:
    from torch import nn

Patch = tuple[int, int, int]
Spacing = tuple[float, float, float]
Features = Annotated[int, Field(ge=1, le=2048)]
Blocks = Annotated[tuple[Count, ...], Field(min_length=1, max_length=16)]
# What a network's layers that mix distant tokens do: their work, or nothing (the ablation).
Mixing = Literal["learned", "identity"]


class NetworkSection(Section):
    """A network's settings: the arguments of its constructor, with the same defaults."""

    demo_settings: ClassVar[Mapping[str, Any]] = {}
    """Settings that make it narrow enough for `--demo`."""

    @abstractmethod
    def build(self, task: Task) -> "nn.Module":
        """The network for `task`."""

    def load_pretrained(self, model: "nn.Module") -> None:
        """Weights that training begins with, where the recipe names a file of them."""

    @abstractmethod
    def shape_policy(self, patch_size: Patch, spacing_mm: Spacing) -> ShapePolicy:
        """The sizes of input the network takes, if its patch is `patch_size`."""

    def contradictions(self) -> Iterator[Contradiction]:
        """Settings that do not go together; paths begin below `model`."""
        yield from ()
