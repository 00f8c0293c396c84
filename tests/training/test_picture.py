"""The picture shows truth and prediction in the labels' own colors, and names them."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from medseg.training.picture import write_picture
from medseg.volume import Label, LabelTable, Target

RED, BLUE, GREEN = (255, 0, 0), (0, 0, 255), (0, 255, 0)
TARGET = Target(
    LabelTable((Label(1, "front", RED), Label(2, "back", BLUE), Label(3, "nowhere", GREEN)))
)


def test_each_row_has_the_outlines_of_its_own_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named: list[str] = []
    legend = Figure.legend

    def kept(figure: Figure, **options: object) -> object:
        named.extend(line.get_label() for line in options["handles"])
        return legend(figure, **options)

    monkeypatch.setattr(Figure, "legend", kept)
    truth, prediction = np.zeros((2, 12, 16, 10), np.uint8)
    truth[3:9, 3:12, 2:8] = 1
    prediction[3:9, 3:12, 2:8] = 2
    path = tmp_path / "picture.png"
    image = np.random.default_rng(0).normal(size=(2, 12, 16, 10)).astype(np.float32)
    write_picture(
        path, image=image, truth=truth, prediction=prediction, target=TARGET, title="case"
    )
    pixels = imread(path)[..., :3]
    middle = len(pixels) // 2
    upper, lower = pixels[:middle], pixels[middle : int(0.93 * len(pixels))]
    assert _has(upper, RED)
    assert not _has(upper, BLUE)
    assert _has(lower, BLUE)
    assert not _has(lower, RED)
    assert named == ["front", "back"]


def test_a_case_of_one_slice_is_drawn(tmp_path: Path) -> None:
    truth = np.zeros((12, 16, 1), np.uint8)
    truth[3:9, 3:12] = 1
    image = np.random.default_rng(0).normal(size=(1, 12, 16, 1)).astype(np.float32)
    path = tmp_path / "picture.png"
    write_picture(path, image=image, truth=truth, prediction=truth, target=TARGET, title="case")
    assert _has(imread(path)[..., :3], RED)


def test_a_case_without_any_label_is_drawn(tmp_path: Path) -> None:
    empty = np.zeros((5, 6, 7), np.uint8)
    path = tmp_path / "picture.png"
    image = np.zeros((1, 5, 6, 7), np.float32)
    write_picture(path, image=image, truth=empty, prediction=empty, target=TARGET, title="case")
    assert imread(path).size


def _has(pixels: np.ndarray, color: tuple[int, int, int]) -> bool:
    return bool((np.abs(pixels - np.array(color) / 255).max(axis=-1) < 0.2).any())
