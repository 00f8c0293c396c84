"""Segmentations of 3D Slicer: what is written is read by others, what others write is read here."""

import zlib
from itertools import permutations, product
from pathlib import Path

import nrrd
import numpy as np
import pytest
import SimpleITK
import slicerio

from medseg.fault import InputFault
from medseg.io.nrrd import read_seg_nrrd, write_seg_nrrd
from medseg.volume import Grid, Label, LabelTable, LabelVolume
from tests.io.made_series import LPS, MadeSeries, made_labels, oblique, refuse_moved, turned

GRID = MadeSeries(cosines=oblique(25, 40)).grid
SAMPLES = Path(slicerio.__file__).parent / "data"
TURNS = [
    (order, tuple(n for n in range(3) if bits[n]))
    for order in permutations(range(3))
    for bits in product((0, 1), repeat=3)
]


@pytest.mark.parametrize("values", [(1, 2), (3, 700), (65_535,)])
def test_voxels_places_names_and_colors_come_back(tmp_path: Path, values: tuple[int, ...]) -> None:
    table = LabelTable.from_names({value: f"label {value}" for value in values})
    array = np.zeros(GRID.shape, np.uint16)
    array[5:20, 3:9, 2:4], array[1, 1, 1] = values[0], values[-1]
    labels = LabelVolume(array, GRID, table)
    write_seg_nrrd(tmp_path / "a.seg.nrrd", labels)
    again = read_seg_nrrd(tmp_path / "a.seg.nrrd")
    assert np.array_equal(again.array, array)
    assert np.array_equal(again.grid.affine, GRID.affine)
    assert [(one.name, one.color) for one in again.table.labels] == [
        (one.name, one.color) for one in table.labels
    ]


def test_every_order_and_direction_of_axes_keeps_its_places(tmp_path: Path) -> None:
    labels = made_labels(GRID)
    seen = set()
    for order, flips in TURNS:
        other = turned(labels, order, flips)
        seen.add(other.grid.axis_codes)
        write_seg_nrrd(tmp_path / "a.seg.nrrd", other)
        refuse_moved(labels, read_seg_nrrd(tmp_path / "a.seg.nrrd"))
    assert len(seen) == len(TURNS) == 48


def test_pynrrd_simpleitk_and_slicerio_read_the_same(tmp_path: Path) -> None:
    labels = made_labels(GRID, names={1: "a", 2: "b", 5: "c"})
    path = tmp_path / "a.seg.nrrd"
    write_seg_nrrd(path, labels)

    array, header = nrrd.read(str(path))
    assert np.array_equal(array, labels.array)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = header["space directions"].T, header["space origin"]
    assert np.allclose(LPS @ affine, labels.grid.affine, atol=1e-12)

    image = SimpleITK.ReadImage(str(path))
    for voxel in ((0, 0, 0), (36, 28, 10), (3, 20, 7)):
        point = LPS[:3, :3] @ image.TransformIndexToPhysicalPoint(voxel)
        assert np.allclose(point, labels.grid.voxel_to_world(np.array([voxel]))[0], atol=1e-6)
    assert np.array_equal(SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0), labels.array)

    read = slicerio.read_segmentation(str(path))
    assert np.array_equal(read["voxels"], labels.array)
    assert [one["labelValue"] for one in read["segments"]] == [1, 2, 5]
    assert [one["name"] for one in read["segments"]] == ["a", "b", "c"]
    for segment, label in zip(read["segments"], labels.table.labels, strict=True):
        points = np.argwhere(labels.array == label.value)
        bounds = np.stack([points.min(axis=0), points.max(axis=0)]).T.ravel().tolist()
        assert segment["extent"] == bounds
        assert np.allclose(np.array(segment["color"]) * 255, label.color, atol=1e-3)


def test_codes_are_written_as_slicer_writes_them(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "datasets" / "labels" / "abdomen.csv").read_text()
    table = LabelTable.from_csv(text, place="abdomen.csv")
    labels = LabelVolume(np.full(GRID.shape, 2, np.uint8), GRID, table)
    write_seg_nrrd(tmp_path / "a.seg.nrrd", labels)
    entry = slicerio.read_segmentation(str(tmp_path / "a.seg.nrrd"))["segments"][1]["terminology"]
    assert entry["category"] == ["SCT", "123037004", "Anatomical Structure"]
    assert entry["type"] == ["SCT", "64033007", "Kidney"]
    assert entry["typeModifier"] == ["SCT", "24028007", "Right"]
    assert read_seg_nrrd(tmp_path / "a.seg.nrrd").table == table


def test_slicers_own_sample_is_read_and_survives_a_round_trip(tmp_path: Path) -> None:
    sample = read_seg_nrrd(SAMPLES / "Segmentation.seg.nrrd")
    theirs = slicerio.read_segmentation(str(SAMPLES / "Segmentation.seg.nrrd"))
    assert np.array_equal(sample.array, theirs["voxels"])
    assert np.allclose(LPS @ sample.grid.affine, theirs["ijkToLPS"])
    assert sample.table.names[4:6] == ("right lung", "left lung")
    assert sample.table[5].codes["TypeModifier_CodeMeaning"] == "Right"
    write_seg_nrrd(tmp_path / "a.seg.nrrd", sample)
    again = read_seg_nrrd(tmp_path / "a.seg.nrrd")
    assert again.table == sample.table
    refuse_moved(sample, again)


def test_segments_that_overlap_are_refused() -> None:
    with pytest.raises(InputFault, match="15514 voxels") as told:
        read_seg_nrrd(SAMPLES / "SegmentationOverlapping.seg.nrrd")
    assert told.value.code == "E_OVERLAP"


def test_layers_that_do_not_overlap_are_merged(tmp_path: Path) -> None:
    layers = np.zeros((2, 4, 3, 5), np.uint8)
    layers[0, 1], layers[1, 2] = 1, 1
    path = tmp_path / "a.seg.nrrd"
    header = _header(
        ("dimension: 3", "dimension: 4"),
        ("sizes: 4 3 5", "sizes: 2 4 3 5"),
        ("space directions: ", "space directions: none "),
        ("kinds: domain", "kinds: list domain"),
    )
    header += "Segment1_Name:=two\nSegment1_LabelValue:=1\nSegment1_Layer:=1\n"
    path.write_bytes(header.encode() + b"\n" + layers.tobytes(order="F"))
    merged = read_seg_nrrd(path)
    assert merged.table.names == ("one", "two")
    assert np.array_equal(merged.array, layers[0] + 2 * layers[1])


@pytest.mark.parametrize("name", ["tumor ~ core^x|y:z", "two\nlines", "back\\slash", "Ödem"])
def test_names_with_separators_break_nothing(tmp_path: Path, name: str) -> None:
    table = LabelTable([Label(1, name, (1, 2, 3)), Label(2, "other", (255, 0, 128))])
    labels = LabelVolume(np.ones((4, 3, 5), np.uint8), Grid.from_spacing((4, 3, 5)), table)
    write_seg_nrrd(tmp_path / "a.seg.nrrd", labels)
    again = read_seg_nrrd(tmp_path / "a.seg.nrrd")
    assert again.table.names == table.names
    assert [one.color for one in again.table.labels] == [(1, 2, 3), (255, 0, 128)]
    assert len(slicerio.read_segmentation(str(tmp_path / "a.seg.nrrd"))["segments"]) == 2


def _header(*changes: tuple[str, str]) -> str:
    text = (
        "NRRD0004\ntype: uint8\ndimension: 3\nspace: left-posterior-superior\nsizes: 4 3 5\n"
        "space directions: (1,0,0) (0,1,0) (0,0,2)\nkinds: domain domain domain\nencoding: raw\n"
        "space origin: (0,0,0)\nSegment0_Name:=one\nSegment0_LabelValue:=1\nSegment0_Layer:=0\n"
    )
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    return text


def test_the_plain_header_of_the_cases_below_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.seg.nrrd").write_bytes(_header().encode() + b"\n" + bytes(60))
    assert read_seg_nrrd(tmp_path / "a.seg.nrrd").grid.spacing_mm == (1, 1, 2)


FAULTS = {
    "no magic": (("NRRD0004", "XRRD0004"), "E_FORMAT"),
    "future version": (("NRRD0004", "NRRD0009"), "E_FORMAT"),
    "no space": (("space: left-posterior-superior\n", ""), "E_SPACE"),
    "scanner space": (("left-posterior-superior", "scanner-xyz"), "E_SPACE"),
    "two dimensions": (("dimension: 3", "dimension: 2"), "E_FORMAT"),
    "sizes missing": (("sizes: 4 3 5", "sizes: 4 3"), "E_FORMAT"),
    "negative size": (("sizes: 4 3 5", "sizes: 4 3 -5"), "E_FORMAT"),
    "huge": (("sizes: 4 3 5", "sizes: 9999 9999 9999"), "E_TRUNC"),
    "floating": (("type: uint8", "type: float"), "E_FORMAT"),
    "no endian": (("type: uint8", "type: uint16"), "E_FORMAT"),
    "hex": (("encoding: raw", "encoding: hex"), "E_FORMAT"),
    "gzip that is none": (("encoding: raw", "encoding: gzip"), "E_GZIP"),
    "detached": (("encoding: raw", "encoding: raw\ndata file: b.raw"), "E_FORMAT"),
    "skip": (("encoding: raw", "encoding: raw\nbyte skip: -1"), "E_FORMAT"),
    "field twice": (("encoding: raw", "encoding: raw\nencoding: raw"), "E_FORMAT"),
    "singular": (("(0,0,2)", "(1,0,0)"), "E_AFFINE"),
    "not a number": (("(0,0,2)", "(0,0,nan)"), "E_FORMAT"),
    "two directions": ((" (0,0,2)", ""), "E_FORMAT"),
    "meters": (("encoding: raw", 'encoding: raw\nspace units: "m" "m" "m"'), "E_SPACE"),
    "no segment": (("Segment0_Name:=one\nSegment0_LabelValue:=1\nSegment0_Layer:=0\n", ""), "E_FO"),
    "layer beyond": (("Layer:=0", "Layer:=1"), "E_FORMAT"),
    "value zero": (("LabelValue:=1", "LabelValue:=0"), "E_FORMAT"),
    "value no number": (("LabelValue:=1", "LabelValue:=one"), "E_FORMAT"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_header_that_cannot_be_trusted_is_refused(tmp_path: Path, name: str) -> None:
    change, code = FAULTS[name]
    path = tmp_path / "a.seg.nrrd"
    path.write_bytes(_header(change).encode() + b"\n" + bytes(60))
    with pytest.raises(InputFault) as told:
        read_seg_nrrd(path)
    assert told.value.code.startswith(code)
    assert str(path) in str(told.value)


def test_voxels_of_no_segment_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.seg.nrrd").write_bytes(_header().encode() + b"\n" + bytes(59) + b"\2")
    with pytest.raises(InputFault, match="label value 2") as told:
        read_seg_nrrd(tmp_path / "a.seg.nrrd")
    assert told.value.code == "E_LABEL"


def test_a_file_cut_anywhere_or_with_a_wrong_checksum_is_refused(tmp_path: Path) -> None:
    labels = made_labels(GRID)
    write_seg_nrrd(tmp_path / "a.seg.nrrd", labels)
    whole = (tmp_path / "a.seg.nrrd").read_bytes()
    path = tmp_path / "b.seg.nrrd"
    start = whole.index(b"\n\n") + 2
    damaged = [whole[:-4] + bytes(4), whole[: start + 3], whole[:start], whole[:40], b"NRRD0004"]
    damaged += [whole[: len(whole) - cut] for cut in (1, 8, 100)]
    for data in damaged:
        path.write_bytes(data)
        with pytest.raises(InputFault) as told:
            read_seg_nrrd(path)
        assert told.value.code in ("E_GZIP", "E_TRUNC", "E_FORMAT", "E_TOOBIG")


def test_a_packed_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "a.seg.nrrd"
    header = _header(("encoding: raw", "encoding: gzip"))
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    data = packer.compress(bytes(1 << 24)) + packer.flush()
    path.write_bytes(header.encode() + b"\n" + data)
    with pytest.raises(InputFault) as told:
        read_seg_nrrd(path)
    assert told.value.code == "E_BOMB"


def test_another_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputFault) as told:
        write_seg_nrrd(tmp_path / "a.nrrd", made_labels(GRID))
    assert told.value.code == "E_SUFFIX"
    assert not list(tmp_path.iterdir())
