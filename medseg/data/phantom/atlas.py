"""Where the organs of a phantom lie, how large they are and how bright.

Places and radii are in half sides of the block, RAS: (1, 0, 0) is the middle of its right face.
They are drawn to be told apart by place and shape, and to look familiar; they measure nobody.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from medseg.volume import LabelTable

SIDE = re.compile(r"\b(left|right)\b", re.IGNORECASE)
Point = tuple[float, float, float]


@dataclass(frozen=True)
class Organ:
    """An ellipsoid and its signal: HU in CT, about 0 to 1 in MR."""

    place: Point
    radii: Point
    signal: float


@dataclass(frozen=True)
class Atlas:
    """A region of the body.

    `organs` are painted in their order, later ones over earlier ones, after the `others`, which
    have no label. `tissue` fills a body of `outline` half sides, `rim` its outer layer, `outside`
    what is around.
    """

    organs: Mapping[str, Organ]
    others: tuple[Organ, ...] = ()
    tissue: float = 0.5
    rim: float = 0.65
    outside: float = 0.0
    outline: float = 0.94


# Portal venous phase. The organs lie in visceral fat; muscle, spine and bowel have no label.
ABDOMEN = Atlas(
    organs={
        "liver": Organ((0.36, 0.14, 0.34), (0.44, 0.4, 0.36), 110),
        "stomach": Organ((-0.3, 0.28, 0.32), (0.25, 0.26, 0.3), 36),
        "spleen": Organ((-0.58, -0.2, 0.36), (0.2, 0.28, 0.28), 128),
        "right kidney": Organ((0.46, -0.36, -0.32), (0.19, 0.19, 0.3), 180),
        "left kidney": Organ((-0.46, -0.36, -0.24), (0.19, 0.19, 0.3), 180),
        "gallbladder": Organ((0.34, 0.44, -0.1), (0.15, 0.16, 0.18), 8),
        "pancreas": Organ((-0.04, 0.1, -0.06), (0.42, 0.14, 0.13), 92),
        "aorta": Organ((-0.1, -0.32, 0.0), (0.12, 0.12, 2.0), 205),
        "inferior vena cava": Organ((0.16, -0.27, 0.0), (0.12, 0.11, 2.0), 145),
        "portal and splenic veins": Organ((-0.02, -0.1, 0.06), (0.46, 0.09, 0.1), 165),
        "esophagus": Organ((-0.1, -0.12, 0.76), (0.12, 0.11, 0.34), 55),
        "right adrenal gland": Organ((0.34, -0.36, 0.08), (0.11, 0.13, 0.12), 72),
        "left adrenal gland": Organ((-0.34, -0.36, 0.14), (0.11, 0.13, 0.12), 72),
    },
    others=(
        Organ((0.3, -0.68, 0.0), (0.24, 0.16, 2.0), 58),
        Organ((-0.3, -0.68, 0.0), (0.24, 0.16, 2.0), 58),
        Organ((0.0, -0.6, 0.0), (0.18, 0.18, 2.0), 320),
        Organ((0.1, 0.3, -0.6), (0.5, 0.3, 0.24), 60),
        Organ((-0.35, 0.2, -0.55), (0.2, 0.26, 0.3), 95),
        Organ((0.5, 0.1, -0.6), (0.16, 0.2, 0.4), 110),
    ),
    tissue=-95,
    rim=50,
    outside=-1000,
)
HEART = Atlas(
    organs={
        "right ventricle": Organ((0.24, 0.12, 0.0), (0.34, 0.24, 0.85), 0.86),
        "myocardium": Organ((-0.12, -0.06, 0.0), (0.29, 0.28, 0.95), 0.4),
        "left ventricle": Organ((-0.12, -0.06, 0.1), (0.18, 0.17, 0.95), 0.92),
    },
    others=(
        Organ((0.1, 0.05, 0.0), (0.62, 0.5, 2.0), 0.62),
        Organ((-0.3, -0.72, 0.0), (0.11, 0.11, 2.0), 0.88),
        Organ((0.3, 0.62, 0.0), (0.2, 0.1, 2.0), 0.9),
        Organ((0.62, -0.3, 0.0), (0.16, 0.2, 0.8), 0.45),
    ),
    tissue=0.15,
    rim=0.55,
)
TEMPORAL_LOBE = Atlas(
    organs={
        "posterior": Organ((0.05, -0.3, 0.06), (0.26, 0.5, 0.24), 0.74),
        "anterior": Organ((-0.02, 0.34, -0.08), (0.36, 0.34, 0.34), 0.72),
    },
    others=(
        Organ((-0.5, 0.0, 0.45), (0.3, 0.6, 0.25), 0.3),
        Organ((0.45, 0.2, 0.3), (0.12, 0.8, 0.1), 0.32),
        Organ((0.1, 0.75, 0.55), (0.4, 0.3, 0.3), 0.74),
        Organ((0.2, -0.2, -0.7), (0.8, 1.0, 0.25), 0.76),
    ),
    tissue=0.95,
    rim=0.95,
    outline=9.0,
)
KNOWN: Mapping[str, tuple[Atlas, ...]] = {"CT": (ABDOMEN,), "MR": (HEART, TEMPORAL_LOBE)}


def atlas_of(labels: LabelTable, *, modality: str, channel: str) -> Atlas:
    """An atlas that knows each label; for labels nobody knows, organs spread over a body."""
    names = {name.lower() for name in labels.names}
    for atlas in KNOWN.get(modality, ()):
        if names <= set(atlas.organs):
            return atlas
    spread = _spread(labels, channel)
    return _in_hounsfield(spread) if modality == "CT" else spread


def _spread(labels: LabelTable, channel: str) -> Atlas:
    places = _places(labels)
    radius = 1.1 * _room(np.array(list(places.values())))
    organs = {}
    for label in labels.labels:
        i, j, k = (float(part) for part in places[label.value])
        flat = _share(f"form:{_plain(label.name)}")
        radii = (radius, radius * (0.75 + 0.5 * flat), radius * (1.25 - 0.5 * flat))
        signal = 0.65 + 0.3 * _share(f"{channel.lower()}:{_plain(label.name)}")
        organs[label.name.lower()] = Organ((i, j, k), radii, signal)
    # Bodies of the same brightness in other places, so that brightness alone does not tell.
    others = tuple(
        Organ(
            (0.7 * np.cos(turn), 0.7 * np.sin(turn), height), (0.16, 0.16, 0.2), 0.65 + 0.1 * number
        )
        for number, (turn, height) in enumerate(((1.6, 0.4), (4.7, -0.4), (4.6, 0.5)))
    )
    return Atlas(organs, others)


def _in_hounsfield(atlas: Atlas) -> Atlas:
    def converted(organ: Organ) -> Organ:
        return Organ(organ.place, organ.radii, 40 + 300 * (organ.signal - 0.5))

    return Atlas(
        {name: converted(organ) for name, organ in atlas.organs.items()},
        tuple(converted(organ) for organ in atlas.others),
        tissue=40,
        rim=-100,
        outside=-1000,
    )


def _places(labels: LabelTable) -> dict[int, np.ndarray]:
    """The place of each label, the same for every subject; left and right mirror each other."""
    places: dict[int, np.ndarray] = {}
    mirrored = {right: left for left, right in labels.mirror_pairs()}
    singles = [value for value in labels.values if value not in mirrored]
    for number, value in enumerate(singles):
        # Points of a spiral over a ball are spread evenly.
        share = (number + 0.5) / len(singles)
        radius, height, turn = 0.55 * share ** (1 / 3), 1 - 2 * share, number * 2.399963
        flat = np.sqrt(max(1 - height**2, 0))
        place = radius * np.array([np.cos(turn) * flat, np.sin(turn) * flat, height])
        if value in mirrored.values():
            place[0] = -(0.25 + 0.6 * abs(place[0]))
        places[value] = place
    for right, left in mirrored.items():
        places[right] = places[left] * np.array([-1, 1, 1])
    return {value: places[value] for value in labels.values}


def _room(places: np.ndarray) -> float:
    """Half the smallest distance between two places, at most a third."""
    if len(places) == 1:
        return 1 / 3
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1)
    return float(min(apart[np.triu_indices(len(places), 1)].min() / 2, 1 / 3))


def _plain(name: str) -> str:
    """A name without its side: left and right look alike."""
    return SIDE.sub("", name.lower()).strip()


def _share(text: str) -> float:
    """A number from 0 to 1 that belongs to the text."""
    return hashlib.sha256(text.encode()).digest()[0] / 255
