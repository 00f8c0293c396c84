"""How a volume is cut into bricks, so that few of its voxels are held while windows are walked.

Along the two axes that are walked first a volume is cut where windows begin. Windows come in order,
so when one is done, no later one touches what lies before the next begins: a brick is finished.
Along the third axis bricks are as long as the volume.
"""

import itertools
from dataclasses import dataclass

from medseg.inference.window import Triple, Windows


@dataclass(frozen=True)
class Cuts:
    """One axis in pieces: piece n lies from `bounds[n]` to before `bounds[n + 1]`.

    Of the windows along the axis, by their number, `touched[n]` are the first and the last to
    touch it. Where pieces are `linked`, the last voxel of each stands before the next as well.
    """

    bounds: tuple[int, ...]
    touched: tuple[tuple[int, int], ...]
    linked: bool

    @classmethod
    def along(cls, windows: Windows, axis: int, *, whole: bool, linked: bool) -> "Cuts":
        """The pieces of an axis; a single one if it is to stay `whole`."""
        side, patch = windows.shape[axis], windows.patch_size[axis]
        starts = [max(start, 0) for start in windows.starts[axis]]
        cuts = starts[:1] if whole else starts
        # What lies beyond the last start is cut as well, for most of it is touched late.
        step = max((b - a for a, b in itertools.pairwise(cuts)), default=side)
        bounds = (*cuts, *range(cuts[-1] + step, side, step), side)
        touched = []
        for low, high in itertools.pairwise(bounds):
            those = [n for n, start in enumerate(starts) if low - patch < start < high]
            touched.append((those[0], those[-1]))
        return cls(bounds, tuple(touched), linked)

    def __len__(self) -> int:
        """How many pieces there are."""
        return len(self.touched)

    def finished_by(self, window: int) -> list[int]:
        """The pieces that no window after this one touches."""
        return [n for n, (_, last) in enumerate(self.touched) if last == window]

    def over(self, low: int, high: int) -> list[int]:
        """The pieces that lie between two places, or in part."""
        pairs = enumerate(itertools.pairwise(self.bounds))
        return [n for n, (first, end) in pairs if first < high and low < end]

    def before(self, piece: int) -> int:
        """How many voxels stand before a piece: 1 or 0."""
        return int(self.linked and piece > 0)

    def room(self, piece: int) -> int:
        """Room for a piece, the same for all that are as long."""
        return self.bounds[piece + 1] - self.bounds[piece] + (self.linked and len(self) > 1)


def cuts_of(
    windows: Windows, axes: Triple, linked: tuple[bool, bool, bool]
) -> tuple[Cuts, Cuts, Cuts]:
    """The pieces along i, j and k; windows follow each other along the last of `axes`."""
    i, j, k = (
        Cuts.along(windows, axis, whole=axis == axes[2], linked=linked[axis]) for axis in range(3)
    )
    return i, j, k


def walk_axes(windows: Windows) -> Triple:
    """The axes in the order in which a walk along them, the last one fastest, holds least."""
    orders = [(slow, fast, 3 - slow - fast) for slow in range(3) for fast in range(3)]
    kept = (axes for axes in orders if axes[0] != axes[1])
    return min(kept, key=lambda axes: most_voxels(windows, axes))


def most_voxels(windows: Windows, axes: Triple) -> int:
    """The most voxels that are held at a time: of bricks, and of planes beside bricks to come."""
    cuts = cuts_of(windows, axes, (True, True, True))
    slow, fast, row = cuts[axes[0]], cuts[axes[1]], windows.shape[axes[2]]
    opened = max(_opened(slow, fast, n) for n in range(len(windows.starts[axes[0]])))
    longest, widest = (max(map(along.room, range(len(along)))) for along in (slow, fast))
    # One more brick, that the walk is done with and the export perhaps not.
    finished = longest * widest
    beside = sum(map(fast.room, range(len(fast)))) + longest
    return row * (opened + finished + beside)


def _opened(slow: Cuts, fast: Cuts, window: int) -> int:
    """The most room that open bricks take while one window of the slow axis is walked along."""
    kinds = dict.fromkeys(itertools.product((False, True), repeat=2), 0)
    for piece, (first, last) in enumerate(slow.touched):
        if first <= window <= last:
            kinds[first < window, last == window] += slow.room(piece)
    rooms = [(*touched, fast.room(piece)) for piece, touched in enumerate(fast.touched)]
    everywhere = sum(room for *_, room in rooms)
    most = 0
    for column in range(fast.touched[-1][1] + 1):
        begun = sum(room for first, _, room in rooms if first <= column)
        done = sum(room for _, last, room in rooms if last < column)
        held = [
            count * ((everywhere if was_begun else begun) - (done if ends else 0))
            for (was_begun, ends), count in kinds.items()
        ]
        most = max(most, sum(held))
    return most
