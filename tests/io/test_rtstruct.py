"""RT Structure Sets: filled again, their contours give the voxels they were drawn around."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.io.contours import outlines
from medseg.io.dicom.read import read_series
from medseg.io.dicom.series import find_series
from medseg.io.rtstruct import write_rtstruct
from medseg.volume import Grid, LabelTable, LabelVolume
from tests.io.made_series import LPS, MadeSeries, made_labels, oblique, turned

SERIES = {
    "axial": MadeSeries(),
    "oblique": MadeSeries(cosines=oblique(17, -8)),
    "sagittal": MadeSeries(cosines=(0, 1, 0, 0, 0, -1)),
    "enhanced": MadeSeries(cosines=oblique(-30, 4), multi_frame=True),
}


def filled(polygon: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Which pixel centers (column, row) lie in a polygon, by the even-odd rule."""
    columns, rows = np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), indexing="ij")
    inside = np.zeros(shape, bool)
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if y0 != y1:
            crosses = (y0 <= rows) != (y1 <= rows)
            inside ^= crosses & (columns < x0 + (rows - y0) / (y1 - y0) * (x1 - x0))
    return inside


def rasterized(path: Path, grid: Grid) -> dict[int, np.ndarray]:
    """The voxels of `grid` in the contours of each ROI; no two contours share one."""
    to_voxel = np.linalg.inv(LPS @ grid.affine)
    found = {}
    for region in pydicom.dcmread(path).ROIContourSequence:
        times = np.zeros(grid.shape, int)
        for contour in region.get("ContourSequence", []):
            points = np.array(contour.ContourData, float).reshape(-1, 3)
            voxels = points @ to_voxel[:3, :3].T + to_voxel[:3, 3]
            plane = round(float(voxels[0, 2]))
            assert np.abs(voxels[:, 2] - plane).max() < 1e-4
            times[:, :, plane] += filled(voxels[:, :2], grid.shape[:2])
        assert times.max() <= 1
        found[int(region.ReferencedROINumber)] = times > 0
    return found


@settings(max_examples=150, derandomize=True, deadline=None)
@given(
    st.integers(1, 9).flatmap(
        lambda rows: st.lists(
            st.lists(st.booleans(), min_size=7, max_size=7), min_size=rows, max_size=rows
        )
    )
)
def test_outlines_of_any_mask_hold_its_pixels_and_no_others(mask: list[list[bool]]) -> None:
    array = np.array(mask)
    times = np.zeros(array.T.shape, int)
    for polygon in outlines(array):
        assert len(polygon) >= 3
        times += filled(polygon, times.shape)
    assert times.max(initial=0) <= 1
    assert np.array_equal(times.T > 0, array)


def test_nested_rings_and_many_holes_are_joined_by_keyholes() -> None:
    mask = np.ones((41, 41), bool)
    mask[2:39, 2:39] = False
    mask[5:36, 5:36] = True
    mask[7:34:4, 7:34:4] = False
    mask[10:20, 10:14] = False
    polygons = list(outlines(mask))
    assert len(polygons) == 2
    times = sum(filled(polygon, mask.T.shape).astype(int) for polygon in polygons)
    assert np.array_equal(times.T, mask.astype(int))


@pytest.mark.parametrize("name", SERIES)
def test_filled_contours_are_the_voxels_of_each_label(tmp_path: Path, name: str) -> None:
    series = SERIES[name]
    labels = made_labels(series.grid)
    files = series.write(tmp_path / "ct")
    write_rtstruct(tmp_path / "a.dcm", turned(labels, (2, 0, 1), (0, 2)), files, model_name="m")
    found = rasterized(tmp_path / "a.dcm", labels.grid)
    assert set(found) == set(labels.table.values)
    for value, mask in found.items():
        assert mask.any()
        assert np.array_equal(mask, labels.array == value)


@pytest.mark.parametrize("name", SERIES)
def test_each_contour_refers_to_the_slice_it_is_drawn_on(tmp_path: Path, name: str) -> None:
    series = SERIES[name]
    files = series.write(tmp_path / "ct")
    write_rtstruct(tmp_path / "a.dcm", made_labels(series.grid), files, model_name="m")
    result = pydicom.dcmread(tmp_path / "a.dcm")
    images = {image.SOPInstanceUID: image for image in map(pydicom.dcmread, files)}
    normal = np.cross(*np.array(series.cosines, float).reshape(2, 3))
    count = 0
    for region in result.ROIContourSequence:
        for contour in region.ContourSequence:
            (reference,) = contour.ContourImageSequence
            part = images[reference.ReferencedSOPInstanceUID]
            if series.multi_frame:
                group = part.PerFrameFunctionalGroupsSequence[reference.ReferencedFrameNumber - 1]
                part = group.PlanePositionSequence[0]
            points = np.array(contour.ContourData, float).reshape(-1, 3)
            off = (points - np.array(part.ImagePositionPatient, float)) @ normal
            assert np.abs(off).max() < 1e-4
            count += 1
    assert count > 20
    frame = result.ReferencedFrameOfReferenceSequence[0]
    listed = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0].ContourImageSequence
    assert len(listed) == series.count


def test_coordinates_have_at_most_16_characters_and_counts_are_true(tmp_path: Path) -> None:
    series = MadeSeries(
        cosines=oblique(12.345, 1.2345), first_lps_mm=(-1234.56789, 0.1 / 3, -9876.54321)
    )
    files = series.write(tmp_path / "ct")
    write_rtstruct(tmp_path / "a.dcm", made_labels(series.grid), files, model_name="m")
    count = 0
    for region in pydicom.dcmread(tmp_path / "a.dcm").ROIContourSequence:
        for contour in region.ContourSequence:
            raw = contour.get_item("ContourData").value
            texts = raw.decode().strip().split("\\")
            assert max(len(text) for text in texts) <= 16
            assert len(texts) == 3 * contour.NumberOfContourPoints
            count += 1
    assert count > 20


def test_an_absent_label_is_named_and_has_no_contour(tmp_path: Path) -> None:
    series = SERIES["axial"]
    empty = LabelVolume(
        np.zeros(series.grid.shape, np.uint8),
        series.grid,
        LabelTable.from_names({2: "a", 9: "Ödem"}),
    )
    write_rtstruct(tmp_path / "a.dcm", empty, series.write(tmp_path / "ct"), model_name="m")
    result = pydicom.dcmread(tmp_path / "a.dcm")
    assert [one.ROIName for one in result.StructureSetROISequence] == ["a", "Ödem"]
    assert [one.ReferencedROINumber for one in result.ROIContourSequence] == [2, 9]
    assert not any("ContourSequence" in one for one in result.ROIContourSequence)


def test_a_contour_of_more_than_64_kib_is_whole(tmp_path: Path) -> None:
    series = MadeSeries(rows=64, columns=64, count=2, cosines=oblique(3, 3))
    array = np.zeros(series.grid.shape, np.uint8)
    array[1:-1, 1:-1] = 1
    array[2:-2:2, 2:-2:2] = 0
    labels = LabelVolume(array, series.grid, LabelTable.from_names({1: "sieve"}))
    write_rtstruct(tmp_path / "a.dcm", labels, series.write(tmp_path / "ct"), model_name="m")
    contour = pydicom.dcmread(tmp_path / "a.dcm").ROIContourSequence[0].ContourSequence[0]
    assert len(contour.get_item("ContourData").value) > 1 << 16
    found = rasterized(tmp_path / "a.dcm", series.grid)
    assert np.array_equal(found[1], array == 1)


def test_a_real_series_is_drawn_on_where_it_lies(tmp_path: Path, shared_data: Path) -> None:
    files = sorted((shared_data / "dicom" / "brain_tumor_mr" / "36468-FLAIRreg-58706").iterdir())
    volume = read_series(find_series(files)[0], "flair").volume
    array = (volume.array[0] > np.percentile(volume.array, 99.5)).astype(np.uint8)
    array[:, :, ::2] = 0
    labels = LabelVolume(array, volume.grid, LabelTable.from_names({1: "bright"}))
    write_rtstruct(tmp_path / "a.dcm", labels, files, model_name="m")
    assert np.array_equal(rasterized(tmp_path / "a.dcm", volume.grid)[1], array == 1)


@pytest.mark.external
@pytest.mark.parametrize("name", SERIES)
def test_dciodvfy_finds_no_error_in_what_is_written(tmp_path: Path, name: str) -> None:
    program = shutil.which("dciodvfy")
    if program is None:
        pytest.skip("dciodvfy is not installed (Debian: dicom3tools)")
    series = SERIES[name]
    files = series.write(tmp_path / "ct")
    labels = made_labels(series.grid)
    empty = LabelVolume(np.zeros_like(labels.array), labels.grid, labels.table)
    for number, one in enumerate((labels, empty)):
        path = tmp_path / f"{number}.dcm"
        write_rtstruct(path, one, files, model_name="m")
        done = subprocess.run([program, str(path)], capture_output=True, text=True, timeout=60)
        assert done.stderr.splitlines()[0] == "RTStructureSet"
        assert [line for line in done.stderr.splitlines() if line.startswith("Error")] == []
