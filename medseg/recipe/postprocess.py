"""The rules that a trained network's label maps go through, as a recipe names them."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from medseg.recipe.section import Positive, Section

if TYPE_CHECKING:
    from medseg.inference.postprocess import Rule

Connectivity = Literal[6, 18, 26]


class _RuleSection(Section):
    labels: tuple[str, ...] = ()
    """Names of labels; each label of the table where none is named."""


class KeepLargestSection(_RuleSection):
    """Only the largest component of each label stays."""

    name: Literal["keep_largest"]
    together: bool = False
    """Take the labels as one."""
    connectivity: Connectivity = 26
    """Neighbors of a voxel: those that share a face (6), an edge (18) or a corner (26)."""

    def build(self) -> "Rule":
        """The rule."""
        from medseg.inference.postprocess import KeepLargest

        return KeepLargest(**self.settings())


class RemoveSmallSection(_RuleSection):
    """Components of each label below a volume become background."""

    name: Literal["remove_small"]
    below_mm3: Positive
    """The volume in cubic millimeters."""
    connectivity: Connectivity = 26
    """Neighbors of a voxel: those that share a face (6), an edge (18) or a corner (26)."""

    def build(self) -> "Rule":
        """The rule."""
        from medseg.inference.postprocess import RemoveSmall

        return RemoveSmall(**self.settings())


class FillHolesSection(_RuleSection):
    """Background that a label encloses on all six sides becomes that label."""

    name: Literal["fill_holes"]
    below_mm3: Positive | None = None
    """Only holes up to this volume in cubic millimeters."""
    slices: Literal["axial", "coronal", "sagittal"] | None = None
    """Look at each slice of this plane by itself; a hole is then enclosed on four sides."""

    def build(self) -> "Rule":
        """The rule."""
        from medseg.inference.postprocess import FillHoles

        return FillHoles(**self.settings())


RuleSection = Annotated[
    KeepLargestSection | RemoveSmallSection | FillHolesSection, Field(discriminator="name")
]
