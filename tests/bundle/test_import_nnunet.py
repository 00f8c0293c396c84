"""Bundles of nnU-Net's models give nnU-Net's labels, voxel by voxel."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medseg.bundle.bundle import Bundle, load_bundle
from medseg.bundle.imported.folds import import_folds
from medseg.bundle.imported.nnunet import import_nnunet
from medseg.cli.main import main
from medseg.fault import InputFault
from medseg.io.nifti import read_volume
from tests.bundle.nnunet_peer import (
    Peer,
    affine_of,
    margins,
    phantom,
    predicted,
    predictor_of,
    train,
    write_case,
)

# nnU-Net sums and resamples logits in float16. With sums like that only voxels differ where its own
# probabilities are this near to each other; with those of float32, which are nearer to the truth,
# a few more of a network of sixty steps.
TIE = 4e-3
MOST_TIES = 2e-4
MOST_ROUNDED = 1e-3
SHAPE = (34, 32, 26)
MM = (0.9, 1.1, 1.3)
REGIONS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "shell": 3}
LOW = Peer(
    configuration="3d_lowres",
    spacing=(2.5, 2.0, 2.0),
    patch=(12, 16, 16),
    strides=((1, 1, 1), (1, 2, 2), (2, 2, 2)),
)
CASCADE = Peer(configuration="3d_cascade_fullres", previous="3d_lowres")
THICK = Peer(spacing=(4.0, 1.0, 1.0), patch=(6, 24, 24), strides=((1, 1, 1), (1, 2, 2), (1, 2, 2)))
FLAT = Peer(
    configuration="2d", spacing=(1.0, 1.0), patch=(24, 28), strides=((1, 1), (2, 2), (2, 2))
)
TWO_CHANNELS = Peer(
    channels=("T1", "T2"),
    schemes=("ZScoreNormalization", "RescaleTo01Normalization"),
    masked=(True, False),
)


@pytest.fixture(scope="session")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Peers"]:
    root = tmp_path_factory.mktemp("nnunet")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            patch.setenv(name, str(root / "nnunet"))
        yield Peers(root)


class Peers:
    """nnU-Net's models, each trained when it is first asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def results(self, *stages: Peer) -> Path:
        folder = self.root / f"{abs(hash(repr(stages)))}" / "Dataset999_Balls"
        return folder if folder.exists() else train(folder, stages)

    def bundle(self, *stages: Peer) -> Bundle:
        folder = self.results(*stages).parent / "bundle"
        if not folder.exists():
            import_nnunet(self.results(*stages), folder, configuration=stages[-1].configuration)
        return load_bundle(folder)


@dataclass(frozen=True)
class Case:
    paths: Sequence[Path]
    channels: tuple[str, ...]

    @classmethod
    def written(
        cls, folder: Path, peer: Peer, codes: str, mm: Sequence[float], shape: Sequence[int]
    ) -> "Case":
        affine = affine_of(codes, mm)
        image, _ = phantom(shape, affine, seed=7, channels=len(peer.channels))
        # A hole that all channels share, and zeros in one of them alone.
        image[:, 14:18, 13:16, 5:8] = 0
        image[0, 20:22, 15:25] = 0
        return cls(write_case(folder, "case", image, affine), tuple(peer.channels))

    def ours(self, bundle: Bundle, *, rounded: bool = False) -> np.ndarray:
        settings = bundle.walk_settings()
        if rounded:
            settings = replace(settings, sums="float16", blended="logits", kernels="reference")
        volume = read_volume(self.paths, self.channels)
        return bundle.predictor(settings=settings).predict(volume).array


def assert_the_labels_are_theirs(peers: Peers, case: Case, *stages: Peer) -> None:
    bundle = peers.bundle(*stages)
    previous = None
    if bundle.previous:
        assert_one_stages_labels_are_theirs(peers, case, bundle.previous, stages, stages[0])
        # A tie of the first stage may move what the second one sees: both get the same labels.
        previous = case.ours(bundle.previous)
    assert_one_stages_labels_are_theirs(peers, case, bundle, stages, stages[-1], previous)


def assert_one_stages_labels_are_theirs(
    peers: Peers,
    case: Case,
    bundle: Bundle,
    stages: Sequence[Peer],
    stage: Peer,
    previous: np.ndarray | None = None,
) -> None:
    theirs = predictor_of(peers.results(*stages) / stage.model_name, stage.folds)
    wanted = predicted(theirs, case.paths, previous=previous)
    assert (np.bincount(wanted.ravel(), minlength=4)[1:] > 20).sum() >= 2
    assert (case.ours(bundle) != wanted).mean() <= MOST_ROUNDED
    differs = case.ours(bundle, rounded=True) != wanted
    assert differs.mean() <= MOST_TIES
    if differs.any() and "Reorient" not in stage.reader:
        assert margins(theirs, case.paths, previous=previous)[differs].max() < TIE


@pytest.mark.parametrize(
    ("stages", "codes", "mm", "shape"),
    [
        pytest.param([Peer()], "LPS", MM, SHAPE, id="full resolution"),
        pytest.param([Peer()], "PIR", (0.8, 4.0, 0.9), (36, 12, 34), id="thick slices"),
        pytest.param([Peer()], "LPS", (1.5, 1.5, 2.0), (20, 22, 9), id="smaller than the patch"),
        pytest.param(
            [Peer(labels=REGIONS, regions_class_order=(1, 2, 3))], "LPS", MM, SHAPE, id="regions"
        ),
        pytest.param([LOW, CASCADE], "LAS", MM, SHAPE, id="cascade"),
        pytest.param(
            [Peer(architecture="ResidualEncoderUNet")], "LPS", MM, SHAPE, id="residual encoder"
        ),
        pytest.param([Peer(folds=(0, 1))], "RAS", MM, SHAPE, id="two folds"),
        pytest.param([FLAT], "LPS", MM, SHAPE, id="planes"),
        pytest.param([TWO_CHANNELS], "LPS", MM, SHAPE, id="two channels, inside"),
        *(
            pytest.param(stages, codes, mm, shape, id=name, marks=pytest.mark.slow)
            for name, stages, codes, mm, shape in (
                ("plans of thick slices", [THICK], "LAS", (0.8, 0.8, 4.6), (42, 40, 11)),
                ("low resolution alone", [LOW], "LPS", MM, SHAPE),
                ("cascade of thick slices", [LOW, CASCADE], "LAS", (0.8, 0.9, 4.0), (42, 40, 11)),
                (
                    "cascade of folds",
                    [replace(LOW, folds=(0, 1)), replace(CASCADE, folds=(0, 1))],
                    "RAS",
                    MM,
                    SHAPE,
                ),
                ("planes of thick slices", [FLAT], "LAS", (0.8, 0.9, 4.0), (42, 40, 11)),
                (
                    "turned to RAS by nibabel",
                    [Peer(reader="NibabelIOWithReorient")],
                    "LIP",
                    (1.0, 1.5, 1.0),
                    (34, 22, 32),
                ),
                (
                    "turned to RAS by SimpleITK",
                    [Peer(reader="SimpleITKIOWithReorient")],
                    "LIP",
                    (1.0, 1.5, 1.0),
                    (34, 22, 32),
                ),
                (
                    "axes in another order",
                    [Peer(transpose=(1, 0, 2), spacing=(1.0, 1.5, 1.2), patch=(24, 16, 24))],
                    "LPS",
                    MM,
                    SHAPE,
                ),
                ("no mirroring", [Peer(trainer="nnUNetTrainerNoMirroring")], "LPS", MM, SHAPE),
                ("batch norm", [Peer(trainer="nnUNetTrainerBN")], "LPS", MM, SHAPE),
                (
                    "no deep supervision",
                    [Peer(trainer="nnUNetTrainerNoDeepSupervision")],
                    "LPS",
                    MM,
                    SHAPE,
                ),
                ("fold of all cases", [Peer(folds=("all",))], "LPS", MM, SHAPE),
            )
        ),
    ],
)
def test_a_bundle_gives_nnunets_labels(
    peers: Peers,
    tmp_path: Path,
    stages: list[Peer],
    codes: str,
    mm: Sequence[float],
    shape: Sequence[int],
) -> None:
    case = Case.written(tmp_path, stages[-1], codes, mm, shape)
    assert_the_labels_are_theirs(peers, case, *stages)


def test_the_command_line_imports_and_predicts_what_nnunet_does(
    peers: Peers, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = Case.written(tmp_path / "in", Peer(), "LPS", MM, SHAPE)
    results, bundle = peers.results(Peer()), tmp_path / "bundle"
    assert main(["import", "nnunet", str(results), "-o", str(bundle)]) == 0
    assert "3d_fullres, fold 0 (final checkpoint)" in capsys.readouterr().out
    given = ["predict", str(bundle), str(tmp_path / "in"), "-o", str(tmp_path / "out")]
    assert main([*given, "--device", "cpu"]) == 0
    labels = np.asanyarray(nibabel.load(tmp_path / "out" / "case.nii.gz").dataobj)
    theirs = predicted(predictor_of(results / Peer().model_name, (0,)), case.paths)
    assert (labels != theirs).mean() <= MOST_ROUNDED
    assert (theirs > 0).sum() > 100


def test_folds_put_together_are_the_folds_imported_together(peers: Peers, tmp_path: Path) -> None:
    peer = Peer(folds=(0, 1))
    together = peers.bundle(peer)
    for fold in "01":
        import_nnunet(peers.results(peer), tmp_path / fold, folds=[fold])
    made = import_folds([tmp_path / "0", tmp_path / "1"], tmp_path / "both")
    assert len(made.models) == len(together.models) == 2
    assert made.sha256 == together.sha256
    case = Case.written(tmp_path, peer, "LPS", MM, SHAPE)
    assert np.array_equal(case.ours(made), case.ours(together))
    assert (case.ours(made) != case.ours(load_bundle(tmp_path / "0"))).any()


def test_folds_of_other_tasks_are_refused(peers: Peers, tmp_path: Path) -> None:
    one = peers.bundle(Peer()).folder
    other = peers.bundle(TWO_CHANNELS).folder
    with pytest.raises(InputFault, match=r"its task is not that of .*channels") as caught:
        import_folds([one, other], tmp_path / "made")
    assert caught.value.code == "E_FOLD"
    with pytest.raises(InputFault, match="give each fold once"):
        import_folds([one, one], tmp_path / "made")
    with pytest.raises(InputFault, match="two or more"):
        import_folds([one], tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_a_cascade_without_its_first_stage_is_refused(peers: Peers, tmp_path: Path) -> None:
    alone = tmp_path / "alone" / CASCADE.model_name
    alone.parent.mkdir()
    alone.symlink_to(tmp_path / "elsewhere" / CASCADE.model_name)
    (tmp_path / "elsewhere").mkdir()
    (peers.results(LOW, CASCADE) / CASCADE.model_name).rename(alone.resolve())
    try:
        with pytest.raises(InputFault, match="copy that folder there") as caught:
            import_nnunet(alone, tmp_path / "made")
    finally:
        alone.resolve().rename(peers.results(LOW, CASCADE) / CASCADE.model_name)
    assert caught.value.code == "E_CASCADE"
    assert not (tmp_path / "made").exists()


def test_a_fold_that_was_changed_in_the_bundle_is_refused(peers: Peers, tmp_path: Path) -> None:
    made = import_folds_of(peers, tmp_path)
    weights = made / "weights_1.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(InputFault) as caught:
        load_bundle(made)
    assert caught.value.code == "E_SHA256"
    weights.unlink()
    with pytest.raises(InputFault, match="missing"):
        load_bundle(made)


def import_folds_of(peers: Peers, tmp_path: Path) -> Path:
    import_nnunet(peers.results(Peer(folds=(0, 1))), tmp_path / "both")
    return tmp_path / "both"
