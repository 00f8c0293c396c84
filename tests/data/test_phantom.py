import json
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from medseg.data.card import Card, load_card, shipped_cards
from medseg.data.cases import Listing, open_listing
from medseg.data.pairs import check_pairs
from medseg.data.phantom.atlas import ABDOMEN, HEART, TEMPORAL_LOBE, atlas_of
from medseg.data.phantom.brain import CONTRASTS, contrast_of
from medseg.data.phantom.dataset import MARK, NOTICE_FILE, make_phantom
from medseg.data.phantom.shapes import random_turn, smooth_noise
from medseg.fault import InputFault
from medseg.io.nifti import read_header, read_labels, read_volume
from medseg.progress import Progress
from medseg.volume import LabelTable

CARDS = [card.name for card in shipped_cards()]
SIDE = 32


def _made(name: str | Card, folder: Path, *, subjects: int = 2, **more) -> Listing:
    card = load_card(name) if isinstance(name, str) else name
    root = make_phantom(card, folder, subjects=subjects, **{"longest_side": SIDE, **more})
    return open_listing(card, root)


def _arrays(listing: Listing) -> list[tuple[np.ndarray, np.ndarray]]:
    return [
        (
            read_volume(case.images, listing.channels).array,
            read_labels(case.label, listing.labels).array,
        )
        for case in listing.cases
        if case.label is not None
    ]


def _own_card(tmp_path: Path, **facts: object) -> Card:
    text = {
        "name": "own",
        "title": "A set of one's own",
        "layout": "folder",
        "channels": ["a", "b"],
        "labels": {"1": "left lobe", "2": "right lobe", "7": "stem"},
        "files": {"images": {"a": "{case}/a.nii.gz", "b": "{case}/b.nii.gz"}, "label": "{case}/l"},
        "licence": "none",
        "how_to_get": "not at all",
        **facts,
    }
    path = tmp_path / "own.yaml"
    path.write_text(json.dumps(text).replace('"{case}/l"', '"{case}/l.nii.gz"'), encoding="utf-8")
    return load_card(path)


@pytest.mark.parametrize("name", CARDS)
def test_every_card_has_a_phantom_that_its_own_layout_reads(name: str, tmp_path: Path) -> None:
    listing = _made(name, tmp_path / "set")
    check_pairs(listing)
    assert len(listing.cases) == 2
    arrays = _arrays(listing)
    for image, labels in arrays:
        assert len(image) == len(listing.channels)
        assert set(np.unique(labels)) == {0, *listing.labels.values}
        assert all(channel.std() > 0 for channel in image)
    assert not np.array_equal(arrays[0][1], arrays[1][1])


@pytest.mark.parametrize("name", CARDS)
def test_a_phantom_says_that_it_is_synthetic(name: str, tmp_path: Path) -> None:
    listing = _made(name, tmp_path, subjects=1)
    assert "SYNTHETIC" in (tmp_path / NOTICE_FILE).read_text(encoding="utf-8")
    if listing.card.layout != "folder":
        facts = json.loads((tmp_path / "dataset.json").read_text(encoding="utf-8"))
        assert "SYNTHETIC" in facts["description"]
        assert "Synthetic" in facts["name"]


def test_the_same_arguments_give_the_same_images(tmp_path: Path) -> None:
    first, again, other = (
        _arrays(_made("brats_2021", tmp_path / str(number), seed=seed))
        for number, seed in enumerate((3, 3, 4))
    )
    for one, two, three in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(one[0], two[0])
        np.testing.assert_array_equal(one[1], two[1])
        assert not np.array_equal(one[1], three[1])


def test_more_subjects_leave_the_first_as_they_are(tmp_path: Path) -> None:
    few = _arrays(_made("hippocampus", tmp_path / "few", subjects=1))
    many = _arrays(_made("hippocampus", tmp_path / "many", subjects=3))
    np.testing.assert_array_equal(few[0][0], many[0][0])


def test_a_finished_set_is_kept_and_another_replaced(tmp_path: Path) -> None:
    card, told = load_card("hippocampus"), []

    def listener(event: Progress) -> None:
        told.append(event)

    for subjects in (3, 3, 2):
        make_phantom(card, tmp_path, subjects=subjects, longest_side=SIDE, listener=listener)
    assert [event.total for event in told] == [3, 3, 3, 2, 2]
    assert len(open_listing(card, tmp_path).cases) == 2
    assert len(list(tmp_path.rglob("*.nii.gz"))) == 4


def test_a_set_that_a_killed_run_left_is_made_again(tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def listener(event: Progress) -> None:
        if event.done == 1:
            raise Killed

    card = load_card("hippocampus")
    with pytest.raises(Killed):
        make_phantom(card, tmp_path, subjects=3, longest_side=SIDE, listener=listener)
    assert not json.loads((tmp_path / MARK).read_text(encoding="utf-8"))["complete"]
    assert len(_made(card, tmp_path, subjects=3).cases) == 3


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "patient").mkdir()
    with pytest.raises(InputFault, match="no synthetic set") as caught:
        _made("hippocampus", tmp_path)
    assert caught.value.code == "E_PHANTOM"
    assert [path.name for path in tmp_path.iterdir()] == ["patient"]


def test_spacing_and_size_are_the_wanted_ones(tmp_path: Path) -> None:
    for number, (spacing, shape) in enumerate(
        [((1.5, 1.5, 2.0), (40, 40, 40)), ((8.0, 8.0, 16.0), (24, 24, 12))]
    ):
        listing = _made(
            "synapse", tmp_path / str(number), subjects=1, spacing_mm=spacing, longest_side=40
        )
        grid = read_header(listing.cases[0].images[0]).grid
        assert grid.spacing_mm == pytest.approx(spacing)
        assert grid.shape == shape
        assert grid.axis_codes == "RAS"


@pytest.mark.parametrize("name", ["brats_2021", "brats_2023", "brats_msd"])
def test_a_lesion_is_a_core_in_a_rim_in_edema(name: str, tmp_path: Path) -> None:
    listing = _made(name, tmp_path, subjects=3, longest_side=48)
    lesion = listing.card.phantom.lesion
    assert lesion is not None
    at = {channel: number for number, channel in enumerate(listing.channels)}
    flair, t1, t1c = (at[channel] for channel in ("flair", "t1", "t1ce"))
    centers, volumes = [], []
    for image, labels in _arrays(listing):
        core, rim, edema = (
            labels == value for value in (lesion.core, lesion.enhancing, lesion.edema)
        )
        brain = image[flair] > 0
        around = ndimage.binary_dilation(core) & ~core & brain
        assert (rim | core)[around].mean() > 0.95
        assert ndimage.label(core | rim | edema)[1] == 1
        healthy = brain & (labels == 0)
        assert image[flair][edema].mean() > 1.2 * image[flair][healthy].mean()
        relative = [image[c][rim].mean() / image[c][healthy].mean() for c in (t1, t1c)]
        assert relative[1] > 1.3 * relative[0]
        centers.append(ndimage.center_of_mass(labels > 0))
        volumes.append((labels > 0).sum())
    assert len(set(volumes)) == 3
    assert np.ptp(np.array(centers), axis=0).max() > 3


def test_the_brain_is_that_of_the_installed_template(tmp_path: Path) -> None:
    """White matter is brighter than gray in T1 and darker in T2, outside is 0."""
    listing = _made("brats_2021", tmp_path, subjects=1, longest_side=48)
    image, labels = _arrays(listing)[0]
    at = {channel: number for number, channel in enumerate(listing.channels)}
    inside = (image[0] > 0) & (labels == 0)
    np.testing.assert_array_equal(image[0] > 0, image[1] > 0)
    t1, t2 = image[at["t1"]][inside], image[at["t2"]][inside]
    assert np.corrcoef(t1, t2)[0, 1] < -0.2


def test_contrasts_go_by_their_names() -> None:
    for name in ("T1ce", "t1gd", "t1c"):
        assert contrast_of(name) == CONTRASTS["t1c"]
    assert contrast_of("T2w") == CONTRASTS["t2"]
    with pytest.raises(InputFault, match="DWI") as caught:
        contrast_of("DWI")
    assert caught.value.code == "E_PHANTOM"


def test_known_organs_have_their_places() -> None:
    for name, atlas in (("synapse", ABDOMEN), ("acdc", HEART), ("hippocampus", TEMPORAL_LOBE)):
        card = load_card(name)
        assert card.labels is not None
        assert atlas_of(card.labels, modality=card.modality, channel="x") is atlas


def test_left_and_right_mirror_each_other_and_look_alike() -> None:
    table = LabelTable.from_names({1: "left lobe", 2: "right lobe", 7: "stem"})
    for modality in ("MR", "CT"):
        organs = atlas_of(table, modality=modality, channel="a").organs
        left, right = organs["left lobe"], organs["right lobe"]
        assert left.place == pytest.approx((-right.place[0], *right.place[1:]))
        assert left.place[0] < 0
        assert left.signal == right.signal
        assert left.radii == right.radii


def test_a_card_of_ones_own_gets_a_body_with_its_labels(tmp_path: Path) -> None:
    card = _own_card(tmp_path)
    listing = _made(card, tmp_path / "set")
    check_pairs(listing)
    for image, labels in _arrays(listing):
        assert len(image) == 2
        left, right = (np.argwhere(labels == value)[:, 0].mean() for value in (1, 2))
        # RAS: the first axis runs from left to right.
        assert left < right


def test_ct_is_in_hounsfield_units(tmp_path: Path) -> None:
    for number, card in enumerate((load_card("synapse"), _own_card(tmp_path, modality="CT"))):
        image, labels = _arrays(_made(card, tmp_path / str(number), subjects=1))[0]
        assert -1100 < image.min() < -900
        assert image.max() < 1000
        assert 0 < image[0][labels > 0].mean() < 250


def test_every_label_survives_a_tiny_block(tmp_path: Path) -> None:
    listing = _made("synapse", tmp_path, longest_side=16)
    for _, labels in _arrays(listing):
        assert set(np.unique(labels)) == {0, *listing.labels.values}


@pytest.mark.parametrize("name", ["acdc", "hippocampus", "synapse", "msd"])
def test_intensity_alone_does_not_find_the_organs(name: str, tmp_path: Path) -> None:
    """No interval of intensities, chosen with the truth in hand, gives the mean organ well."""
    listing = _made(name, tmp_path, subjects=1, longest_side=48)
    image, labels = _arrays(listing)[0]
    edges = np.quantile(image[0], np.linspace(0, 1, 65))
    place = np.digitize(image[0], edges[1:-1]).ravel()
    best = []
    for value in listing.labels.values:
        hits = np.bincount(place, weights=(labels.ravel() == value), minlength=64)
        total = np.bincount(place, minlength=64)
        inside, taken = (np.concatenate([[0], np.cumsum(part)]) for part in (hits, total))
        first, last = np.triu_indices(65, 1)
        overlap = inside[last] - inside[first]
        best.append((2 * overlap / (taken[last] - taken[first] + hits.sum())).max())
    assert np.mean(best) < 0.65


def test_smooth_noise_is_smooth_and_standard() -> None:
    noise = smooth_noise(np.random.default_rng(0), (40, 30, 20), width=8)
    assert noise.shape == (40, 30, 20)
    assert noise.mean() == pytest.approx(0, abs=1e-5)
    assert noise.std() == pytest.approx(1, abs=1e-4)
    assert np.abs(np.diff(noise, axis=0)).max() < 0.7


def test_a_random_turn_is_a_rotation() -> None:
    for seed in range(5):
        turn = random_turn(np.random.default_rng(seed))
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(turn) == pytest.approx(1)
