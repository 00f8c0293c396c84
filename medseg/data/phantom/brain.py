"""Brains with lesions: the installed MNI152 anatomy in four contrasts, the lesions synthetic.

nilearn ships the MNI152 2009a T1 with gray and white matter maps at 1 mm. Each subject is a block
of it, smoothly deformed, mirrored or not, with a lesion of its own in the white matter: edema
around a core with an enhancing rim. Bright spots that are no lesion keep thresholds from winning.
"""

from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
from jaxtyping import Float, UInt
from nibabel.nifti1 import Nifti1Image
from scipy import ndimage

from medseg.data.card import Lesion
from medseg.data.phantom.shapes import (
    Field,
    Shape,
    deformed_places,
    irregular_distance,
    random_turn,
    smooth_noise,
)
from medseg.fault import InputFault

Spacing = tuple[float, float, float]
# Signal of white matter, gray matter, fluid, edema, core, enhancing rim in each contrast.
CONTRASTS = {
    "t1": (1.00, 0.75, 0.30, 0.70, 0.52, 0.72),
    "t1c": (1.00, 0.78, 0.32, 0.71, 0.55, 1.35),
    "t2": (0.55, 0.70, 1.15, 0.92, 1.05, 0.85),
    "flair": (0.62, 0.75, 0.25, 1.02, 0.72, 0.95),
}
NAMES = {
    "t1": ("t1", "t1w", "t1n", "t1-weighted"),
    "t1c": ("t1ce", "t1gd", "t1c", "t1post", "t1wce"),
    "t2": ("t2", "t2w", "t2-weighted"),
    "flair": ("flair", "t2f"),
}


@dataclass(frozen=True, eq=False)
class Anatomy:
    """White and gray matter and brain mask at 1 mm, each (i, j, k) in 0..1, i to the right."""

    white: np.ndarray
    gray: np.ndarray
    brain: np.ndarray


@dataclass(frozen=True, eq=False)
class Block:
    """The part of the anatomy that one subject is made of."""

    tissues: Float[np.ndarray, "3 i j k"]
    brain: np.ndarray
    spacing_mm: Spacing

    @property
    def shape(self) -> Shape:
        """Voxels."""
        i, j, k = self.brain.shape
        return i, j, k


def brain_subject(
    generator: np.random.Generator,
    *,
    shape: Shape,
    spacing_mm: Spacing,
    channels: tuple[str, ...],
    lesion: Lesion,
) -> tuple[Float[np.ndarray, "c i j k"], UInt[np.ndarray, "i j k"]]:
    """One subject: the contrasts named by `channels` and the label map of its lesion.

    Raises:
        InputFault: a channel is no contrast that is known here (E_PHANTOM).
    """
    signals = [contrast_of(name) for name in channels]
    block = _block(generator, installed_anatomy(), shape, spacing_mm)
    parts = _lesion(generator, block)
    labels = np.zeros(shape, np.uint8)
    for value, mask in zip((lesion.edema, lesion.core, lesion.enhancing), parts, strict=True):
        labels[mask] = value
    return np.stack([_contrast(generator, one, block, parts) for one in signals]), labels


def contrast_of(name: str) -> tuple[float, ...]:
    """The signals of the contrast that a channel's name means.

    Raises:
        InputFault: no known name (E_PHANTOM).
    """
    for contrast, names in NAMES.items():
        if name.lower() in names:
            return CONTRASTS[contrast]
    raise InputFault(
        f"channel {name}: the brain phantom makes T1, T1 with contrast, T2 and FLAIR; it knows "
        f"the names {', '.join(n for names in NAMES.values() for n in names)}. Give the card's "
        "phantom the kind organs, which makes any channel.",
        code="E_PHANTOM",
    )


@lru_cache(maxsize=1)
def installed_anatomy() -> Anatomy:
    """The MNI152 maps of the installed nilearn.

    Raises:
        InputFault: nilearn is not installed, or its files have other names (E_INSTALL).
    """
    found = find_spec("nilearn")
    folder = Path(found.origin or "").parent / "datasets" / "data" if found else Path()
    names = [f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz" for kind in ("t1", "gm", "wm")]
    if not all((folder / name).is_file() for name in names):
        raise InputFault(
            "the brain phantom needs the MNI152 maps that nilearn ships, and they are not "
            "installed; run `pip install 'nilearn>=0.11'`.",
            code="E_INSTALL",
        )
    t1, gray, white = (_map(folder / name) for name in names)
    return Anatomy(white / white.max(), gray / gray.max(), (t1 > 0).astype(np.float32))


def _map(path: Path) -> Field:
    image = nib.as_closest_canonical(Nifti1Image.from_filename(path))
    return image.get_fdata(dtype=np.float32)


def _block(
    generator: np.random.Generator, whole: Anatomy, shape: Shape, spacing_mm: Spacing
) -> Block:
    """The anatomy around a place in deep white matter, which lies near the middle of the block."""
    sides_mm = np.asarray(shape) * np.asarray(spacing_mm)
    deep = np.argwhere(whole.white[::4, ::4, ::4] > 0.8) * 4.0
    center = deep[generator.integers(len(deep))] + generator.uniform(-1, 1, 3) * sides_mm / 8
    room = np.maximum(np.asarray(whole.white.shape) - sides_mm, 0)
    start = np.clip(center - sides_mm / 2, 0, room)
    fine_mm = min(spacing_mm)
    places = deformed_places(generator, shape, width=24 / fine_mm, reach=2.5 / fine_mm)
    for axis in range(3):
        places[axis] = places[axis] * spacing_mm[axis] + start[axis]
    white, gray, brain = (
        ndimage.map_coordinates(part, places, order=1, output=np.float32)
        for part in (whole.white, whole.gray, whole.brain)
    )
    if generator.random() < 0.5:
        white, gray, brain = (np.ascontiguousarray(part[::-1]) for part in (white, gray, brain))
    fluid = np.clip(brain - white - gray, 0, 1)
    return Block(np.stack([white, gray, fluid]), brain > 0.5, spacing_mm)


def _lesion(
    generator: np.random.Generator, block: Block
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Masks of edema, core and enhancing rim, which exclude each other."""
    white = block.tissues[0]
    spacing = np.asarray(block.spacing_mm)
    smallest_mm = float((np.asarray(block.shape) * spacing).min())
    radii_mm = generator.uniform(6, 14, 3) * min(smallest_mm / 90, 1)
    center = _white_place(generator, white) * spacing
    places_mm = np.indices(block.shape, dtype=np.float32)
    places_mm *= spacing.astype(np.float32)[:, None, None, None]
    turn = random_turn(generator)
    near, far = (
        irregular_distance(
            generator, places_mm, center=center, radii=radii, roughness=roughness, turn=turn
        )
        for radii, roughness in (
            (radii_mm, 0.15),
            (radii_mm * generator.uniform(1.4, 1.9), 0.2),
        )
    )
    # The rim is a voxel thick at least, so that it closes around the core.
    thinnest = min(1.3 * float(spacing.max()) / float(radii_mm.min()), 0.7)
    rim = max(generator.uniform(0.18, 0.4), thinnest)
    core = (near < 1 - rim) & block.brain
    enhancing = (near < 1) & block.brain & ~core
    # Edema follows the white matter, and stays around its tumor.
    wet = ((far < 0.7 + 0.4 * white) & block.brain) | core | enhancing
    parts = np.empty(wet.shape, np.int32)
    ndimage.label(wet, output=parts)
    own = parts == np.bincount(parts[core | enhancing]).argmax()
    return own & ~core & ~enhancing, core & own, enhancing & own


def _white_place(generator: np.random.Generator, white: Field) -> np.ndarray:
    """A voxel of white matter in the inner half of the block; its middle where there is none."""
    sides = np.array(white.shape)
    low, high = sides // 4, np.maximum(sides - sides // 4, 1)
    i, j, k = (slice(a, b) for a, b in zip(low, high, strict=True))
    found = np.argwhere(white[i, j, k] > 0.5)
    if not len(found):
        return sides // 2
    return low + found[generator.integers(len(found))]


def _contrast(
    generator: np.random.Generator,
    signals: tuple[float, ...],
    block: Block,
    parts: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> Field:
    """One channel: tissue signals, lesion, decoys, bias field, blur and noise; 0 outside."""
    varied = np.asarray(signals) * (1 + 0.05 * generator.standard_normal(len(signals)))
    image = np.tensordot(varied[:3].astype(np.float32), block.tissues, axes=1)
    healthy = image * (1 + 0.03 * smooth_noise(generator, block.shape, width=5))
    image = healthy.copy()
    for signal, mask in zip(varied[3:], parts, strict=True):
        texture = 1 + 0.08 * smooth_noise(generator, block.shape, width=4)
        image = np.where(mask, 0.8 * signal * texture + 0.2 * healthy, image)
    spots = smooth_noise(generator, block.shape, width=6) > 2.4
    image = np.where(spots & ~np.any(parts, axis=0), image * 1.35, image)
    image = ndimage.gaussian_filter(image.astype(np.float32), 0.6)
    image *= np.exp(0.14 * smooth_noise(generator, block.shape, width=40))
    image += 0.045 * generator.standard_normal(block.shape, dtype=np.float32)
    scale = 400 * np.exp(0.4 * generator.standard_normal())
    return np.where(block.brain, np.maximum(image, 0.01) * scale, 0.0).astype(np.float32)
