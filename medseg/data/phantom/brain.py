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
from scipy import ndimage

from medseg.data.card import Lesion
from medseg.data.phantom.shapes import (
    Shape,
    deformed_places,
    irregular_distance,
    read_at,
    smooth_noise,
)
from medseg.fault import InputFault

MARGIN = 12
# Signal of white matter, gray matter, fluid, edema, core, enhancing rim in each contrast.
CONTRASTS = {
    "t1": (1.00, 0.75, 0.30, 0.66, 0.50, 0.72),
    "t1c": (1.00, 0.78, 0.32, 0.68, 0.52, 1.35),
    "t2": (0.55, 0.70, 1.15, 0.95, 1.05, 0.85),
    "flair": (0.62, 0.75, 0.25, 1.08, 0.70, 0.95),
}
NAMES = {
    "t1": ("t1", "t1w", "t1n"),
    "t1c": ("t1ce", "t1gd", "t1c", "t1post"),
    "t2": ("t2", "t2w"),
    "flair": ("flair", "t2f"),
}


@dataclass(frozen=True, eq=False)
class Anatomy:
    """White and gray matter and brain mask at 1 mm, each (i, j, k) in 0..1, i to the right."""

    white: np.ndarray
    gray: np.ndarray
    brain: np.ndarray


def brain_subject(
    generator: np.random.Generator, *, shape: Shape, channels: tuple[str, ...], lesion: Lesion
) -> tuple[Float[np.ndarray, "c i j k"], UInt[np.ndarray, "i j k"]]:
    """One subject: the contrasts named by `channels` and the label map of its lesion."""
    whole = installed_anatomy()
    center = _lesion_place(generator, whole, shape)
    white, gray, brain = _block(generator, whole, shape, center)
    fluid = np.clip(brain - white - gray, 0, 1)
    parts = _lesion_parts(generator, white, brain)
    labels = np.zeros(shape, np.uint8)
    for value, mask in zip((lesion.edema, lesion.core, lesion.enhancing), parts, strict=True):
        labels[mask] = value
    tissues = np.stack([white, gray, fluid])
    images = [_contrast(generator, _contrast_of(name), tissues, parts, brain) for name in channels]
    return np.stack(images), labels


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
    t1, gray, white = (
        nib.as_closest_canonical(nib.load(folder / name)).get_fdata(dtype=np.float32)
        for name in names
    )
    brain = (t1 > 0).astype(np.float32)
    return Anatomy(white / white.max(), gray / gray.max(), brain)


def _lesion_place(generator: np.random.Generator, whole: Anatomy, shape: Shape) -> np.ndarray:
    deep = ndimage.binary_erosion(whole.white > 0.6, iterations=2)
    places = np.argwhere(deep)
    half = np.asarray(shape) // 2
    inside = np.all(
        (places >= np.minimum(half, np.asarray(deep.shape) // 2 - 1) // 2)
        & (places < np.asarray(deep.shape) - half // 2),
        axis=1,
    )
    return places[inside][generator.integers(int(inside.sum()))]


def _block(
    generator: np.random.Generator, whole: Anatomy, shape: Shape, center: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The maps around `center`, which lies somewhere in the middle third of the block."""
    jitter = generator.uniform(-1, 1, 3) * np.asarray(shape) / 6
    start = center - np.asarray(shape) / 2 + jitter
    most = np.maximum(np.asarray(whole.white.shape) - np.asarray(shape), 0)
    start = np.clip(start, 0, most)
    places = deformed_places(generator, shape, width=24, reach=2.5) + start[:, None, None, None]
    maps = [read_at(part, places) for part in (whole.white, whole.gray, whole.brain)]
    if generator.random() < 0.5:
        maps = [part[::-1].copy() for part in maps]
    white, gray, brain = maps
    return white, gray, (brain > 0.5).astype(np.float32)


def _lesion_parts(
    generator: np.random.Generator, white: np.ndarray, brain: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Masks of edema, core and enhancing rim, which exclude each other."""
    shape = white.shape
    sides = np.asarray(shape)
    room = white.copy()
    room[tuple(slice(0, 0) for _ in range(3))] = 0
    inner = np.zeros(shape, bool)
    inner[tuple(slice(side // 4, side - side // 4) for side in shape)] = True
    candidates = np.argwhere(inner & (white > 0.5))
    center = candidates[generator.integers(len(candidates))] if len(candidates) else sides // 2
    scale = sides.min() / 96
    radii = generator.uniform(7, 15, 3) * scale
    distance = irregular_distance(generator, shape, center=center, radii=radii, roughness=0.14)
    spread = generator.uniform(1.5, 2.1)
    far = irregular_distance(generator, shape, center=center, radii=radii * spread, roughness=0.3)
    rim = generator.uniform(0.25, 0.45)
    inside = brain > 0.5
    core = (distance < 1 - rim) & inside
    enhancing = (distance < 1) & inside & ~core
    # Edema follows the white matter.
    edema = (far < 0.75 + 0.35 * white) & inside & ~core & ~enhancing
    return edema, core, enhancing


def _contrast_of(name: str) -> tuple[float, ...]:
    for contrast, names in NAMES.items():
        if name.lower() in names:
            return CONTRASTS[contrast]
    raise InputFault(
        f"channel {name}: the brain phantom makes T1, T1 with contrast, T2 and FLAIR; it knows "
        f"the names {', '.join(n for names in NAMES.values() for n in names)}.",
        code="E_PHANTOM",
    )


def _contrast(
    generator: np.random.Generator,
    signals: tuple[float, ...],
    tissues: Float[np.ndarray, "3 i j k"],
    parts: tuple[np.ndarray, ...],
    brain: np.ndarray,
) -> Float[np.ndarray, "i j k"]:
    """One channel: tissue signals, lesion, decoys, bias field, blur and noise; 0 outside."""
    shape = brain.shape
    varied = np.asarray(signals) * (1 + 0.05 * generator.standard_normal(len(signals)))
    image = np.tensordot(varied[:3], tissues, axes=1).astype(np.float32)
    for signal, mask in zip(varied[3:], parts, strict=True):
        texture = 1 + 0.08 * smooth_noise(generator, shape, width=4)
        image = np.where(mask, 0.8 * signal * texture + 0.2 * image, image)
    spots = (smooth_noise(generator, shape, width=6) > 2.6) & (brain > 0.5)
    image = np.where(spots & ~np.any(parts, axis=0), image * 1.35, image)
    image = ndimage.gaussian_filter(image, 0.6)
    image *= np.exp(0.12 * smooth_noise(generator, shape, width=40))
    image += 0.04 * generator.standard_normal(shape).astype(np.float32)
    scale = 400 * np.exp(0.4 * generator.standard_normal())
    return np.where(brain > 0.5, np.maximum(image, 0.01) * scale, 0.0).astype(np.float32)
