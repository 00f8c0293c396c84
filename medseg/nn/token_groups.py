"""Which tokens of a 3D grid attend to each other: near ones, or far ones that lie evenly apart.

No torch: a recipe asks these rules before it is loaded.
"""

from dataclasses import dataclass
from typing import Literal

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Groups:
    """Groups of `window` tokens that lie `dilation` apart, on a grid padded to whole groups.

    With `masked` no token attends to padding.
    """

    window: Triple
    dilation: Triple = (1, 1, 1)
    masked: bool = True


@dataclass(frozen=True)
class LocalScope:
    """Neighbors: boxes of `group` tokens.

    A grid with an axis shorter than its group is one group. `tested` are the axes that are looked
    at for this.
    """

    group: Triple
    tested: tuple[int, ...] = (0, 1, 2)

    def groups(self, size: Triple) -> Groups:
        """The groups of a grid of this size."""
        if is_short(size, self.group, self.tested):
            return Groups(window=size)
        return Groups(window=self.group)


@dataclass(frozen=True)
class GlobalScope:
    """Far ones: groups of `group` tokens that span the grid, evenly apart.

    Each axis is padded to a multiple of its group, n = g d, and dilated by d. A grid with an axis
    shorter than its group is one group.
    """

    group: Triple

    def groups(self, size: Triple) -> Groups:
        """The groups of a grid of this size."""
        if is_short(size, self.group, (0, 1, 2)):
            return Groups(window=size)
        i, j, k = (-(-n // g) for n, g in zip(size, self.group, strict=True))
        return Groups(window=self.group, dilation=(i, j, k))


@dataclass(frozen=True)
class IntervalScope:
    """Far ones as D-Former's code has them, which takes some grids only.

    Each axis is padded to a multiple of `interval`, n, and dilated by d = n // g; the groups then
    have n / d tokens, which may be more than `group`. Padding is masked if one of the two last
    axes has some. Only the middle axis is looked at for a grid of one group.
    """

    group: Triple
    interval: int

    def groups(self, size: Triple) -> Groups:
        """The groups of a grid of this size; `refuses` is None for it."""
        assert self.refuses(size) is None, "the grid was asked for before"
        if is_short(size, self.group, (1,)):
            return Groups(window=size)
        padded = self._padded(size)
        i, j, k = (n // g for n, g in zip(padded, self.group, strict=True))
        window = padded[0] // i, padded[1] // j, padded[2] // k
        return Groups(window, (i, j, k), masked=padded[1:] != size[1:])

    def refuses(self, size: Triple) -> str | None:
        """Why a grid of this size has no groups, or None."""
        if is_short(size, self.group, (1,)):
            return None
        for padded, group in zip(self._padded(size), self.group, strict=True):
            if padded < group:
                return f"an axis of {padded} tokens is shorter than its group of {group}"
            if padded % (padded // group):
                return f"an axis of {padded} tokens cannot be dilated by {padded} // {group}"
        return None

    def _padded(self, size: Triple) -> Triple:
        i, j, k = (-(-n // self.interval) * self.interval for n in size)
        return i, j, k


Scope = LocalScope | GlobalScope | IntervalScope


def scope(kind: Literal["local", "global"], group: Triple, *, interval: int | None = None) -> Scope:
    """The groups of one kind; with `interval` as D-Former's code has them."""
    if kind == "local":
        return LocalScope(group, tested=(0, 1, 2) if interval is None else (1,))
    return GlobalScope(group) if interval is None else IntervalScope(group, interval)


def is_short(size: Triple, group: Triple, axes: tuple[int, ...]) -> bool:
    """Whether one of these axes has fewer tokens than its group."""
    return any(size[axis] < group[axis] for axis in axes)
