"""What every section of a recipe is: strict, frozen, and without a key it does not know."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

AUTO = "auto"
Auto = Literal["auto"]

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Range = tuple[float, float]


class Section(BaseModel):
    """A part of a recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    def settings(self) -> dict[str, Any]:
        """The section's values but for its name: the arguments of what it builds."""
        return {key: getattr(self, key) for key in type(self).model_fields if key != "name"}
