"""The order and the place of a series' slices: one volume, or the reason why it is none.

Slices are ordered by their position along the common normal, never by number or name. What can be
mended with certainty is mended and noted; all else is refused.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from medseg.fault import InputFault
from medseg.io.dicom.frame import Frame
from medseg.io.dicom.instance import Instance
from medseg.io.dicom.series import Series

# Cosines of four decimals differ by 1e-4; over 400 mm of a slice that is a twentieth of one.
SAME_DIRECTION = 2e-4
SAME_SPACING = 1e-4
SAME_PLACE_MM = 1e-3
# Of a gap: farther from its place than this, a slice is not on an even grid.
EVEN = 0.02
# A tilt drifts farther than this a millimeter, and in all more than rounding moves a pixel.
LARGEST_DRIFT = 1e-3
ROUNDED_PIXELS = 0.05
# Positions are often told in hundredths of a millimeter; on three axes that is off by up to this.
ROUNDED_MM = 0.02
# Of what neighboring slices cover: a wider gap beside covered ones has lost a slice.
LOST = 1.25


@dataclass(frozen=True)
class Slice:
    """A frame and the file it is in; `place_mm` is its position along the normal."""

    instance: Instance
    frame: Frame
    place_mm: float


@dataclass(frozen=True, eq=False)
class Stack:
    """The slices of one volume from first to last along the normal, on parallel planes.

    `spacing_mm` are the pixel's sides along a row and along a column. `is_even` tells whether the
    slices lie on one rectangular grid as they are. `notes` tell what is mended, `remarks` what a
    user may wonder about.
    """

    slices: tuple[Slice, ...]
    cosines: np.ndarray
    spacing_mm: tuple[float, float]
    notes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    is_even: bool = True

    @property
    def shape(self) -> tuple[int, int, int]:
        """Columns, rows, slices."""
        first = self.slices[0].instance
        return first.columns, first.rows, len(self.slices)

    @property
    def positions_lps_mm(self) -> np.ndarray:
        """The center of the first pixel of each slice, (k, 3)."""
        return np.array([one.frame.position_lps_mm for one in self.slices])

    @property
    def gaps_mm(self) -> np.ndarray:
        """Distances of neighboring planes, (k - 1,)."""
        return np.diff([one.place_mm for one in self.slices])

    @property
    def step_lps_mm(self) -> np.ndarray:
        """The mean way from one slice to the next, without what rounding adds to thin stacks."""
        positions = self.positions_lps_mm
        step = (positions[-1] - positions[0]) / (len(positions) - 1)
        aside = self.cosines.T @ (self.cosines @ step)
        along = step - aside
        return step if np.linalg.norm(aside) <= LARGEST_DRIFT * np.linalg.norm(along) else along


def stacked(series: Series, *, repair: bool = True) -> Stack:
    """The volume in a series.

    Raises:
        InputFault: a damaged file among the slices (its code), slices of several sizes, pixel
            sizes or directions (E_MIXED), a position twice (E_DUPLICATE), two volumes in one
            series (E_PHASES), a missing slice (E_GAP), one slice only (E_SINGLE). Without
            `repair` also what is mended otherwise: scouts among the slices (E_SCOUT), copies
            of a file (E_COPY), uneven gaps (E_GAP) and a tilted gantry (E_TILT).
    """
    if series.faults:
        raise series.faults[0]
    notes: list[str] = []
    instances = _without_scouts(series.instances, notes, repair=repair)
    instances = _without_copies(instances, notes, repair=repair)
    frames = [(instance, frame) for instance in instances for frame in instance.frames]
    _refuse_mixed(frames)
    cosines = np.array(frames[0][1].cosines).reshape(2, 3)
    normal = np.cross(cosines[0], cosines[1])
    slices = sorted(
        (
            Slice(instance, frame, float(normal @ np.array(frame.position_lps_mm)))
            for instance, frame in frames
        ),
        key=lambda one: one.place_mm,
    )
    _refuse_single(slices)
    _refuse_phases(slices)
    _refuse_doubled(slices)
    remarks = ()
    if any(instance.is_inverted for instance in instances):
        remarks = ("MONOCHROME1 says how to show the values; they are read as they are.",)
    down, across = frames[0][1].spacing_mm
    stack = Stack(tuple(slices), cosines, (across, down), tuple(notes), remarks)
    return _judged(stack, repair=repair)


def _without_scouts(
    instances: Sequence[Instance], notes: list[str], *, repair: bool
) -> list[Instance]:
    kept = [instance for instance in instances if not instance.is_localizer]
    dropped = len(instances) - len(kept)
    if not dropped:
        return list(instances)
    folder = instances[0].file.parent
    if not kept:
        raise InputFault(
            f"{folder}: its images are scouts (ImageType LOCALIZER), for planning; give the scan.",
            code="E_SCOUT",
        )
    sentence = f"{dropped} scout images (ImageType LOCALIZER) lie among the slices"
    if not repair:
        raise InputFault(f"{folder}: {sentence}; leave them out.", code="E_SCOUT")
    notes.append(f"{sentence}; they were left out.")
    return kept


def _without_copies(
    instances: Sequence[Instance], notes: list[str], *, repair: bool
) -> list[Instance]:
    """One file of each SOP instance; two files of one instance must be the same, byte by byte."""
    kept: dict[str, Instance] = {}
    copies = 0
    for instance in instances:
        # Some anonymizers empty the UID: such files are told apart by their names.
        first = kept.setdefault(instance.uid or str(instance.file), instance)
        if first is instance:
            continue
        copies += 1
        if first.file.read_bytes() != instance.file.read_bytes():
            raise InputFault(
                f"{instance.file}: it has the SOPInstanceUID of {first.file.name} and other "
                "content; copy the series from the archive again.",
                code="E_DUPLICATE",
            )
    if copies and not repair:
        raise InputFault(
            f"{instances[0].file.parent}: {copies} files are there twice; delete the copies.",
            code="E_COPY",
        )
    if copies:
        notes.append(f"{copies} files are copies of others; they were left out.")
    return list(kept.values())


def _refuse_mixed(frames: Sequence[tuple[Instance, Frame]]) -> None:
    first, frame = frames[0]
    for other, its_frame in frames[1:]:
        if (other.rows, other.columns) != (first.rows, first.columns):
            what = f"{other.columns}x{other.rows} pixels against {first.columns}x{first.rows}"
        elif not np.allclose(its_frame.spacing_mm, frame.spacing_mm, rtol=SAME_SPACING):
            what = f"pixels of {its_frame.spacing_mm} against {frame.spacing_mm} mm"
        elif not np.allclose(its_frame.cosines, frame.cosines, atol=SAME_DIRECTION):
            what = "another direction (ImageOrientationPatient)"
        elif other.frame_of_reference_uid != first.frame_of_reference_uid:
            what = "another frame of reference"
        elif other.facts.get("Modality") != first.facts.get("Modality"):
            what = "another modality"
        elif its_frame.told_scale != frame.told_scale:
            what = "RescaleSlope or RescaleIntercept, which only some of them tell,"
        else:
            continue
        raise InputFault(
            f"{other.file}: the slices of its series differ ({what} than in {first.file.name}), "
            "so they are no one volume; export the volume as a series of its own.",
            code="E_MIXED",
        )


def _refuse_single(slices: Sequence[Slice]) -> None:
    if len(slices) < 2:
        raise InputFault(
            f"{slices[0].instance.file}: its series has a single slice; a volume has at least two.",
            code="E_SINGLE",
        )


def _refuse_phases(slices: Sequence[Slice]) -> None:
    """Two volumes in one series differ in a tag and lie over each other."""
    names = dict.fromkeys(name for one in slices for name in one.frame.volume_tags)
    keys: dict[str, Callable[[Slice], str]] = {
        name: lambda one, name=name: one.frame.volume_tags.get(name, "") for name in names
    }
    keys["AcquisitionNumber"] = lambda one: one.instance.acquisition
    for name, key in keys.items():
        spans = _spans_mm(slices, key)
        if len(spans) > 1 and _overlap(list(spans.values())):
            raise InputFault(
                f"{slices[0].instance.file.parent}: the series holds {len(spans)} volumes that "
                f"lie over each other ({name} has {len(spans)} values); export one of them as a "
                "series of its own.",
                code="E_PHASES",
            )


def _spans_mm(
    slices: Iterable[Slice], key: Callable[[Slice], str]
) -> dict[str, tuple[float, float]]:
    spans: dict[str, tuple[float, float]] = {}
    for one in slices:
        low, high = spans.get(key(one), (one.place_mm, one.place_mm))
        spans[key(one)] = min(low, one.place_mm), max(high, one.place_mm)
    return spans


def _overlap(spans: list[tuple[float, float]]) -> bool:
    """Whether two spans share more than half of the shorter; a slice has no span of its own."""
    long = sorted(span for span in spans if span[1] > span[0])
    return any(
        min(a[1], b[1]) - max(a[0], b[0]) > 0.5 * min(a[1] - a[0], b[1] - b[0])
        for a, b in pairwise(long)
    )


def _refuse_doubled(slices: Sequence[Slice]) -> None:
    doubled = [
        (one, other)
        for one, other in pairwise(slices)
        if other.place_mm - one.place_mm < SAME_PLACE_MM
    ]
    if doubled:
        one, other = doubled[0]
        raise InputFault(
            f"{one.instance.file.parent}: {len(doubled)} positions are there twice, first that of "
            f"{one.instance.file.name} and {other.instance.file.name}; the series holds several "
            "volumes or doubled slices. Export one volume as a series of its own.",
            code="E_DUPLICATE",
        )


def _judged(stack: Stack, *, repair: bool) -> Stack:
    """The stack with the verdict on its gaps and its tilt."""
    faults = []
    uneven = _unevenness(stack)
    if uneven > EVEN:
        _refuse_lost(stack)
        gaps = stack.gaps_mm
        faults.append((f"the slices lie {gaps.min():.4g} to {gaps.max():.4g} mm apart", "E_GAP"))
    drift = _drift(stack)
    if drift > LARGEST_DRIFT:
        degrees = np.degrees(np.arctan(drift))
        faults.append((f"the slices drift {degrees:.1f} degrees (a tilted gantry)", "E_TILT"))
    if not faults:
        return stack
    if not repair:
        sentence, code = faults[0]
        raise InputFault(
            f"{stack.slices[0].instance.file.parent}: {sentence}, and nothing is to be repaired; "
            "without --no-repair they are resampled onto an even grid.",
            code=code,
        )
    notes = [f"{sentence}; resampled onto an even grid." for sentence, _ in faults]
    return replace(stack, is_even=False, notes=(*stack.notes, *notes))


def _unevenness(stack: Stack) -> float:
    """How far the worst slice is along the normal from an even grid, in gaps; 0 for rounding."""
    places = np.array([one.place_mm for one in stack.slices])
    even = np.linspace(places[0], places[-1], len(places))
    off_mm = float(np.abs(places - even).max())
    return off_mm / float(even[1] - even[0]) if off_mm > ROUNDED_MM else 0.0


def _drift(stack: Stack) -> float:
    """In-plane drift a millimeter along the normal, by the worst slice that is beyond rounding."""
    positions = stack.positions_lps_mm - stack.positions_lps_mm[0]
    in_plane = np.linalg.norm(positions @ stack.cosines.T, axis=1)
    along = np.array([one.place_mm for one in stack.slices]) - stack.slices[0].place_mm
    beyond = in_plane > ROUNDED_PIXELS * min(stack.spacing_mm)
    return float((in_plane[beyond] / along[beyond]).max(initial=0))


def _refuse_lost(stack: Stack) -> None:
    """Uneven gaps are a way of scanning only where the slices' thickness accounts for each.

    Slices that overlap or leave space do so everywhere; a gap wider than that, by the quarter of
    gaps that are closest, is a loss. Where no thickness is told, the closest gap is the measure.
    """
    gaps = stack.gaps_mm
    covered = _covered_mm(stack)
    if covered is None:
        wide = gaps > LOST * gaps.min()
    else:
        ratio = gaps / covered
        wide = ratio > LOST * np.quantile(ratio, 0.25, method="lower")
    if wide.any():
        place = int(np.argmax(wide))
        one, other = stack.slices[place], stack.slices[place + 1]
        raise InputFault(
            f"{one.instance.file.parent}: slices are missing; between {one.instance.file.name} "
            f"and {other.instance.file.name} lie {gaps[place]:.4g} mm, elsewhere "
            f"{np.median(gaps):.4g} mm ({int(wide.sum())} such gaps). Fetch the whole series.",
            code="E_GAP",
        )


def _covered_mm(stack: Stack) -> np.ndarray | None:
    """What neighboring slices cover by their thickness, (k - 1,); None where it is unknown."""
    thickness = [one.frame.thickness_mm for one in stack.slices]
    if any(one is None for one in thickness):
        return None
    known = np.array(thickness, dtype=float)
    return (known[1:] + known[:-1]) / 2
