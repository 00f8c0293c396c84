"""What every section of a recipe is: strict, frozen, and without a key it does not know."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

AUTO = "auto"
Auto = Literal["auto"]


def _rising(limits: tuple[float, float]) -> tuple[float, float]:
    if limits[0] > limits[1]:
        raise ValueError(f"the range {list(limits)} falls; write the smaller number first")
    return limits


def _distinct(axes: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(axes)) < len(axes):
        raise ValueError(f"the axes {list(axes)} name one twice")
    return axes


Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Range = Annotated[tuple[Positive, Positive], AfterValidator(_rising)]
Axes = Annotated[tuple[Annotated[int, Field(ge=0, le=2)], ...], AfterValidator(_distinct)]


class Section(BaseModel):
    """A part of a recipe."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        # The sentence under a field describes it: to editors, and in `medseg models NAME`.
        use_attribute_docstrings=True,
    )

    not_arguments: ClassVar[tuple[str, ...]] = ()
    """Settings that are no arguments of what the section builds, beside its name."""

    def settings(self) -> dict[str, Any]:
        """The arguments of what the section builds."""
        left_out = {"name", *self.not_arguments}
        return {key: getattr(self, key) for key in type(self).model_fields if key not in left_out}
