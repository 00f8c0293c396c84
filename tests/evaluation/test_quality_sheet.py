"""The picture shows what is there, on the side where it is, and says when nothing is."""

import io
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medseg.evaluation.quality_sheet import (
    ACROSS,
    BACK,
    DOWN,
    FAULT,
    GAP,
    PANEL,
    TITLE,
    _counted,
    _place,
    _view_of,
    contact_sheet,
    draw_sheet,
    sheet_of,
)
from medseg.evaluation.slices import to_ras
from medseg.volume import Grid, Label, LabelTable, LabelVolume, Volume

RED, GREEN = (230, 20, 20), (20, 230, 20)
TABLE = LabelTable([Label(1, "right one", RED), Label(2, "left one", GREEN)])
SHAPE = (60, 50, 40)
# One voxel order each: RAS, and LPI stored k first.
RAS = np.diag([2.0, 2.0, 3.0, 1.0])
TURNED = np.array([[0, 0, -2.0, 118], [0, -2.0, 0, 98], [-3.0, 0, 0, 117], [0, 0, 0, 1]])


def case(*, empty: bool = False) -> tuple[Volume, LabelVolume]:
    """The patient's right (low i) holds label 1, left label 2; front and top are bright."""
    i, j, k = np.meshgrid(*map(np.arange, SHAPE), indexing="ij")
    image = (j * 4 + k * 2).astype(np.float32)
    labels = np.zeros(SHAPE, dtype=np.uint8)
    if not empty:
        labels[(i < 20) & (i > 8) & (abs(j - 25) < 8) & (abs(k - 20) < 6)] = 2
        labels[(i > 36) & (i < 50) & (abs(j - 25) < 8) & (abs(k - 20) < 6)] = 1
    grid = Grid(SHAPE, RAS)
    return Volume(image[None], grid, ("CT",)), LabelVolume(labels, grid, TABLE)


def turned(volume: Volume, labels: LabelVolume) -> tuple[Volume, LabelVolume]:
    """The same voxels in space, stored the other way round."""
    grid = Grid((SHAPE[2], SHAPE[1], SHAPE[0]), TURNED)

    def stored(array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(array.transpose(2, 1, 0)[::-1, ::-1, ::-1])

    return (
        Volume(stored(volume.array[0])[None], grid, volume.channels),
        LabelVolume(stored(labels.array), grid, TABLE),
    )


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def panel(png: bytes, number: int) -> np.ndarray:
    x = GAP + number * (PANEL + GAP)
    return pixels(png)[TITLE : TITLE + PANEL, x : x + PANEL]


def columns_of(shown: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    return np.flatnonzero((np.abs(shown - color).sum(axis=2) < 12).any(axis=0))


def test_the_patients_right_is_on_the_left_of_axial_and_coronal_planes() -> None:
    png = sheet_of(*case(), title="a")
    for number in (0, 1):
        shown = panel(png, number)
        right, left = columns_of(shown, RED), columns_of(shown, GREEN)
        assert right.size
        assert left.size
        assert right.max() < left.min()


def test_the_front_is_on_top_of_the_axial_plane_and_on_the_left_of_the_sagittal_one() -> None:
    png = sheet_of(*case(empty=True), title="a")
    axial, sagittal = panel(png, 0).sum(axis=2), panel(png, 2).sum(axis=2)
    rows = slice(40, PANEL - 40)
    assert axial[40:90, 200].mean() > axial[-90:-40, 200].mean()
    assert sagittal[rows, 40:90].mean() > sagittal[rows, -90:-40].mean()


def test_how_a_volume_is_stored_does_not_matter() -> None:
    assert sheet_of(*case(), title="a") == sheet_of(*turned(*case()), title="a")


def test_every_voxel_is_counted_without_a_copy_of_the_volume() -> None:
    values = np.zeros((90, 80, 70), dtype=np.uint16, order="F")
    values[::3, 5:30, 7] = 2
    values[40, 60, 30:50] = 1
    flipped = values[::-1, :, ::-1]
    tracemalloc.start()
    areas, counts = _counted(flipped, 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < values.nbytes / 2
    assert counts.tolist() == [values.size - 770, 20, 750]
    for axis, area in enumerate(areas):
        others = tuple(other for other in range(3) if other != axis)
        assert area.tolist() == (flipped > 0).sum(axis=others).tolist()


def test_where_a_plane_lies_is_told_in_millimeters_however_it_is_stored() -> None:
    for stored in (case(), turned(*case())):
        values, grid = to_ras(stored[1].array, stored[1].grid), stored[1].grid
        view = _view_of(_counted(values, 3)[0], grid)
        # 2 mm a voxel from the middle of the first one; 3 mm along the body.
        told = [_place(view, axis, grid) for axis in range(3)]
        assert told == [
            f"slice {at + 1} of {side}, {toward} {at * step} mm"
            for at, side, toward, step in zip(view.center, SHAPE, "RAS", (2, 2, 3), strict=True)
        ]
    far = np.array(RAS)
    far[:3, 3] = -1000
    assert [_place(view, axis, Grid(SHAPE, far)).split(", ")[1][0] for axis in range(3)] == [*"LPI"]


def test_millimeters_are_square() -> None:
    png = sheet_of(*case(), title="a")
    red = np.abs(panel(png, 1) - RED).sum(axis=2) < 12
    rows, columns = np.flatnonzero(red.any(axis=1)), np.flatnonzero(red.any(axis=0))
    # 13 voxels of 2 mm across, 11 of 3 mm up.
    assert np.ptp(rows) / np.ptp(columns) == pytest.approx(33 / 26, rel=0.05)


def test_a_case_without_any_label_says_so() -> None:
    def fault(png: bytes) -> int:
        return int((np.abs(pixels(png) - FAULT).sum(axis=2) < 12).sum())

    assert fault(sheet_of(*case(empty=True), title="a")) > 1000
    assert fault(sheet_of(*case(), title="a")) == 0


def test_an_image_of_one_value_and_of_one_voxel_is_drawn() -> None:
    for shape in ((1, 1, 1), (5, 4, 3)):
        grid = Grid.from_spacing(shape)
        volume = Volume(np.full((1, *shape), 7.0, dtype=np.float32), grid, ("CT",))
        labels = LabelVolume(np.ones(shape, dtype=np.uint8), grid, TABLE)
        assert columns_of(panel(sheet_of(volume, labels, title="a"), 0), RED).size


def test_many_labels_are_named_up_to_a_number(tmp_path: Path) -> None:
    many = LabelTable.from_names({n: f"organ {n}" for n in range(1, 200)})
    grid = Grid.from_spacing(SHAPE)
    labels = (np.arange(np.prod(SHAPE)) % 200).reshape(SHAPE).astype(np.uint8)
    volume = Volume(np.zeros((1, *SHAPE), dtype=np.float32), grid, ("CT",))
    draw_sheet(tmp_path / "a.png", volume, LabelVolume(labels, grid, many), title="a")
    with Image.open(tmp_path / "a.png") as image:
        assert image.height < 700


def test_a_contact_sheet_holds_every_case_in_the_order_of_names(tmp_path: Path) -> None:
    draw_sheet(tmp_path / "one.png", *case(), title="one")
    draw_sheet(tmp_path / "none.png", *case(empty=True), title="none")
    sheets = [("b", tmp_path / "one.png"), ("a", tmp_path / "none.png")]
    (path,) = contact_sheet(tmp_path / "all.png", sheets, faults={"c": "E_NONFINITE"})
    shown = pixels(path.read_bytes())
    width = (shown.shape[1] - GAP) // 3
    first, second, third = (shown[:, GAP + n * width : GAP + (n + 1) * width] for n in range(3))
    # Colors fade where a picture is made smaller; which of them is the strongest stays.
    assert not ((first[..., 1] - first[..., 0]) > 60).any()
    assert ((second[..., 1] - second[..., 0]) > 60).any()
    assert (np.abs(third - FAULT).sum(axis=2) < 12).any()


def test_more_cases_than_a_page_holds_go_on_the_next(tmp_path: Path) -> None:
    faults = {f"case {n:03}": "E_TEST" for n in range(ACROSS * DOWN + 1)}
    written = contact_sheet(tmp_path / "all.png", [], faults=faults)
    assert [path.name for path in written] == ["all.png", "all-2.png"]
    assert pixels(written[1].read_bytes())[0, 0].tolist() == list(BACK)
