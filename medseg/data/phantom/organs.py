"""Subjects of an atlas: bodies with organs that vary in form, place, size and brightness.

Neighbors have similar intensities and left and right the same one, so that where an organ lies must
be learned, and not only how bright it is.
"""

import numpy as np
from jaxtyping import Float, UInt
from scipy import ndimage

from medseg.data.phantom.atlas import Atlas, Organ, atlas_of
from medseg.data.phantom.shapes import (
    Field,
    Places,
    Shape,
    deformed_places,
    irregular_distance,
    smooth_noise,
)
from medseg.volume import LabelTable

SOFT_TISSUE_HU = 300.0


def organs_subject(
    generator: np.random.Generator,
    *,
    shape: Shape,
    channels: tuple[str, ...],
    labels: LabelTable,
    modality: str,
) -> tuple[Float[np.ndarray, "c i j k"], UInt[np.ndarray, "i j k"]]:
    """One subject: its channels and the label map of its organs."""
    atlases = [atlas_of(labels, modality=modality, channel=channel) for channel in channels]
    regions = _regions(generator, shape, atlases[0])
    named = [name.lower() for name in atlases[0].organs]
    # Regions are numbered: outside, rim, tissue, others, organs.
    first = regions.max(initial=0) + 1 - len(named)
    array = np.zeros(shape, np.uint8 if max(labels.values) < 256 else np.uint16)
    for label in labels.labels:
        array[regions == first + named.index(label.name.lower())] = label.value
    make = _ct if modality == "CT" else _mr
    images = [make(generator, _signals(atlas), regions) for atlas in atlases]
    return np.stack(images), array


def _signals(atlas: Atlas) -> np.ndarray:
    bodies = [organ.signal for organ in (*atlas.others, *atlas.organs.values())]
    return np.array([atlas.outside, atlas.rim, atlas.tissue, *bodies], dtype=np.float32)


def _regions(generator: np.random.Generator, shape: Shape, atlas: Atlas) -> np.ndarray:
    """Which part of the atlas each voxel belongs to; each organ keeps at least a voxel."""
    half = np.asarray(shape) / 2
    places = deformed_places(
        generator, shape, width=max(float(half.mean()) * 0.8, 4), reach=float(half.min()) / 14
    )
    middle = half - 0.5 + half * generator.uniform(-0.06, 0.06, 3) * np.minimum(half / 12, 1)
    size = generator.uniform(0.9, 1.05)
    body = irregular_distance(
        generator, places, center=middle, radii=half * atlas.outline, roughness=0.03
    )
    regions = np.zeros(shape, dtype=np.int16)
    regions[body < 1] = 1
    regions[body < 0.9] = 2
    bodies = (*atlas.others, *atlas.organs.values())
    for number, organ in enumerate(bodies, start=3):
        inside = _inside(generator, places, organ, middle, half * size)
        regions[inside & (body < 0.97)] = number
    for number, organ in enumerate(atlas.organs.values(), start=3 + len(atlas.others)):
        if not (regions == number).any():
            at = np.clip(np.rint(middle + half * size * np.array(organ.place)), 0, 2 * half - 1)
            regions[tuple(at.astype(int))] = number
    return regions


def _inside(
    generator: np.random.Generator,
    places: Places,
    organ: Organ,
    middle: np.ndarray,
    half: np.ndarray,
) -> np.ndarray:
    radii = np.array(organ.radii)
    moved = np.array(organ.place) + np.minimum(radii, 0.3) * generator.uniform(-0.2, 0.2, 3)
    own = np.maximum(half * radii * generator.uniform(0.85, 1.15, 3), 0.8)
    center = middle + half * moved
    return irregular_distance(generator, places, center=center, radii=own, roughness=0.08) < 1


def _painted(
    generator: np.random.Generator, signals: np.ndarray, regions: np.ndarray, *, variation: float
) -> Field:
    """Each region in its signal, varied for this subject."""
    i, j, k = regions.shape
    varied = signals * (1 + variation * generator.standard_normal(len(signals), dtype=np.float32))
    return ndimage.gaussian_filter(varied[regions].reshape(i, j, k), 0.6)


def _ct(generator: np.random.Generator, signals: np.ndarray, regions: np.ndarray) -> Field:
    """HU, with bowel-like texture in soft tissue and the noise of a scanner."""
    i, j, k = regions.shape
    varied = signals.copy()
    soft = (signals > -200) & (signals < SOFT_TISSUE_HU)
    varied[soft] += 9 * generator.standard_normal(int(soft.sum()), dtype=np.float32)
    image = _painted(generator, varied, regions, variation=0.0)
    texture = 10 * smooth_noise(generator, (i, j, k), width=6)
    grain = 14 * ndimage.gaussian_filter(
        generator.standard_normal((i, j, k), dtype=np.float32), 0.6
    )
    return image + np.where(regions > 0, texture, 0) + 1.6 * grain


def _mr(generator: np.random.Generator, signals: np.ndarray, regions: np.ndarray) -> Field:
    """Arbitrary units: a bias field, texture, Rician noise, and a scale of its own."""
    i, j, k = regions.shape
    image = _painted(generator, signals, regions, variation=0.05)
    image = image * (1 + 0.06 * smooth_noise(generator, (i, j, k), width=5))
    image = image * np.exp(0.12 * smooth_noise(generator, (i, j, k), width=max(i, j, k) / 2))
    noise = 0.05 * generator.standard_normal((2, i, j, k), dtype=np.float32)
    scale = 500 * np.exp(0.5 * generator.standard_normal())
    return (scale * np.hypot(image + noise[0], noise[1])).astype(np.float32)
