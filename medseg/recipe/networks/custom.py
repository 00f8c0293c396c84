"""A network of the user's own in a recipe."""

import importlib
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from medseg.fault import InputFault
from medseg.models.shape import ShapePolicy
from medseg.recipe.networks.network import NetworkSection, Patch, Spacing
from medseg.volume import Task

if TYPE_CHECKING:
    from torch import nn


class CustomSection(NetworkSection):
    """A network of the user's own: the one place where a recipe names code to import.

    `target` is "package.module:Class"; it is called with in_channels, out_channels and
    `arguments`, and has an attribute `shape_policy` (medseg.models.shape.ShapePolicy).
    """

    name: Literal["custom"]
    """The network's name."""
    target: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
    """What to import and call: "package.module:Class"."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Its arguments beside in_channels and out_channels."""

    def build(self, task: Task) -> "nn.Module":
        """The network for `task`."""
        module, _, name = self.target.partition(":")
        try:
            maker = getattr(importlib.import_module(module), name)
            return maker(
                in_channels=task.in_channels, out_channels=task.out_channels, **self.arguments
            )
        except (ImportError, AttributeError, TypeError) as error:
            raise InputFault(
                f"model.target {self.target}: it cannot be made ({error}); it must be importable "
                "and take in_channels, out_channels and the stated arguments.",
                code="E_CUSTOM",
            ) from error

    def shape_policy(self, patch_size: Patch, spacing_mm: Spacing) -> ShapePolicy:  # noqa: ARG002
        """Unknown before the code is imported; the network itself refuses what it cannot take."""
        return ShapePolicy()
