import numpy as np
import pytest
from scipy import ndimage

from medseg.fault import InputFault
from medseg.inference import components, postprocess
from medseg.inference.postprocess import (
    FillHoles,
    KeepLargest,
    RemoveSmall,
    Rule,
    postprocessed,
    rules_from_json,
    rules_to_json,
)
from medseg.volume import Grid, LabelTable, LabelVolume

TABLE = LabelTable.from_names({1: "liver", 4: "lesion", 9: "spleen"})
SPACING_MM = (1.0, 2.0, 2.5)
VOXEL_MM3 = 5.0


def volume(array: np.ndarray) -> LabelVolume:
    return LabelVolume(array.astype(np.uint8), Grid.from_spacing(array.shape, SPACING_MM), TABLE)


def scattered() -> np.ndarray:
    """Many components of each label."""
    noise = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((30, 28, 26)), 1.5)
    return np.array([0, 1, 4, 9])[np.digitize(noise, np.quantile(noise, [0.5, 0.8, 0.95]))]


def after(array: np.ndarray, *rules: Rule) -> np.ndarray:
    return postprocessed(volume(array), rules)[0].array


@pytest.mark.parametrize("connectivity", [6, 18, 26])
def test_the_largest_component_of_each_label_is_scipys(connectivity: int) -> None:
    array = scattered()
    found = after(array, KeepLargest(connectivity=connectivity))
    reach = ndimage.generate_binary_structure(3, {6: 1, 18: 2, 26: 3}[connectivity])
    for value in TABLE.values:
        parts, count = ndimage.label(array == value, reach)
        assert count > 1
        sizes = np.bincount(parts.ravel())[1:]
        np.testing.assert_array_equal(found == value, parts == 1 + sizes.argmax())


@pytest.mark.parametrize(
    "rule", [KeepLargest(), KeepLargest(labels=("liver", "spleen")), RemoveSmall(below_mm3=60)]
)
def test_labels_in_one_pass_and_one_by_one_are_the_same(
    rule: Rule, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = volume(scattered())
    monkeypatch.setattr(components, "VOXELS_AT_ONCE", 2000)
    found = []
    for passes in (0, 1000):
        monkeypatch.setattr(postprocess, "MOST_PASSES", passes)
        found.append(postprocessed(given, [rule]))
    assert (found[0][0].array == found[1][0].array).all()
    assert found[0][1] == found[1][1]
    assert len(found[0][1]) == len(rule.labels or TABLE.names)
    assert (found[0][0].array != given.array).any()


def test_of_equally_large_components_the_first_stays() -> None:
    array = np.zeros((12, 6, 6), dtype=int)
    array[1:3, 1:3, 1:3] = array[5:7, 1:3, 1:3] = 1
    array[1:3, 4, 4] = array[8:10, 4, 4] = 9
    found = after(array, KeepLargest())
    assert {tuple(place) for place in np.argwhere(found)} == {
        *map(tuple, np.argwhere(array[:3] != 0))
    }


def test_labels_may_be_taken_together() -> None:
    array = np.zeros((12, 6, 6), dtype=int)
    array[1:4, 1:4, 1:4] = 1
    array[4:6, 1:4, 1:4] = 4
    array[8:11, 1:5, 1:5] = 9
    both = after(array, KeepLargest(labels=("liver", "lesion", "spleen"), together=True))
    assert set(np.unique(both)) == {0, 9}
    assert set(np.unique(after(array, KeepLargest(labels=("liver", "lesion"), together=True)))) == {
        0,
        1,
        4,
        9,
    }


def test_components_below_a_volume_go_and_it_is_told() -> None:
    array = np.zeros((20, 8, 8), dtype=int)
    array[1:4, 1:4, 1:4] = 1  # 27 voxels, 135 mm3
    array[10:12, 1:3, 1:3] = 1  # 8 voxels, 40 mm3
    array[15, 5, 5] = 4
    made, notes = postprocessed(volume(array), [RemoveSmall(labels=("liver",), below_mm3=135)])
    assert (made.array == 1).sum() == 27
    assert (made.array == 4).sum() == 1
    assert notes == ("liver: 1 of 2 components removed, 0.04 ml.",)
    assert (after(array, RemoveSmall(below_mm3=135.1)) == 0).all()


def test_holes_are_filled_but_no_other_label_is_overwritten() -> None:
    array = np.zeros((12, 12, 12), dtype=int)
    array[1:11, 1:11, 1:11] = 1
    array[3:5, 3:5, 3:5] = 0  # a hole of 8 voxels, 40 mm3
    array[7, 7, 7] = 0  # and one of a voxel
    array[3, 7, 7] = 4  # a lesion within
    array[9:, 5, 5] = 0  # a channel to the outside is none
    made, notes = postprocessed(volume(array), [FillHoles(labels=("liver",))])
    assert notes == ("liver: 2 holes filled, 0.05 ml.",)
    assert (made.array[3:5, 3:5, 3:5] == 1).all()
    assert made.array[7, 7, 7] == 1
    assert made.array[3, 7, 7] == 4
    assert (made.array[9:, 5, 5] == 0).all()
    small = after(array, FillHoles(labels=("liver",), below_mm3=39))
    assert small[7, 7, 7] == 1
    assert (small[3:5, 3:5, 3:5] == 0).all()


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_holes_may_be_filled_slice_by_slice_in_the_patients_planes(plane: str) -> None:
    # The axes of the file run to the front, to the feet and to the left.
    affine = np.array([[0, 0, -2.5, 0], [1, 0, 0, 0], [0, -2, 0, 0], [0, 0, 0, 1.0]])
    axis = {"axial": 1, "coronal": 0, "sagittal": 2}[plane]
    array = np.zeros((9, 10, 11), dtype=np.uint8)
    array[1:8, 1:9, 1:10] = 1
    tunnel = [slice(4, 5)] * 3
    tunnel[axis] = slice(None)
    array[tuple(tunnel)] = 0
    array[4, 4, 4] = 9
    given = LabelVolume(array, Grid(array.shape, affine), TABLE)
    assert postprocessed(given, [FillHoles(labels=("liver",))])[1] == ()
    made, notes = postprocessed(given, [FillHoles(labels=("liver",), slices=plane)])
    slices = array.shape[axis] - 3
    assert notes == (f"liver: {slices} holes filled, {slices * VOXEL_MM3 / 1000:.2f} ml.",)
    assert made.array[4, 4, 4] == 9
    assert (made.array == 1).sum() == 7 * 8 * 9 - 1
    small = FillHoles(labels=("liver",), slices=plane, below_mm3=VOXEL_MM3 - 1)
    assert postprocessed(given, [small])[1] == ()


def test_rules_follow_each_other() -> None:
    array = np.zeros((20, 8, 8), dtype=int)
    array[1:6, 1:6, 1:6] = 1
    array[3, 3, 3] = 0
    array[10:16, 1:6, 1:5] = 1
    # 124 voxels against 120: the first is the largest with its hole or without.
    found = after(array, FillHoles(), KeepLargest())
    assert found[3, 3, 3] == 1
    assert (found[10:] == 0).all()


def test_what_no_rule_changes_is_the_same_array_and_silent() -> None:
    array = np.zeros((6, 6, 6), dtype=int)
    array[1:4, 1:4, 1:4] = 1
    given = volume(array)
    made, notes = postprocessed(given, [KeepLargest(), RemoveSmall(below_mm3=1), FillHoles()])
    assert made.array is given.array
    assert notes == ()


def test_the_map_that_was_given_is_not_written_to() -> None:
    given = volume(scattered())
    before = given.array.copy()
    made, _ = postprocessed(given, [KeepLargest()])
    np.testing.assert_array_equal(given.array, before)
    assert (made.array != before).any()


RULES = (
    KeepLargest(labels=("liver",), together=True, connectivity=6),
    RemoveSmall(below_mm3=20.5),
    FillHoles(labels=("spleen", "liver")),
    FillHoles(slices="axial"),
)


def test_rules_survive_json() -> None:
    assert rules_from_json(rules_to_json(RULES)) == RULES


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({}, "no list"),
        ([{"name": "keep_larges"}], "keep_largest"),
        ([{"name": "keep_largest", "label": "liver"}], "it has no label"),
        ([{"name": "keep_largest", "connectivity": 8}], "6, 18 and 26"),
        ([3], "is no rule"),
        ([{"name": ["keep_largest"]}], "is no rule"),
        ([{"name": "keep_largest", "labels": "liver"}], "no list of names"),
        ([{"name": "keep_largest", "labels": [4]}], "no list of names"),
        ([{"name": "keep_largest", "together": 1}], "neither true nor false"),
        ([{"name": "keep_largest", "connectivity": [6]}], "6, 18 and 26"),
        ([{"name": "remove_small"}], "below_mm3 None"),
        ([{"name": "remove_small", "below_mm3": "20"}], "no volume"),
        ([{"name": "remove_small", "below_mm3": float("nan")}], "no volume"),
        ([{"name": "fill_holes", "below_mm3": True}], "no volume"),
        ([{"name": "fill_holes", "slices": "axal"}], "none of axial, coronal, sagittal"),
    ],
)
def test_what_is_no_rule_is_told(data: object, told: str) -> None:
    with pytest.raises(InputFault, match=told) as fault:
        rules_from_json(data)
    assert fault.value.code == "E_POSTPROCESS"


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        (KeepLargest(labels=("livr",)), "did you mean liver"),
        (RemoveSmall(below_mm3=0), "above 0"),
        (FillHoles(below_mm3=-1), "above 0"),
        (RemoveSmall(below_mm3=float("nan")), "above 0"),
    ],
)
def test_a_rule_that_does_not_fit_the_table_is_told(rule: Rule, told: str) -> None:
    with pytest.raises(InputFault, match=told):
        after(np.zeros((3, 3, 3)), rule)
