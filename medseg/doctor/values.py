"""Mends of what voxels hold: labels by a stated map, rounded floats, NaN, another grid."""

import numpy as np

from medseg.doctor.draft import Draft, NotCertain
from medseg.doctor.finding import Choices, Mend
from medseg.preprocess.onto import covered_share, labels_onto
from medseg.volume import Grid, shown

WHOLE_WITHIN = 1e-3
LARGEST_LABEL = 65_535
# Labels that cover less of their image than this may belong to another one.
LEAST_COVERED = 0.5
SAME_LATTICE_VOXELS = 0.1
MOST_SHOWN = 8


def mend_labels(draft: Draft, code: str, choices: Choices) -> Mend:
    """Whole label values: floats within 1e-3 of whole ones are rounded, others by the map.

    Raises:
        NotCertain: values between labels, or that the map does not speak of.
    """
    found = draft.values().astype(np.float64)
    whole = np.rint(found)
    if not np.isfinite(found).all() or np.abs(whole - found).max() > WHOLE_WITHIN:
        raise NotCertain("its values lie between labels; which label was meant cannot be told")
    before, counts = np.unique(whole, return_counts=True)
    mapped = whole.copy()
    for old, new in choices.label_map.items():
        mapped[whole == old] = new
    low, high = mapped.min(), mapped.max()
    if low < 0 or high > LARGEST_LABEL:
        raise NotCertain(f"values {low:g} to {high:g} are left, and labels are 0 to 65535")
    changed = {old: choices.label_map[int(old)] for old in before if old in choices.label_map}
    rounded = draft.voxels.dtype.kind == "f"
    if not changed and np.array_equal(whole, found):
        raise NotCertain("it holds values that are no labels, and --map does not speak of them")
    if rounded or not np.array_equal(draft.values(), draft.voxels):
        draft.store(mapped.astype(np.uint8 if high < 256 else np.uint16))
    else:
        kept = mapped.astype(draft.voxels.dtype)
        if not np.array_equal(kept, mapped):
            draft.store(mapped.astype(np.uint16))
        else:
            draft.voxels = kept
    what = "labels by the stated map" if changed else "rounded to whole labels"
    gone = sum(int(n) for value, n in zip(before, counts, strict=True) if value in changed)
    after = np.unique(draft.voxels)
    return Mend(code, what, _listed(np.unique(found)), f"{_listed(after)}; {gone} voxels renamed")


def mend_nan(draft: Draft, code: str, choices: Choices) -> Mend:
    """NaN by the stated value.

    Raises:
        NotCertain: no value is stated, or voxels are infinite.
    """
    if choices.fill_nan is None:
        raise NotCertain("what stands for no number is not stated")
    if draft.voxels.dtype.kind != "f" or np.isinf(draft.voxels).any():
        raise NotCertain("voxels are infinite, which is no missing value but a fault of arithmetic")
    slope, intercept = float(draft.raw["scl_slope"]), float(draft.raw["scl_inter"])
    stored = choices.fill_nan
    if slope not in (0.0, 1.0) or intercept:
        stored = (stored - intercept) / slope
    holes = np.isnan(draft.voxels)
    draft.voxels[holes] = stored
    return Mend(code, "NaN was filled", f"{int(holes.sum())} voxels", f"{choices.fill_nan:g}")


def mend_grid(draft: Draft, code: str, image: Grid) -> Mend:
    """A label map on another grid than its image: the nearest label at each of its voxels.

    Raises:
        NotCertain: image and labels may not belong together.
    """
    own = draft.grid
    if own.shape == image.shape and not _same_lattice(own, image):
        raise NotCertain(
            "it has as many voxels as its image and lies elsewhere: either its place was lost "
            "(then the image's belongs to it), or it was drawn on another image"
        )
    covered = covered_share(own, image)
    if covered < LEAST_COVERED:
        raise NotCertain(f"it covers {covered:.0%} of its image; it may belong to another one")
    labels = draft.voxels.reshape(own.shape, order="F")
    drawn = np.argwhere(labels != 0)
    at = image.world_to_voxel(own.voxel_to_world(drawn))
    if ((at < -0.5) | (at > np.asarray(image.shape) - 0.5)).any():
        raise NotCertain("labels lie outside of its image and would be lost")
    native = labels.astype(labels.dtype.newbyteorder("="))
    result = labels_onto(native, own, image)
    lost = set(np.unique(native).tolist()) - set(np.unique(result).tolist())
    if lost - {0}:
        raise NotCertain(f"labels {sorted(lost)} are too small for the image's voxels")
    before = f"{shown(own.shape)}, {_ml(native, own):.2f} ml labeled"
    draft.voxels = result.astype(draft.voxels.dtype).ravel(order="F")
    draft.lay(image.affine, image.shape)
    after = f"{shown(image.shape)}, {_ml(result, image):.2f} ml labeled"
    return Mend(code, "labels by the nearest voxel onto the image's grid", before, after)


def _same_lattice(one: Grid, other: Grid) -> bool:
    """Whether the corners of both are the same points, in whatever order."""
    ours, theirs = one.corners_ras_mm(), other.corners_ras_mm()
    apart = np.linalg.norm(ours[:, None] - theirs[None], axis=-1).min(axis=1)
    return bool((apart < SAME_LATTICE_VOXELS * min(one.spacing_mm)).all())


def _ml(labels: np.ndarray, grid: Grid) -> float:
    return int((labels != 0).sum()) * grid.voxel_volume_mm3 / 1000


def _listed(values: np.ndarray) -> str:
    text = ", ".join(f"{value:g}" for value in values[:MOST_SHOWN])
    return f"values {text}{', ...' if len(values) > MOST_SHOWN else ''}"
