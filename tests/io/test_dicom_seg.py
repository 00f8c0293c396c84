"""DICOM SEG: the same voxels at the same places, for the same patient, in every direction."""

import logging
import shutil
import subprocess
from itertools import permutations, product
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from medseg.fault import InputFault
from medseg.io.dicom.read import read_series
from medseg.io.dicom.series import find_series
from medseg.io.dicom_seg import write_dicom_seg, write_fractional_seg
from medseg.io.dicom_seg_read import read_dicom_seg
from medseg.volume import Grid, LabelTable, LabelVolume
from tests.io.made_series import (
    CANARY_ID,
    CANARY_NAME,
    LPS,
    MadeSeries,
    made_labels,
    oblique,
    refuse_moved,
    turned,
)

AXIAL = MadeSeries()
OBLIQUE = MadeSeries(cosines=oblique(17, -8))
SAGITTAL = MadeSeries(cosines=(0, 1, 0, 0, 0, -1))
BACKWARD = MadeSeries(cosines=(-1, 0, 0, 0, 1, 0))
ENHANCED = MadeSeries(cosines=oblique(-30, 4), multi_frame=True)
SERIES = {
    "axial": AXIAL,
    "oblique": OBLIQUE,
    "sagittal": SAGITTAL,
    "backward": BACKWARD,
    "enhanced": ENHANCED,
}
KINDS = ("binary", "labelmap")
TURNS = [
    (order, flips)
    for order in permutations(range(3))
    for flips in (tuple(n for n in range(3) if bits[n]) for bits in product((0, 1), repeat=3))
]


@pytest.fixture(scope="module")
def oblique_files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return OBLIQUE.write(tmp_path_factory.mktemp("oblique"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SERIES)
def test_what_is_read_back_has_each_voxel_where_it_was(
    tmp_path: Path, name: str, kind: str
) -> None:
    labels = made_labels(SERIES[name].grid)
    write_dicom_seg(
        tmp_path / "a.dcm", labels, SERIES[name].write(tmp_path / "ct"), kind=kind, model_name="m"
    )
    again = read_dicom_seg(tmp_path / "a.dcm", table=labels.table)
    refuse_moved(labels, again)
    if kind == "labelmap":
        assert again.grid.shape == SERIES[name].grid.shape


def test_the_order_and_direction_of_the_axes_do_not_matter(
    tmp_path: Path, oblique_files: list[Path]
) -> None:
    labels = made_labels(OBLIQUE.grid)
    seen = set()
    for order, flips in TURNS:
        other = turned(labels, order, flips)
        seen.add(other.grid.axis_codes)
        write_dicom_seg(tmp_path / "a.dcm", other, oblique_files, model_name="m")
        refuse_moved(labels, read_dicom_seg(tmp_path / "a.dcm", table=labels.table))
        assert all(_sources(tmp_path / "a.dcm"))
    assert len(seen) == len(TURNS) == 48


@pytest.mark.parametrize("kind", KINDS)
def test_highdicom_reads_the_same_voxels_at_the_same_places(
    tmp_path: Path, oblique_files: list[Path], kind: str
) -> None:
    labels = made_labels(OBLIQUE.grid)
    path = tmp_path / "a.dcm"
    write_dicom_seg(path, turned(labels, (2, 0, 1), (1,)), oblique_files, kind=kind, model_name="m")
    volume = hd.seg.segread(path).get_volume(combine_segments=True)
    grid = Grid(volume.spatial_shape, LPS @ volume.affine)
    array = volume.array.astype(np.uint8)
    values = dict(zip(labels.table.values, (1, 2, 3), strict=True)) if kind == "binary" else None
    names = LabelTable.from_names({n: str(n) for n in range(1, 8)})
    refuse_moved(labels, LabelVolume(array, grid, names), values)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["oblique", "enhanced"])
def test_each_frame_refers_to_the_slice_it_lies_on(tmp_path: Path, name: str, kind: str) -> None:
    series = SERIES[name]
    files = series.write(tmp_path / "ct")
    path = tmp_path / "a.dcm"
    write_dicom_seg(path, made_labels(series.grid), files, kind=kind, model_name="m")
    places = _source_places(files)
    frames = _sources(path)
    assert frames
    for group, source in zip(
        pydicom.dcmread(path).PerFrameFunctionalGroupsSequence, frames, strict=True
    ):
        key = (source.ReferencedSOPInstanceUID, source.get("ReferencedFrameNumber"))
        position = group.PlanePositionSequence[0].ImagePositionPatient
        assert np.allclose(places[key], np.array(position, float), atol=1e-6)
        assert source.SpatialLocationsPreserved == "YES"


def test_a_grid_of_its_own_keeps_its_places_and_the_series(
    tmp_path: Path, oblique_files: list[Path]
) -> None:
    affine = OBLIQUE.grid.affine.copy()
    affine[:3, 2] *= 0.4
    affine[:3, 3] += 0.3
    labels = made_labels(Grid((41, 30, 25), affine))
    write_dicom_seg(tmp_path / "a.dcm", labels, oblique_files, model_name="m")
    refuse_moved(labels, read_dicom_seg(tmp_path / "a.dcm", table=labels.table))
    seg = pydicom.dcmread(tmp_path / "a.dcm")
    assert seg.FrameOfReferenceUID == pydicom.dcmread(oblique_files[0]).FrameOfReferenceUID
    assert len(seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == len(oblique_files)
    measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert float(measures.SpacingBetweenSlices) == pytest.approx(0.4 * OBLIQUE.gap_mm)


def test_a_part_of_the_slices_still_refers_to_them(
    tmp_path: Path, oblique_files: list[Path]
) -> None:
    whole = made_labels(OBLIQUE.grid)
    affine = whole.grid.affine.copy()
    affine[:3, 3] += 4 * affine[:3, 2]
    part = LabelVolume(whole.array[:, :, 4:9], Grid((37, 29, 5), affine), whole.table)
    write_dicom_seg(tmp_path / "a.dcm", part, oblique_files, model_name="m")
    refuse_moved(part, read_dicom_seg(tmp_path / "a.dcm", table=whole.table))
    assert all(_sources(tmp_path / "a.dcm"))


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_label_map_is_a_file_that_is_read(
    tmp_path: Path, oblique_files: list[Path], kind: str
) -> None:
    labels = made_labels(OBLIQUE.grid)
    empty = LabelVolume(np.zeros_like(labels.array), labels.grid, labels.table)
    write_dicom_seg(tmp_path / "a.dcm", empty, oblique_files, kind=kind, model_name="m")
    again = read_dicom_seg(tmp_path / "a.dcm")
    assert again.array.max() == 0
    assert again.table.names == labels.table.names
    assert (tmp_path / "a.dcm").stat().st_size < 60_000


def test_probabilities_are_stored_in_steps_of_a_255th(
    tmp_path: Path, oblique_files: list[Path]
) -> None:
    rng = np.random.default_rng(5)
    grid = OBLIQUE.grid
    probabilities = rng.random((3, *grid.shape), dtype=np.float32)
    probabilities[:, :, :, 3] = 0
    probabilities[1, :, :, 5] = 0.001
    table = LabelTable.from_names({2: "a", 4: "b", 9: "c"})
    write_fractional_seg(
        tmp_path / "a.dcm", probabilities, grid, table, oblique_files, model_name="m"
    )
    seg = hd.seg.segread(tmp_path / "a.dcm")
    assert seg.SegmentationType == "FRACTIONAL"
    assert seg.SegmentsOverlap == "UNDEFINED"
    assert int(seg.NumberOfFrames) == 3 * 10 - 1
    volume = seg.get_volume(combine_segments=False, rescale_fractional=True)
    for number in range(3):
        placed = Grid(volume.spatial_shape, LPS @ volume.affine)
        points = np.argwhere(probabilities[number] > 0.01)
        found = np.rint(placed.world_to_voxel(grid.voxel_to_world(points))).astype(int)
        stored = volume.array[(*found.T, np.full(len(found), number))]
        assert np.abs(stored - probabilities[number][tuple(points.T)]).max() <= 0.5 / 255 + 1e-6


def test_segments_carry_the_codes_and_colors_of_the_table(
    tmp_path: Path, oblique_files: list[Path]
) -> None:
    text = (Path(__file__).parents[2] / "datasets" / "labels" / "abdomen.csv").read_text()
    table = LabelTable.from_csv(text, place="abdomen.csv")
    array = np.zeros(OBLIQUE.grid.shape, np.uint8)
    array.flat[: len(table)] = table.values
    write_dicom_seg(
        tmp_path / "a.dcm", LabelVolume(array, OBLIQUE.grid, table), oblique_files, model_name="m"
    )
    segment = pydicom.dcmread(tmp_path / "a.dcm").SegmentSequence[1]
    kind = segment.SegmentedPropertyTypeCodeSequence[0]
    assert (kind.CodingSchemeDesignator, kind.CodeValue) == ("SCT", "64033007")
    assert kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Right"
    assert read_dicom_seg(tmp_path / "a.dcm").table == table


def test_a_label_without_codes_gets_none_of_a_public_scheme(
    tmp_path: Path, oblique_files: list[Path]
) -> None:
    write_dicom_seg(tmp_path / "a.dcm", made_labels(OBLIQUE.grid), oblique_files, model_name="m")
    seg = pydicom.dcmread(tmp_path / "a.dcm")
    kinds = [item.SegmentedPropertyTypeCodeSequence[0] for item in seg.SegmentSequence]
    assert {kind.CodingSchemeDesignator for kind in kinds} == {"99MEDSEG"}
    assert len({kind.CodeValue for kind in kinds}) == 3
    assert seg.CodingSchemeIdentificationSequence[0].CodingSchemeDesignator == "99MEDSEG"


def test_names_in_any_alphabet_and_of_any_length_come_back(
    tmp_path: Path, oblique_files: list[Path]
) -> None:
    names = {1: "腎臓", 2: "a" * 90, 3: "back\\slash"}
    labels = made_labels(OBLIQUE.grid, names=names)
    write_dicom_seg(tmp_path / "a.dcm", labels, oblique_files, model_name="Modell für Ärzte")
    again = read_dicom_seg(tmp_path / "a.dcm")
    assert again.table.names == ("腎臓", "a" * 90, "back slash")
    assert str(pydicom.dcmread(tmp_path / "a.dcm").PatientName) == CANARY_NAME


def test_a_japanese_patient_keeps_the_name(tmp_path: Path) -> None:
    header = {
        "SpecificCharacterSet": ["", "ISO 2022 IR 87"],
        "PatientName": "Yamada^Tarou=山田^太郎",
    }
    files = MadeSeries(header=header).write(tmp_path / "ct")
    for number, names in enumerate(({1: "plain"}, {1: "Größe"})):
        path = tmp_path / f"{number}.dcm"
        write_dicom_seg(path, made_labels(AXIAL.grid, names=names), files, model_name="m")
        assert str(pydicom.dcmread(path).PatientName) == header["PatientName"]
        assert read_dicom_seg(path).table.names == tuple(names.values())


DIRTY = {
    "PatientSex": "female",
    "PatientBirthDate": "1933-05-07",
    "StudyDate": "20-01-1999",
    "StudyTime": "noon",
    "PatientID": "X" * 80,
    "PatientName": "Single",
    "SpecificCharacterSet": "ISO_IR 100",
    "AccessionNumber": "A" * 40,
}


@pytest.mark.filterwarnings("ignore:Invalid value for VR", "ignore:The value length")
def test_what_is_wrong_or_missing_in_the_header_hinders_nothing_and_is_carried_over(
    tmp_path: Path,
) -> None:
    with pydicom.config.disable_value_validation():
        files = MadeSeries(
            header=DIRTY,
            lacks=("ReferringPhysicianName", "StudyID", "PositionReferenceIndicator"),
        ).write(tmp_path / "ct")
    labels = made_labels(AXIAL.grid)
    write_dicom_seg(tmp_path / "a.dcm", labels, files, model_name="m")
    refuse_moved(labels, read_dicom_seg(tmp_path / "a.dcm", table=labels.table))
    seg = pydicom.dcmread(tmp_path / "a.dcm")
    assert {name: str(seg[name].value) for name in DIRTY if name != "SpecificCharacterSet"} == {
        name: value for name, value in DIRTY.items() if name != "SpecificCharacterSet"
    }
    assert "StudyID" in seg


def test_nothing_of_the_patient_is_logged_or_warned(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    files = MadeSeries(header={"PatientName": "Quetzalcoatl"}).write(tmp_path / "ct")
    with caplog.at_level(logging.DEBUG):
        write_dicom_seg(tmp_path / "a.dcm", made_labels(AXIAL.grid), files, model_name="m")
        read_dicom_seg(tmp_path / "a.dcm")
    told = caplog.text + " ".join(str(one.message) for one in recwarn)
    for canary in ("Quetzalcoatl", CANARY_ID, "4711"):
        assert canary not in told
    assert pydicom.dcmread(tmp_path / "a.dcm").PatientID == CANARY_ID


def test_a_segmentation_with_any_bytes_changed_is_read_or_refused(
    tmp_path: Path, oblique_files: list[Path]
) -> None:
    labels = made_labels(OBLIQUE.grid)
    write_dicom_seg(tmp_path / "a.dcm", labels, oblique_files, kind="labelmap", model_name="m")
    whole = (tmp_path / "a.dcm").read_bytes()
    rng = np.random.default_rng(11)
    outcomes = {"read": 0, "refused": 0}
    told: list[str] = []
    for place in rng.integers(132, len(whole), 400):
        data = bytearray(whole)
        if place % 3:
            data[place] ^= int(rng.integers(1, 256))
        else:
            del data[place : place + int(rng.integers(1, 30))]
        (tmp_path / "b.dcm").write_bytes(data)
        try:
            read_dicom_seg(tmp_path / "b.dcm")
            outcomes["read"] += 1
        except InputFault as fault:
            told.append(str(fault))
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 20
    assert not [text for text in told if "4711" in text]


def _second_series(tmp_path: Path) -> list[Path]:
    files = AXIAL.write(tmp_path / "ct")
    other = pydicom.dcmread(files[0])
    other.SeriesInstanceUID = generate_uid()
    other.SOPInstanceUID = generate_uid()
    other.save_as(tmp_path / "other.dcm")
    return [*files, tmp_path / "other.dcm"]


def _without_frame_of_reference(tmp_path: Path) -> list[Path]:
    return MadeSeries(lacks=("FrameOfReferenceUID",)).write(tmp_path / "ct")


def _cut_file(tmp_path: Path) -> list[Path]:
    files = AXIAL.write(tmp_path / "ct")
    files[3].write_bytes(files[3].read_bytes()[:300])
    return files


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda _: [], "E_NOSOURCE"),
        (_second_series, "E_SERIES"),
        (_without_frame_of_reference, "E_NOFRAME"),
        (_cut_file, "E_"),
    ],
)
def test_sources_that_cannot_be_referred_to_are_refused_and_nothing_is_written(
    tmp_path: Path, make: object, code: str
) -> None:
    with pytest.raises(InputFault) as told:
        write_dicom_seg(tmp_path / "a.dcm", made_labels(AXIAL.grid), make(tmp_path), model_name="m")
    assert told.value.code.startswith(code)
    assert "4711" not in str(told.value)
    assert not list(tmp_path.glob("*a.dcm"))


def test_segments_that_overlap_are_refused(tmp_path: Path, oblique_files: list[Path]) -> None:
    seg = _written(tmp_path, oblique_files)
    for group in seg.PerFrameFunctionalGroupsSequence:
        group.PlanePositionSequence = seg.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence
    assert _code_of(tmp_path, seg) == "E_OVERLAP"


def _drop_half_of_the_pixels(seg: pydicom.Dataset) -> None:
    seg.PixelData = seg.PixelData[: len(seg.PixelData) // 2 // 2 * 2]


def _announce_more_frames(seg: pydicom.Dataset) -> None:
    seg.NumberOfFrames = 10_000


def _move_a_frame(seg: pydicom.Dataset) -> None:
    place = seg.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence[0]
    place.ImagePositionPatient = [float(x) + 1.1 for x in place.ImagePositionPatient]


def _throw_a_frame_far(seg: pydicom.Dataset) -> None:
    along = np.cross(*np.array(OBLIQUE.cosines).reshape(2, 3)) * OBLIQUE.gap_mm * 1e6
    place = seg.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence[0]
    moved = np.array(place.ImagePositionPatient, float) + along
    place.ImagePositionPatient = [f"{x:.9g}" for x in moved]


def _lose_the_places(seg: pydicom.Dataset) -> None:
    for group in seg.PerFrameFunctionalGroupsSequence:
        del group.PlanePositionSequence


def _name_an_unknown_segment(seg: pydicom.Dataset) -> None:
    del seg.SegmentSequence[1]


def _say_fractional(seg: pydicom.Dataset) -> None:
    seg.SegmentationType = "FRACTIONAL"


def _lose_the_segments(seg: pydicom.Dataset) -> None:
    del seg.SegmentSequence


def _say_another_class(seg: pydicom.Dataset) -> None:
    seg.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (_drop_half_of_the_pixels, "E_TRUNC"),
        (_announce_more_frames, "E_DICOM"),
        (_move_a_frame, "E_GAP"),
        (_throw_a_frame_far, "E_GAP"),
        (_lose_the_places, "E_NOPOSITION"),
        (_name_an_unknown_segment, "E_DICOM"),
        (_say_fractional, "E_FORMAT"),
        (_lose_the_segments, "E_DICOM"),
        (_say_another_class, "E_FORMAT"),
    ],
)
def test_a_damaged_segmentation_is_refused(
    tmp_path: Path, oblique_files: list[Path], damage: object, code: str
) -> None:
    seg = _written(tmp_path, oblique_files)
    damage(seg)
    assert _code_of(tmp_path, seg) == code


def test_a_file_that_is_no_dicom_is_refused(tmp_path: Path) -> None:
    for text, code in ((b"", "E_DICOM"), (b"NRRD0004" * 99, "E_DICOM")):
        (tmp_path / "a.dcm").write_bytes(text)
        with pytest.raises(InputFault) as told:
            read_dicom_seg(tmp_path / "a.dcm")
        assert told.value.code == code
    with pytest.raises(InputFault) as told:
        read_dicom_seg(tmp_path / "none.dcm")
    assert told.value.code == "E_NOTFILE"


@pytest.mark.parametrize("kind", KINDS)
def test_a_real_series_is_labeled_where_it_lies(
    tmp_path: Path, shared_data: Path, kind: str
) -> None:
    folders = sorted((shared_data / "dicom" / "brain_tumor_mr").iterdir())
    assert len(folders) == 4
    for folder in folders:
        labels, files = _real_labels(folder)
        write_dicom_seg(tmp_path / "a.dcm", labels, files, kind=kind, model_name="m")
        refuse_moved(labels, read_dicom_seg(tmp_path / "a.dcm", table=labels.table))
        assert all(_sources(tmp_path / "a.dcm"))


def test_a_repaired_series_is_labeled_on_the_repaired_grid(
    tmp_path: Path, shared_data: Path
) -> None:
    labels, files = _real_labels(shared_data / "dicom" / "head_ct_tilted")
    write_dicom_seg(tmp_path / "a.dcm", labels, files, model_name="m")
    refuse_moved(labels, read_dicom_seg(tmp_path / "a.dcm", table=labels.table))


@pytest.mark.external
@pytest.mark.parametrize("name", SERIES)
def test_dciodvfy_finds_no_error_in_what_is_written(tmp_path: Path, name: str) -> None:
    program = shutil.which("dciodvfy")
    if program is None:
        pytest.skip("dciodvfy is not installed (Debian: dicom3tools)")
    series = SERIES[name]
    files = series.write(tmp_path / "ct")
    labels = made_labels(series.grid)
    moved = labels.grid.affine.copy()
    moved[:3, 3] += 0.01
    own = LabelVolume(labels.array, Grid(labels.grid.shape, moved), labels.table)
    empty = LabelVolume(np.zeros_like(labels.array), labels.grid, labels.table)
    for number, one in enumerate((labels, own, empty)):
        write_dicom_seg(tmp_path / f"{number}.dcm", one, files, model_name="m")
    probabilities = np.stack([labels.array == value for value in labels.table.values]) * 0.5
    write_fractional_seg(
        tmp_path / "3.dcm",
        probabilities.astype(np.float32),
        labels.grid,
        labels.table,
        files,
        model_name="m",
    )
    for number in range(4):
        done = subprocess.run(
            [program, str(tmp_path / f"{number}.dcm")], capture_output=True, text=True, timeout=60
        )
        assert done.stderr.splitlines()[0] == "Segmentation"
        assert [line for line in done.stderr.splitlines() if line.startswith("Error")] == []


def _real_labels(folder: Path) -> tuple[LabelVolume, list[Path]]:
    files = sorted(folder.glob("*.dcm"))
    volume = read_series(find_series(files)[0], "a").volume
    array = np.digitize(volume.array[0], np.percentile(volume.array, [90, 97])).astype(np.uint8)
    table = LabelTable.from_names({1: "bright", 2: "brightest"})
    return LabelVolume(array, volume.grid, table), files


def _sources(path: Path) -> list[pydicom.Dataset | None]:
    """The slice that each frame refers to."""
    found = []
    for group in pydicom.dcmread(path).PerFrameFunctionalGroupsSequence:
        images = group.DerivationImageSequence[0].SourceImageSequence
        found.append(images[0] if len(images) == 1 else None)
    return found


def _source_places(files: list[Path]) -> dict[tuple[str, int | None], np.ndarray]:
    found = {}
    for path in files:
        image = pydicom.dcmread(path)
        groups = image.get("PerFrameFunctionalGroupsSequence")
        for number, group in enumerate(groups or [None], start=1):
            part = image if group is None else group.PlanePositionSequence[0]
            key = (image.SOPInstanceUID, number if group is not None else None)
            found[key] = np.array(part.ImagePositionPatient, float)
    return found


def _written(tmp_path: Path, files: list[Path]) -> pydicom.Dataset:
    write_dicom_seg(tmp_path / "a.dcm", made_labels(OBLIQUE.grid), files, model_name="m")
    return pydicom.dcmread(tmp_path / "a.dcm")


def _code_of(tmp_path: Path, seg: pydicom.Dataset) -> str:
    seg.save_as(tmp_path / "b.dcm")
    with pytest.raises(InputFault) as told:
        read_dicom_seg(tmp_path / "b.dcm")
    assert str(tmp_path / "b.dcm") in str(told.value)
    return told.value.code
