"""Which sizes of input a network takes; patch choice and sliding window obey it."""

import math
from dataclasses import dataclass

from medseg.fault import InputFault

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class ShapePolicy:
    """The rule for the three sides of an input, in voxels.

    Each side is a multiple of `divisor` and at least `minimum`; all of them together hold at least
    `voxels` (a network whose deepest map is normalized over space needs two voxels there). With
    `fixed` only that one size is taken.
    """

    divisor: Triple = (1, 1, 1)
    minimum: Triple = (1, 1, 1)
    fixed: Triple | None = None
    voxels: int = 1

    @classmethod
    def of_volumes(cls, divisor: Triple) -> "ShapePolicy":
        """Multiples of `divisor`, the last side at least twice.

        Where its input is less than 3 voxels wide there, torch 2.15's bfloat16 convolution of step
        2 reads memory that nobody wrote (on CPUs with AMX).
        """
        i, j, k = divisor
        return cls(divisor=divisor, minimum=(i, j, 2 * k))

    @classmethod
    def of_slices(cls, axis: int, *, divisor: tuple[int, int]) -> "ShapePolicy":
        """The rule of a network that takes slices across `axis`, as many as there are.

        Their sides are twice the divisor at least: for instance norm, which needs two pixels of the
        deepest map, and as in `of_volumes`.
        """
        steps = list(divisor)
        steps.insert(axis, 1)
        least = [1 if place == axis else 2 * step for place, step in enumerate(steps)]
        return cls(divisor=(steps[0], steps[1], steps[2]), minimum=(least[0], least[1], least[2]))

    def refuses(self, size: tuple[int, ...]) -> str | None:
        """Why an input of this size cannot be used, and what can; None where it can."""
        if len(size) != 3:
            return f"{size} has {len(size)} sides, three are needed"
        nearest = self.nearest((size[0], size[1], size[2]))
        if nearest == tuple(size):
            return None
        return f"{_times(size)} voxels do not fit: {self._rule()}; the nearest is {_times(nearest)}"

    def require(self, size: tuple[int, ...], network: str) -> None:
        """Refuse an input of another size before a layer of `network` stumbles over it.

        Raises:
            InputFault: E_SHAPE, with the nearest size that it takes.
        """
        refusal = self.refuses(size)
        if refusal is not None:
            raise InputFault(f"{network}'s input: {refusal}.", code="E_SHAPE")

    def nearest(self, size: Triple) -> Triple:
        """The smallest size that is allowed and not less than this one on any side.

        Where the sides alone would do but hold too few voxels, the first of the longest sides
        grows. With `fixed` it is that size.
        """
        if self.fixed is not None:
            return self.fixed
        sides = [
            math.ceil(max(side, least) / step) * step
            for side, least, step in zip(size, self.minimum, self.divisor, strict=True)
        ]
        longest = sides.index(max(sides))
        while math.prod(sides) < self.voxels:
            sides[longest] += self.divisor[longest]
        return sides[0], sides[1], sides[2]

    def _rule(self) -> str:
        if self.fixed is not None:
            return f"the only size is {_times(self.fixed)}"
        rules = [
            f"sides must be multiples of {_times(self.divisor)}",
            f"at least {_times(self.minimum)}",
        ]
        if self.voxels > math.prod(self.minimum):
            rules.append(f"with at least {self.voxels} voxels in all")
        return ", ".join(rules)


def _times(size: tuple[int, ...]) -> str:
    return "x".join(map(str, size))
