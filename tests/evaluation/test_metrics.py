import math

import numpy as np
import pytest
import torch
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from monai.metrics.surface_dice import compute_surface_dice

from medseg.evaluation.metrics import score_pair, structures
from medseg.fault import InputFault
from medseg.volume import Grid, LabelTable, LabelVolume, Region, Target

TABLE = LabelTable.from_names({1: "edema", 2: "core", 4: "rim"})
LABELS = Target(TABLE)
REGIONS = Target(
    TABLE, (Region("WT", (1, 2, 4), 1), Region("TC", (2, 4), 2), Region("ET", (4,), 4))
)


def blobs(seed: int, shape: tuple[int, int, int], jitter: float = 0.0) -> np.ndarray:
    """Three touching ellipsoids; `jitter` moves their surfaces."""
    place = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, dtype=np.uint8)
    for value in (1, 2, 4):
        center, radius = rng.uniform(-0.4, 0.4, 3), rng.uniform(0.3, 0.6, 3)
        center = center + jitter * rng.standard_normal(3)
        inside = (((place - center[:, None, None, None]) / radius[:, None, None, None]) ** 2).sum(0)
        labels[inside < 1] = value
    return labels


def volume(array: np.ndarray, spacing_mm: tuple[float, float, float] = (1, 1, 1)) -> LabelVolume:
    return LabelVolume(array, Grid.from_spacing(array.shape, spacing_mm), TABLE)


# MONAI 1.6 warns of an argument of its own that it sets itself.
OF_MONAI = "ignore:.*always_return_as_numpy.*:FutureWarning"


@pytest.mark.filterwarnings(OF_MONAI)
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (0.7, 0.7, 3.0)])
def test_scores_equal_monais(seed: int, spacing_mm: tuple[float, float, float]) -> None:
    truth, prediction = blobs(seed, (40, 36, 22)), blobs(seed, (40, 36, 22), jitter=0.08)
    scores = score_pair(
        volume(prediction, spacing_mm), volume(truth, spacing_mm), REGIONS, tolerance_mm=1.5
    )
    assert list(scores) == ["WT", "TC", "ET", "edema", "core"]
    members = {structure.name: structure.values for structure in structures(REGIONS)}
    for name, found in scores.items():
        p, t = (
            torch.from_numpy(np.isin(a, members[name]))[None, None] for a in (prediction, truth)
        )
        hd = compute_hausdorff_distance(p, t, percentile=95, spacing=spacing_mm)
        nsd = compute_surface_dice(p, t, [1.5], include_background=True, spacing=spacing_mm)
        dice = 2 * (p & t).sum() / (p.sum() + t.sum())
        assert 0 < found.dice < 1
        assert found.dice == pytest.approx(float(dice), abs=1e-6)
        assert found.hd95_mm == pytest.approx(float(hd), abs=1e-4)
        assert found.nsd == pytest.approx(float(nsd), abs=1e-6)


@pytest.mark.filterwarnings(OF_MONAI)
@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (0.7, 0.9, 3.0)])
@pytest.mark.parametrize("tolerance_mm", [0.0, 1.0, 1.4])
def test_surface_elements_give_the_nsd_of_monais_subvoxels(
    spacing_mm: tuple[float, float, float], tolerance_mm: float
) -> None:
    truth, prediction = blobs(0, (40, 36, 22)), blobs(0, (40, 36, 22), jitter=0.08)
    # A mask on the end of the volume has a surface there as well.
    truth[:, :4, :6], prediction[:, :5, :7] = 2, 2
    pair = volume(prediction, spacing_mm), volume(truth, spacing_mm)
    elements = score_pair(*pair, REGIONS, tolerance_mm=tolerance_mm, nsd="surface-elements")
    voxels = score_pair(*pair, REGIONS, tolerance_mm=tolerance_mm)
    members = {structure.name: structure.values for structure in structures(REGIONS)}
    for name, found in elements.items():
        p, t = (
            torch.from_numpy(np.isin(a, members[name]))[None, None] for a in (prediction, truth)
        )
        theirs = compute_surface_dice(
            p,
            t,
            [tolerance_mm + 1e-6],
            include_background=True,
            spacing=spacing_mm,
            use_subvoxels=True,
        )
        assert found.nsd == pytest.approx(float(theirs), abs=1e-5)
        assert found.nsd == 1 or abs(found.nsd - voxels[name].nsd) > 1e-3
        assert (found.dice, found.hd95_mm) == (voxels[name].dice, voxels[name].hd95_mm)


def test_surface_elements_of_an_empty_mask_score_as_border_voxels_do() -> None:
    array = np.zeros((4, 4, 4), dtype=np.uint8)
    array[1:3, 1:3, 1:3] = 2
    full, empty = volume(array), volume(np.zeros_like(array))
    for pair in ((full, empty), (empty, full), (empty, empty), (full, full)):
        elements = score_pair(*pair, LABELS, nsd="surface-elements")
        assert [s.nsd for s in elements.values()] == [
            s.nsd for s in score_pair(*pair, LABELS).values()
        ]


def test_volumes_are_in_milliliters() -> None:
    truth, prediction = np.zeros((2, 10, 10, 10), dtype=np.uint8)
    truth[:5] = 1
    prediction[:4] = 1
    found = score_pair(volume(prediction, (1, 2, 3)), volume(truth, (1, 2, 3)), LABELS)["edema"]
    assert found.truth_volume_ml == pytest.approx(3.0)
    assert found.volume_error_ml == pytest.approx(-0.6)
    assert found.volume_error_percent == pytest.approx(-20.0)


def test_distances_follow_the_spacing() -> None:
    truth, prediction = np.zeros((2, 20, 6, 6), dtype=np.uint8)
    truth[5:10] = 1
    prediction[7:12] = 1
    found = score_pair(volume(prediction, (3, 1, 1)), volume(truth, (3, 1, 1)), LABELS)["edema"]
    assert found.hd95_mm == pytest.approx(6.0)


def test_a_structure_in_neither_map_is_found_right() -> None:
    empty = volume(np.zeros((4, 4, 4), dtype=np.uint8))
    for found in score_pair(empty, empty, LABELS).values():
        assert (found.dice, found.nsd, found.hd95_mm) == (1.0, 1.0, 0.0)
        assert found.volume_error_percent == 0.0
        assert found.undefined == ()


def test_a_structure_in_one_map_scores_zero_and_has_no_distance() -> None:
    array = np.zeros((4, 4, 4), dtype=np.uint8)
    array[1:3, 1:3, 1:3] = 2
    full, empty = volume(array), volume(np.zeros_like(array))
    missed = score_pair(empty, full, LABELS)["core"]
    invented = score_pair(full, empty, LABELS)["core"]
    for found in (missed, invented):
        assert (found.dice, found.nsd) == (0.0, 0.0)
        assert math.isnan(found.hd95_mm)
    assert missed.undefined == ("hd95_mm",)
    assert missed.volume_error_percent == pytest.approx(-100)
    assert invented.undefined == ("hd95_mm", "volume_error_percent")


def test_equal_maps_score_one_with_every_label_and_region() -> None:
    truth = volume(blobs(3, (30, 30, 30)), (0.5, 1, 2))
    found = score_pair(truth, truth, REGIONS, tolerance_mm=0.0)
    assert len(found) == 5
    assert {(s.dice, s.nsd, s.hd95_mm, s.volume_error_ml) for s in found.values()} == {
        (1.0, 1.0, 0.0, 0.0)
    }


def test_a_tolerance_of_two_voxels_reaches_two_voxels_whatever_the_rounding() -> None:
    truth, prediction = np.zeros((2, 24, 5, 5), dtype=np.uint8)
    truth[9:12] = 1
    prediction[7:10] = 1
    spacing = (0.7, 9.0, 9.0)
    found = score_pair(
        volume(prediction, spacing), volume(truth, spacing), LABELS, tolerance_mm=1.4
    )["edema"]
    assert found.nsd == 1.0


def test_a_tolerance_may_differ_by_name_and_none_may_be_missing() -> None:
    truth, prediction = volume(blobs(0, (30, 30, 30))), volume(blobs(0, (30, 30, 30), jitter=0.1))
    wide = score_pair(prediction, truth, LABELS, tolerance_mm={"edema": 50, "core": 0, "rim": 0})
    assert wide["edema"].nsd == 1.0
    assert wide["core"].nsd < 1.0
    with pytest.raises(InputFault, match="no tolerance for core, rim") as fault:
        score_pair(prediction, truth, LABELS, tolerance_mm={"edema": 1})
    assert fault.value.code == "E_TOLERANCE"


def test_another_grid_is_refused_with_the_difference_in_words() -> None:
    array = np.zeros((4, 4, 4), dtype=np.uint8)
    with pytest.raises(InputFault, match=r"corners up to .* mm apart") as fault:
        score_pair(volume(array, (1, 1, 2)), volume(array), LABELS)
    assert fault.value.code == "E_PAIR"


def test_a_label_with_the_name_of_another_region_keeps_its_own_score() -> None:
    table = LabelTable.from_names({1: "tumor", 2: "cyst"})
    target = Target(table, (Region("tumor", (1, 2), 1),))
    assert [s.name for s in structures(target)] == ["tumor", "label tumor", "cyst"]
