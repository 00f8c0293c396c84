import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg.data import pairs
from medseg.data.cache import Prepared, cache_folder, prepare
from medseg.data.card import load_card
from medseg.data.cases import Listing, open_listing
from medseg.data.foreground import MOST_PLACES, sample_places
from medseg.data.pairs import check_pairs
from medseg.fault import InputFault
from medseg.io.nifti import read_labels, read_volume
from medseg.preprocess.normalise import Normalisation
from medseg.preprocess.record import Preprocessing
from medseg.progress import Progress

Write = Callable[..., Path]
PLAIN = Preprocessing(spacing_mm=(1.0, 1.0, 1.0), normalisation=(Normalisation("zscore"),))
PREPARE = """
import sys
from medseg.data.cache import prepare
from medseg.data.card import load_card
from medseg.data.cases import open_listing
from medseg.preprocess.normalise import Normalisation
from medseg.preprocess.record import Preprocessing
plain = Preprocessing(spacing_mm=(1.0, 1.0, 1.0), normalisation=(Normalisation("zscore"),))
prepare(open_listing(load_card("hippocampus"), sys.argv[1]), plain, sys.argv[2])
"""
COARSE = Preprocessing(spacing_mm=(2.0, 2.0, 2.0), normalisation=(Normalisation("zscore"),))


class Ear:
    """A listener that remembers which cases were prepared, and may stop the work after some."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.cases: list[str] = []
        self.stop_after = stop_after

    def __call__(self, event: Progress) -> None:
        if event.stage == "prepare cases":
            self.cases.append(event.text)
            if self.stop_after == len(self.cases):
                raise KeyboardInterrupt


@pytest.fixture
def root(tmp_path: Path, make_msd: Write) -> Path:
    return make_msd(tmp_path / "set", cases=5)


def opened(root: Path) -> Listing:
    return open_listing(load_card("hippocampus"), root)


def redone(listing: Listing, folder: Path, preprocessing: Preprocessing = PLAIN, **more) -> list:
    ear = Ear()
    prepare(listing, preprocessing, folder, listener=ear, **more)
    return ear.cases


ALL = [f"hippocampus_{number:03d}" for number in range(1, 6)]


def test_a_prepared_case_is_what_preprocessing_gives(root: Path, tmp_path: Path) -> None:
    listing = opened(root)
    prepared = prepare(listing, COARSE, tmp_path / "cache")
    assert prepared.cases == tuple(ALL)
    for case in listing.cases:
        assert case.label is not None
        image, record = COARSE.apply(read_volume(case.images, listing.channels))
        labels = COARSE.apply_labels(read_labels(case.label, listing.labels), record)
        np.testing.assert_array_equal(prepared.image(case.id), image)
        np.testing.assert_array_equal(prepared.labels(case.id), labels)
        assert prepared.record(case.id) == record
        assert prepared.image(case.id).dtype == np.float32


def test_a_4d_file_and_a_file_a_channel_are_prepared_alike(
    tmp_path: Path, write_image: Write, write_labels: Write
) -> None:
    four_d = write_image(tmp_path / "msd/imagesTr/a.nii.gz", channels=2)
    write_labels(tmp_path / "msd/labelsTr/a.nii.gz")
    write_labels(tmp_path / "nnunet/labelsTr/a.nii.gz")
    (tmp_path / "nnunet/imagesTr").mkdir()
    for number, channel in enumerate(read_volume([four_d], ("T2", "ADC")).array):
        part = nib.Nifti1Image(channel, np.eye(4))
        nib.save(part, tmp_path / f"nnunet/imagesTr/a_{number:04d}.nii.gz")
    facts = {
        "modality": {"0": "T2", "1": "ADC"},
        "labels": {"0": "background", "1": "one", "2": "two"},
        "training": [{"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz"}],
    }
    two = Preprocessing(spacing_mm=None, normalisation=(Normalisation("none"),) * 2)
    prepared = []
    for layout in ("msd", "nnunet"):
        (tmp_path / layout / "dataset.json").write_text(json.dumps(facts))
        listing = open_listing(load_card(layout), tmp_path / layout)
        check_pairs(listing)
        prepared.append(prepare(listing, two, tmp_path / f"cache_{layout}"))
    assert prepared[0].image("a").shape[0] == 2
    assert_same(prepared[0], prepared[1], "a")


def test_prepared_arrays_are_mapped_and_read_only(root: Path, tmp_path: Path) -> None:
    image = prepare(opened(root), PLAIN, tmp_path / "cache").image(ALL[0])
    assert isinstance(image, np.memmap)
    assert not image.flags.writeable


def test_places_and_voxels_are_those_of_labels_and_of_regions(
    tmp_path: Path, write_image: Write, write_labels: Write
) -> None:
    case = tmp_path / "set/BraTS2021_00001/BraTS2021_00001"
    for part in ("flair", "t1ce", "t1", "t2"):
        write_image(case.with_name(f"{case.name}_{part}.nii.gz"))
    write_labels(case.with_name(f"{case.name}_seg.nii.gz"), values=(1, 2))
    card = load_card("brats_2021")
    listing = open_listing(card, tmp_path / "set")
    four = Preprocessing(spacing_mm=None, normalisation=(Normalisation("zscore"),) * 4)
    prepared = prepare(listing, four, tmp_path / "cache")
    labels = prepared.labels("BraTS2021_00001")
    for wanted in (False, True):
        target = listing.target(regions=wanted)
        places = prepared.places("BraTS2021_00001", target)
        voxels = prepared.voxels("BraTS2021_00001", target)
        assert tuple(places) == target.foreground_names
        if wanted:
            assert voxels == {"WT": 24, "TC": 12, "ET": 0}
            expected = {"WT": (1, 2, 4), "TC": (1, 4), "ET": (4,)}
        else:
            expected = {label.name: (label.value,) for label in listing.labels.labels}
        for name, members in expected.items():
            found = np.argwhere(np.isin(labels, members))
            np.testing.assert_array_equal(places[name], found)
            assert voxels[name] == len(found)


def test_a_sample_of_many_voxels_is_even_and_repeatable() -> None:
    labels = np.ones((60, 60, 60), dtype=np.uint8)
    labels[:, :, 30:] = 2
    counts, places = sample_places(labels, [(1,), (1, 2)], seed="a")
    again = sample_places(labels, [(1,), (1, 2)], seed="a")[1]
    assert counts == [108_000, 216_000]
    assert [len(found) for found in places] == [MOST_PLACES, MOST_PLACES]
    assert len(np.unique(places[1], axis=0)) == MOST_PLACES
    np.testing.assert_array_equal(places[1], again[1])
    # The mean of n even draws of 0..59 has a standard deviation of 17.3 / sqrt(n) = 0.19.
    np.testing.assert_allclose(places[1].mean(axis=0), 29.5, atol=1.0)
    assert (labels[tuple(places[0].T.astype(int))] == 1).all()


def test_nothing_is_prepared_twice(root: Path, tmp_path: Path) -> None:
    assert redone(opened(root), tmp_path / "cache") == ALL
    assert redone(opened(root), tmp_path / "cache") == []
    assert redone(opened(root), tmp_path / "cache", recheck=True) == []


def test_a_copied_data_set_and_a_copied_cache_are_known_by_their_hashes(
    root: Path, tmp_path: Path
) -> None:
    redone(opened(root), tmp_path / "cache")
    shutil.copytree(root, tmp_path / "set2", copy_function=shutil.copyfile)
    shutil.copytree(tmp_path / "cache", tmp_path / "cache2", copy_function=shutil.copyfile)
    assert redone(opened(tmp_path / "set2"), tmp_path / "cache2") == []


def test_other_preprocessing_prepares_again(root: Path, tmp_path: Path) -> None:
    redone(opened(root), tmp_path / "cache")
    assert redone(opened(root), tmp_path / "cache", COARSE) == ALL


def test_a_changed_label_map_is_prepared_again(
    root: Path, tmp_path: Path, write_labels: Write
) -> None:
    redone(opened(root), tmp_path / "cache")
    write_labels(root / f"labelsTr/{ALL[2]}.nii.gz", values=(2,))
    assert redone(opened(root), tmp_path / "cache") == [ALL[2]]


@pytest.mark.parametrize("name", ["image", "labels", "places"])
def test_a_truncated_array_is_prepared_again(root: Path, tmp_path: Path, name: str) -> None:
    before = prepare(opened(root), PLAIN, tmp_path / "cache")
    kept = np.array(before.image(ALL[1]))
    path = tmp_path / f"cache/{ALL[1]}.{name}.npy"
    path.write_bytes(path.read_bytes()[:-7])
    assert redone(opened(root), tmp_path / "cache") == [ALL[1]]
    np.testing.assert_array_equal(before.image(ALL[1]), kept)


def test_a_flipped_bit_is_found_by_its_hash(root: Path, tmp_path: Path) -> None:
    redone(opened(root), tmp_path / "cache")
    path = tmp_path / f"cache/{ALL[1]}.image.npy"
    flip_last_bit(path)
    assert redone(opened(root), tmp_path / "cache") == [ALL[1]]


def test_a_flipped_bit_that_keeps_the_time_is_found_by_recheck(root: Path, tmp_path: Path) -> None:
    redone(opened(root), tmp_path / "cache")
    path = tmp_path / f"cache/{ALL[1]}.image.npy"
    facts = path.stat()
    flip_last_bit(path)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert redone(opened(root), tmp_path / "cache") == []
    assert redone(opened(root), tmp_path / "cache", recheck=True) == [ALL[1]]


def flip_last_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"key": 1}', '{"key": "a", "labels": 3}'])
def test_a_damaged_entry_is_prepared_again(root: Path, tmp_path: Path, text: str) -> None:
    redone(opened(root), tmp_path / "cache")
    (tmp_path / f"cache/{ALL[3]}.json").write_text(text)
    assert redone(opened(root), tmp_path / "cache") == [ALL[3]]


def test_work_that_was_stopped_goes_on_where_it_stopped(root: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        prepare(opened(root), PLAIN, tmp_path / "cache", listener=Ear(stop_after=2))
    assert redone(opened(root), tmp_path / "cache") == ALL[2:]


def test_a_killed_process_leaves_whole_cases_or_none(tmp_path: Path, make_msd: Write) -> None:
    root, cache = make_msd(tmp_path / "set", cases=60), tmp_path / "cache"
    child = subprocess.Popen([sys.executable, "-c", PREPARE, str(root), str(cache)])
    while child.poll() is None and len(list(cache.glob("h*.json"))) < 5:
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    whole = {path.stem for path in cache.glob("h*.json")}
    assert 5 <= len(whole) < 60
    left = redone(opened(root), cache)
    assert set(left).isdisjoint(whole)
    assert len(left) + len(whole) == 60


def test_workers_prepare_the_same_arrays(root: Path, tmp_path: Path) -> None:
    alone = prepare(opened(root), PLAIN, tmp_path / "alone")
    ear = Ear()
    shared = prepare(opened(root), PLAIN, tmp_path / "shared", workers=2, listener=ear)
    assert sorted(ear.cases) == ALL
    assert shared.cases == alone.cases
    for case in ALL:
        assert_same(alone, shared, case)


def assert_same(one: Prepared, other: Prepared, case: str) -> None:
    np.testing.assert_array_equal(one.image(case), other.image(case))
    np.testing.assert_array_equal(one.labels(case), other.labels(case))
    assert one.entries[case].voxels == other.entries[case].voxels


@pytest.mark.parametrize("workers", [0, 2])
def test_faults_of_all_cases_are_told_at_once_and_the_good_cases_stay(
    root: Path, tmp_path: Path, write_labels: Write, workers: int
) -> None:
    for case in (ALL[1], ALL[3]):
        write_labels(root / f"labelsTr/{case}.nii.gz", values=(5,))
    with pytest.raises(InputFault) as caught:
        prepare(opened(root), PLAIN, tmp_path / "cache", workers=workers)
    assert caught.value.code == "E_PAIR"
    assert [line.split(":")[0].strip() for line in str(caught.value).splitlines()[1:]] == [
        ALL[1],
        ALL[3],
    ]
    for case in (ALL[1], ALL[3]):
        write_labels(root / f"labelsTr/{case}.nii.gz")
    assert redone(opened(root), tmp_path / "cache") == [ALL[1], ALL[3]]


class Deadly(Preprocessing):
    """Settings that end the process which unpacks them, as the kernel does when memory is out."""

    def __reduce__(self) -> tuple:
        return os._exit, (9,)


def test_a_worker_that_was_killed_is_said_with_a_way_out(root: Path, tmp_path: Path) -> None:
    deadly = Deadly(spacing_mm=None, normalisation=PLAIN.normalisation)
    with pytest.raises(InputFault, match="run again with fewer workers") as caught:
        prepare(opened(root), deadly, tmp_path / "cache", workers=2)
    assert caught.value.code == "E_WORKER"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_folder_that_cannot_be_written_ends_the_work(
    root: Path, tmp_path: Path, workers: int
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputFault, match="choose another folder") as caught:
        prepare(opened(root), PLAIN, tmp_path / "file/cache", workers=workers)
    assert caught.value.code == "E_WRITE"


def test_grids_apart_are_refused_before_anything_is_prepared(
    root: Path, tmp_path: Path, write_labels: Write
) -> None:
    write_labels(root / f"labelsTr/{ALL[4]}.nii.gz", affine=np.diag([2.0, 1, 1, 1]))
    with pytest.raises(InputFault, match=ALL[4]):
        prepare(opened(root), PLAIN, tmp_path / "cache")
    assert not list(tmp_path.glob("cache/*"))


def test_what_the_cache_has_checked_is_not_read_again(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_labels: Write
) -> None:
    listing = opened(root)
    prepare(listing, PLAIN, tmp_path / "cache")
    write_labels(root / f"labelsTr/{ALL[2]}.nii.gz", values=(2,))
    read: list[str] = []
    whole = pairs.read_labels
    monkeypatch.setattr(
        pairs, "read_labels", lambda path, table: (read.append(path.name), whole(path, table))[1]
    )
    check_pairs(listing, cache=tmp_path / "cache")
    assert read == [f"{ALL[2]}.nii.gz"]


def test_real_hippocampus_cases_are_prepared(shared_data: Path, tmp_path: Path) -> None:
    whole = open_listing(load_card("hippocampus"), shared_data / "hippocampus")
    few = Listing(
        whole.card, whole.root, whole.channels, whole.labels, whole.regions, whole.cases[:5]
    )
    prepared = prepare(few, PLAIN, tmp_path)
    target = few.target(regions=False)
    for case in prepared.cases:
        image = prepared.image(case)
        assert abs(float(image.mean())) < 1e-3
        assert abs(float(image.std()) - 1) < 1e-3
        assert all(count > 100 for count in prepared.voxels(case, target).values())
        restored = prepared.record(case).restore_labels(np.array(prepared.labels(case)))
        assert restored.shape == prepared.record(case).source_grid.shape


def test_two_data_sets_of_equal_case_names_share_no_folder(
    root: Path, make_msd: Write, tmp_path: Path
) -> None:
    other = make_msd(tmp_path / "other", cases=5)
    one, two, again = (
        cache_folder(tmp_path, open_listing(load_card("hippocampus"), place), PLAIN)
        for place in (root, other, root)
    )
    assert one == again != two
