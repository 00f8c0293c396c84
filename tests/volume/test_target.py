"""Targets: labels to what a loss wants, and predictions back to labels."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.fault import InputFault
from medseg.volume import LabelTable, Region, Target, Task

FEW = settings(derandomize=True, max_examples=50, deadline=None)
BRATS = LabelTable.from_names({1: "core", 2: "oedema", 3: "enhancing"})
REGIONS = (
    Region("whole tumor", (1, 2, 3), 2),
    Region("tumor core", (1, 3), 1),
    Region("enhancing tumor", (3,), 3),
)
REGION_TARGET = Target(BRATS, REGIONS)
SIDES = Target(
    LabelTable.from_names({2: "left lung", 4: "heart", 7: "right lung", 300: "left eye"})
)


def label_maps(target):
    values_ = [0, *target.labels.values]
    dtype = np.uint8 if max(values_) < 256 else np.uint16
    return st.integers(0, 999).map(
        lambda seed: np.random.default_rng(seed).choice(values_, (3, 4, 5)).astype(dtype)
    )


@FEW
@given(
    st.sampled_from([Target(BRATS), SIDES, REGION_TARGET]).flatmap(
        lambda target: st.tuples(st.just(target), label_maps(target))
    )
)
def test_decoding_what_was_encoded_gives_the_labels_back(pair):
    target, labels = pair
    encoded = target.encode(labels)
    assert encoded.shape == (len(target.regions) or 1, 3, 4, 5)
    decoded = target.decode(encoded)
    assert decoded.dtype == labels.dtype
    assert np.array_equal(decoded, labels)


@FEW
@given(label_maps(SIDES))
def test_classes_count_from_background_in_the_order_of_the_table(labels):
    encoded = SIDES.encode(labels)[0]
    assert encoded.max() < SIDES.output_channels == 5
    for place, value in enumerate((0, *SIDES.labels.values)):
        assert np.array_equal(encoded == place, labels == value)


def test_region_masks_may_overlap():
    labels = np.array([0, 1, 2, 3], dtype=np.uint8).reshape(4, 1, 1)
    masks = REGION_TARGET.encode(labels)
    assert masks.dtype == np.uint8
    assert masks.reshape(3, 4).tolist() == [[0, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 1]]


def test_a_later_region_overwrites_an_earlier_one():
    masks = np.ones((3, 1, 1, 1), dtype=bool)
    assert REGION_TARGET.decode(masks).item() == 3


def test_channels_and_names():
    assert (REGION_TARGET.output_channels, REGION_TARGET.is_regions) == (3, True)
    assert REGION_TARGET.foreground_names == ("whole tumor", "tumor core", "enhancing tumor")
    assert (Target(BRATS).output_channels, Target(BRATS).is_regions) == (4, False)
    assert Target(BRATS).foreground_names == ("core", "oedema", "enhancing")


def test_left_and_right_channels_take_each_others_place():
    assert SIDES.mirrored_channels() == (0, 3, 2, 1, 4)
    assert REGION_TARGET.mirrored_channels() == (0, 1, 2)
    table = LabelTable.from_names({1: "left a", 2: "right a", 3: "left b", 4: "right b"})
    sides = Target(
        table,
        (Region("left", (1, 3), 1), Region("all", (1, 2, 3, 4), 3), Region("right", (2, 4), 2)),
    )
    assert sides.mirrored_channels() == (2, 1, 0)


@pytest.mark.parametrize("target", [Target(BRATS), SIDES, REGION_TARGET])
def test_mirroring_twice_is_identity(target):
    once = target.mirrored_channels()
    assert [once[place] for place in once] == list(range(target.output_channels))


def test_a_region_that_is_none_in_the_mirror_is_refused():
    labels = LabelTable.from_names({1: "left lesion", 2: "right lesion"})
    target = Target(labels, (Region("any", (1, 2), 1), Region("right", (2,), 2)))
    with pytest.raises(InputFault, match=r"region right \(labels \[2\]\) is labels \[1\]") as fault:
        target.mirrored_channels()
    assert fault.value.code == "E_MIRROR"


def test_pairs_that_are_stated_survive_json():
    names = {1: "left ventricle", 2: "right ventricle", 3: "left lung", 4: "right lung"}
    labels = LabelTable(LabelTable.from_names(names).labels, mirrored=[(3, 4)])
    target = Target.from_json(json.loads(json.dumps(Target(labels).to_json())))
    assert target.mirrored_channels() == (0, 1, 2, 4, 3)


@pytest.mark.parametrize("region", [Region("x", (1, 9), 1), Region("x", (1,), 9)])
def test_a_region_of_unknown_values_is_refused(region):
    with pytest.raises(InputFault, match="region x: values \\[9\\]") as fault:
        Target(BRATS, (region,))
    assert fault.value.code == "E_LABEL"


@pytest.mark.parametrize("target", [Target(BRATS), SIDES, REGION_TARGET])
def test_targets_and_tasks_survive_json(target):
    again = Target.from_json(json.loads(json.dumps(target.to_json())))
    assert again.labels == target.labels
    assert again.regions == target.regions
    task = Task(("T1", "T2"), target, (1.0, 0.5, 1 / 3), (32, 64, 96))
    same = Task.from_json(json.loads(json.dumps(task.to_json())))
    assert (same.channels, same.spacing_mm, same.patch_size) == (
        task.channels,
        task.spacing_mm,
        task.patch_size,
    )
    assert same.target.labels == target.labels
    assert (task.in_channels, task.out_channels) == (2, target.output_channels)
