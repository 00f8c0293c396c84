"""Bodies with organs: smooth irregular bodies at places that hold over all subjects.

Neighbors have similar intensities and left and right the same one, so that where an organ lies must
be learned, and not only how bright it is.
"""

import hashlib
import re

import numpy as np
from jaxtyping import Float, UInt
from scipy import ndimage

from medseg.data.phantom.shapes import Shape, deformed_places, irregular_distance, smooth_noise
from medseg.volume import LabelTable

SIDE = re.compile(r"\b(left|right)\b", re.IGNORECASE)
AIR_HU, TISSUE_HU = -1000.0, 40.0


def organs_subject(
    generator: np.random.Generator,
    *,
    shape: Shape,
    channels: tuple[str, ...],
    labels: LabelTable,
    is_ct: bool,
) -> tuple[Float[np.ndarray, "c i j k"], UInt[np.ndarray, "i j k"]]:
    """One subject: its channels and the label map of its organs."""
    body, organs = _bodies(generator, shape, labels)
    array = np.zeros(shape, np.uint8 if max(labels.values) < 256 else np.uint16)
    for value, mask in organs.items():
        array[mask] = value
    images = [_image(generator, channel, array, body, labels, is_ct=is_ct) for channel in channels]
    return np.stack(images), array


def layout_of(labels: LabelTable) -> dict[int, np.ndarray]:
    """The place of each label in the unit cube (-1..1); left and right mirror each other."""
    places: dict[int, np.ndarray] = {}
    mirrored = {right: left for left, right in labels.mirror_pairs()}
    singles = [value for value in labels.values if value not in mirrored]
    for number, value in enumerate(singles):
        # Points of a spiral over a ball: spread evenly, the same for every subject.
        share = (number + 0.5) / len(singles)
        radius, height, turn = 0.55 * share ** (1 / 3), 1 - 2 * share, number * 2.399963
        flat = np.sqrt(max(1 - height**2, 0))
        place = radius * np.array([np.cos(turn) * flat, np.sin(turn) * flat, height])
        if value in mirrored.values():
            place[0] = -(0.25 + abs(place[0]))
        places[value] = place
    for right, left in mirrored.items():
        places[right] = places[left] * np.array([-1, 1, 1])
    return places


def _bodies(
    generator: np.random.Generator, shape: Shape, labels: LabelTable
) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    half = np.asarray(shape) / 2
    drift = generator.uniform(-0.06, 0.06, 3)
    body = irregular_distance(
        generator, shape, center=half * (1 + drift), radii=half * 0.92, roughness=0.04
    )
    moves = deformed_places(
        generator, shape, width=float(half.mean()), reach=float(half.min()) / 12
    )
    places = layout_of(labels)
    size = 0.95 * _room(np.stack(list(places.values())))
    organs = {}
    for value, place in places.items():
        center = half * (1 + drift + place + generator.uniform(-0.04, 0.04, 3))
        radii = np.maximum(half * size * generator.uniform(0.8, 1.15, 3), 1.5)
        distance = irregular_distance(generator, shape, center=center, radii=radii, roughness=0.1)
        distance = ndimage.map_coordinates(distance, moves, order=1, mode="nearest")
        organs[value] = (distance < 1) & (body < 0.97)
    return body < 1, organs


def _room(places: np.ndarray) -> float:
    """Half the smallest distance between two places, at most a third of the half side."""
    if len(places) == 1:
        return 1 / 3
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1)
    return float(min(apart[np.triu_indices(len(places), 1)].min() / 2, 1 / 3))


def _image(
    generator: np.random.Generator,
    channel: str,
    array: np.ndarray,
    body: np.ndarray,
    labels: LabelTable,
    *,
    is_ct: bool,
) -> np.ndarray:
    shape = (array.shape[0], array.shape[1], array.shape[2])
    image = np.where(body, 0.5 + 0.05 * smooth_noise(generator, shape, width=8), 0.0)
    for label in labels.labels:
        signal = _signal(channel, label.name) * (1 + 0.04 * generator.standard_normal())
        texture = 1 + 0.05 * smooth_noise(generator, shape, width=3)
        image = np.where(array == label.value, signal * texture, image)
    image = ndimage.gaussian_filter(image.astype(np.float32), 0.6)
    image += 0.04 * generator.standard_normal(shape).astype(np.float32)
    if is_ct:
        soft = TISSUE_HU + 300 * (image - 0.5)
        return np.where(body, soft, AIR_HU).astype(np.float32)
    image *= np.exp(0.1 * smooth_noise(generator, shape, width=max(shape) / 2))
    return (image * 500 * np.exp(0.5 * generator.standard_normal())).astype(np.float32)


def _signal(channel: str, name: str) -> float:
    """An intensity of 0.65 to 1.0 that belongs to channel and organ, whichever its side."""
    plain = SIDE.sub("", name.lower()).strip()
    digest = hashlib.sha256(f"{channel.lower()}:{plain}".encode()).digest()
    return 0.65 + 0.35 * digest[0] / 255
