"""A fingerprint holds what was measured, sees the patient and not the file's axes, and is kept."""

import json
import logging
import os

import nibabel as nib
import numpy as np
import pytest

from medseg.data.card import load_card
from medseg.data.cases import Case, Listing
from medseg.data.facts import Fingerprint
from medseg.data.fingerprint import fingerprint
from medseg.data.plan import plan
from medseg.fault import InputFault
from medseg.volume import LabelTable

SHAPE = (12, 10, 8)
SPACING_MM = (1.0, 1.5, 3.0)


def blank():
    return np.zeros(SHAPE, np.float32)


def save(path, array, affine):
    path.parent.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


@pytest.fixture
def make_listing(tmp_path):
    """`make([(image (c, i, j, k), labels), ...], affine)`: a listing of files on disk."""

    def make(pairs, *, affine=None, channels=("MR",), labeled=True):
        affine = np.diag([*SPACING_MM, 1.0]) if affine is None else affine
        cases = []
        for number, (image, labels) in enumerate(pairs):
            images = tuple(
                save(tmp_path / f"images/{number}_{name}.nii.gz", channel, affine)
                for name, channel in zip(channels, image, strict=True)
            )
            label = save(tmp_path / f"labels/{number}.nii.gz", labels.astype(np.uint8), affine)
            cases.append(Case(f"case_{number}", str(number), images, label if labeled else None))
        table = LabelTable.from_names({1: "organ", 2: "lesion"})
        card = load_card("hippocampus")
        return Listing(card, tmp_path, tuple(channels), table, (), tuple(cases))

    return make


def case_with(*, foreground, box=(slice(2, 8), slice(1, 9), slice(3, 7))):
    """Ones in a box of zeros, and a foreground of the given intensities inside the box."""
    image, labels = blank(), blank()
    image[box] = 1.0
    places = np.argwhere(image > 0)[: len(foreground)]
    for place, intensity in zip(places, foreground, strict=True):
        image[tuple(place)] = intensity
        labels[tuple(place)] = 2
    return image[None], labels


def test_shapes_are_those_of_the_box_that_is_not_zero(make_listing):
    listing = make_listing([case_with(foreground=[5.0, 7.0])])
    found = fingerprint(listing)
    assert found.shapes == ((6, 8, 4),)
    assert found.spacings_mm == (SPACING_MM,)
    assert found.relative_sizes == pytest.approx((6 * 8 * 4 / (12 * 10 * 8),))
    assert (found.cases, found.channels, found.classes) == (("case_0",), ("MR",), 3)


def test_axes_are_those_of_the_patient_whatever_the_order_in_the_file(make_listing):
    image, labels = case_with(foreground=[5.0, 7.0])
    upright = fingerprint(make_listing([(image, labels)]))
    affine = np.zeros((4, 4))
    affine[2, 0], affine[0, 1], affine[1, 2], affine[3, 3] = 3.0, -1.0, 1.5, 1.0
    turned = make_listing(
        [(image.transpose(0, 3, 1, 2)[:, :, ::-1], labels.transpose(2, 0, 1)[:, ::-1])],
        affine=affine,
    )
    assert fingerprint(turned).shapes == upright.shapes == ((6, 8, 4),)
    assert fingerprint(turned).spacings_mm == upright.spacings_mm


def test_intensities_are_those_inside_the_labels_and_each_case_counts_alike(make_listing):
    few, many = [100.0, 300.0], [10.0] * 40
    (found,) = fingerprint(
        make_listing([case_with(foreground=few), case_with(foreground=many)])
    ).intensities
    # half of what is drawn comes from the case of two voxels
    assert found.mean == pytest.approx(0.5 * 200 + 0.5 * 10, rel=1e-3)
    assert found.std == pytest.approx(np.std([100, 300, 10, 10]), rel=1e-2)
    assert found.median == pytest.approx(55.0, abs=45.0)
    assert (found.minimum, found.maximum) == (10.0, 300.0)
    assert (found.percentile_00_5, found.percentile_99_5) == (10.0, 300.0)


def test_percentiles_cut_the_rarest_intensities_off(make_listing):
    ramp = np.linspace(0.0, 1000.0, 180).tolist()
    (found,) = fingerprint(make_listing([case_with(foreground=ramp)])).intensities
    assert found.percentile_00_5 == pytest.approx(np.percentile(ramp, 0.5), abs=6.0)
    assert found.percentile_99_5 == pytest.approx(np.percentile(ramp, 99.5), abs=6.0)
    assert found.mean == pytest.approx(500.0, rel=1e-2)


def test_every_channel_is_measured_at_the_same_voxels(make_listing):
    image, labels = case_with(foreground=[5.0, 7.0, 9.0])
    listing = make_listing(
        [(np.concatenate([image, 10 * image]), labels)], channels=("T1", "FLAIR")
    )
    first, second = fingerprint(listing).intensities
    assert second.mean == pytest.approx(10 * first.mean)
    assert second.std == pytest.approx(10 * first.std)


def test_a_case_without_foreground_is_measured_for_its_shape_alone(make_listing):
    listing = make_listing([case_with(foreground=[]), case_with(foreground=[4.0, 4.0])])
    found = fingerprint(listing)
    assert len(found.shapes) == 2
    assert found.intensities[0].mean == 4.0


def test_a_fingerprint_survives_json(make_listing):
    found = fingerprint(make_listing([case_with(foreground=[5.0, 7.0])] * 2))
    assert Fingerprint.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_a_plan_of_few_small_cases_masks_what_the_crop_says_is_background(make_listing):
    box = (slice(2, 12), slice(0, 10), slice(0, 4))
    found = fingerprint(make_listing([case_with(foreground=[5.0, 7.0], box=box)] * 2))
    made = plan(found, spacing_mm=(0.5, 0.5, 0.5))
    assert made.normalisation == ({"kind": "zscore_nonzero"},)
    assert made.median_shape == (20.0, 30.0, 24.0)


class TestCache:
    def test_unchanged_files_are_not_measured_again(self, make_listing, tmp_path):
        listing, cache = make_listing([case_with(foreground=[5.0, 7.0])] * 2), tmp_path / "f.json"
        first = fingerprint(listing, cache=cache)
        events = []
        assert fingerprint(listing, cache=cache, listener=events.append) == first
        assert events == []

    def test_a_copy_with_another_time_is_believed_by_its_hash(self, make_listing, tmp_path):
        listing, cache = make_listing([case_with(foreground=[5.0, 7.0])]), tmp_path / "f.json"
        fingerprint(listing, cache=cache)
        os.utime(listing.cases[0].images[0], (1, 1))
        events = []
        fingerprint(listing, cache=cache, listener=events.append)
        assert events == []

    def test_a_changed_file_is_measured_again(self, make_listing, tmp_path):
        cache = tmp_path / "f.json"
        first = fingerprint(make_listing([case_with(foreground=[5.0, 7.0])]), cache=cache)
        second = fingerprint(make_listing([case_with(foreground=[50.0, 70.0])]), cache=cache)
        assert second.intensities[0].mean == pytest.approx(10 * first.intensities[0].mean, rel=0.01)
        assert fingerprint(make_listing([case_with(foreground=[50.0, 70.0])])) == second

    def test_another_number_of_cases_is_measured_again(self, make_listing, tmp_path):
        cache = tmp_path / "f.json"
        fingerprint(make_listing([case_with(foreground=[5.0])]), cache=cache)
        found = fingerprint(make_listing([case_with(foreground=[5.0])] * 3), cache=cache)
        assert len(found.shapes) == 3

    @pytest.mark.parametrize("damage", ["{", "[]", '{"key": 1}'])
    def test_a_damaged_file_is_told_and_replaced(self, make_listing, tmp_path, caplog, damage):
        cache = tmp_path / "f.json"
        cache.write_text(damage)
        with caplog.at_level(logging.WARNING):
            found = fingerprint(make_listing([case_with(foreground=[5.0])]), cache=cache)
        assert bool(caplog.records) == (damage != '{"key": 1}')
        kept = json.loads(cache.read_text())["fingerprint"]
        assert Fingerprint.from_json(kept) == found


def test_progress_is_told_case_by_case(make_listing):
    events = []
    fingerprint(make_listing([case_with(foreground=[5.0])] * 3), listener=events.append)
    told = [event for event in events if event.stage == "fingerprint"]
    assert [(event.done, event.total, event.text) for event in told] == [
        (1, 3, "case_0"),
        (2, 3, "case_1"),
        (3, 3, "case_2"),
    ]


def test_workers_measure_the_same(make_listing):
    listing = make_listing([case_with(foreground=[5.0, 7.0]), case_with(foreground=[1.0])])
    assert fingerprint(listing, workers=2) == fingerprint(listing)


class TestFaults:
    def test_all_cases_that_cannot_be_measured_are_told_at_once(self, make_listing):
        good = case_with(foreground=[5.0])
        stranger = (good[0], good[1] * 4)
        empty = (blank()[None], good[1])
        with pytest.raises(InputFault) as fault:
            fingerprint(make_listing([good, stranger, empty]))
        message = str(fault.value)
        assert "case_1: " in message
        assert "label values 8" in message
        assert "case_2: " in message
        assert "every voxel of channel MR is 0" in message
        assert "case_0" not in message

    def test_labels_on_another_grid_are_refused(self, make_listing):
        listing = make_listing([case_with(foreground=[5.0])])
        save(listing.cases[0].label, blank().astype(np.uint8), np.diag([2.0, 2.0, 2.0, 1.0]))
        with pytest.raises(InputFault, match=r"case_0: 0\.nii\.gz is not on the grid") as fault:
            fingerprint(listing)
        assert fault.value.code == "E_PAIR"

    def test_a_set_without_labels_is_refused(self, make_listing):
        with pytest.raises(InputFault, match="none of 1 cases has labels") as fault:
            fingerprint(make_listing([case_with(foreground=[5.0])], labeled=False))
        assert fault.value.code == "E_NODATA"

    def test_a_set_of_empty_label_maps_is_refused(self, make_listing):
        with pytest.raises(InputFault, match="label maps of all 2 cases are empty") as fault:
            fingerprint(make_listing([case_with(foreground=[])] * 2))
        assert fault.value.code == "E_LABEL"
