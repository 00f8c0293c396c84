"""nnU-Net itself: small models trained and saved by its trainer, and predicted by its predictor."""

import io
import json
import warnings
from collections.abc import Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

STEPS = 60
# Radii as shares of the shortest side.
BALLS = (0.24, 0.2, 0.18, 0.15, 0.18, *((0.15, 0.2, 0.12, 0.22, 0.17) * 20))


@dataclass(frozen=True)
class Peer:
    """What a small nnU-Net is made of; the rest of its plans is nnU-Net's usual."""

    configuration: str = "3d_fullres"
    spacing: Sequence[float] = (1.5, 1.0, 1.0)
    patch: Sequence[int] = (16, 24, 24)
    strides: Sequence[Sequence[int]] = ((1, 1, 1), (2, 2, 2), (2, 2, 2))
    features: Sequence[int] = (8, 12, 16)
    architecture: str = "PlainConvUNet"
    labels: Mapping[str, Any] = field(
        default_factory=lambda: {"background": 0, "left ball": 1, "right ball": 2, "shell": 3}
    )
    regions_class_order: Sequence[int] | None = None
    channels: Sequence[str] = ("CT",)
    schemes: Sequence[str] = ("CTNormalization",)
    masked: Sequence[bool] = (False,)
    reader: str = "SimpleITKIO"
    transpose: Sequence[int] = (0, 1, 2)
    trainer: str = "nnUNetTrainer"
    previous: str | None = None
    folds: Sequence[int | str] = (0,)
    steps: int = STEPS
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def model_name(self) -> str:
        return f"{self.trainer}__nnUNetPlans__{self.configuration}"


def phantom(
    shape: Sequence[int], affine: np.ndarray, *, seed: int, channels: int = 1, kinds: int = 3
) -> tuple[np.ndarray, np.ndarray]:
    """Noisy balls of several kinds (c i j k) and their labels, in a box with zeros around it."""
    random = np.random.default_rng(seed)
    mm = np.linalg.norm(affine[:3, :3], axis=0)
    place = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1) * mm
    labels = np.zeros(shape, dtype=np.uint8)
    size = np.array(shape) * mm
    for value, share in zip((3, 1, 2, 1, 2, *range(3, kinds + 1)), BALLS, strict=False):
        center, radius = size * random.uniform(0.25, 0.75, 3), share * size.min()
        away = np.linalg.norm(place - center, axis=-1)
        labels[away < radius] = value
    noise = 18 / kinds
    level = np.linspace(-20.0, 180.0, kinds + 1)[labels]
    image = np.stack(
        [level * (1 + 0.3 * n) + noise * random.standard_normal(shape) for n in range(channels)]
    ).astype(np.float32)
    image = np.round(image, 1)
    image[image == 0] = 0.1
    for axis, low in enumerate((2, 3, 1)):
        edge = np.moveaxis(image, axis + 1, 0)
        edge[:low], edge[-2:] = 0, 0
        np.moveaxis(labels, axis, 0)[:low] = 0
        np.moveaxis(labels, axis, 0)[-2:] = 0
    return image, labels


def affine_of(codes: str, mm: Sequence[float]) -> np.ndarray:
    """An affine whose array axes run towards `codes`, with these spacings."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, code in enumerate(codes):
        world = next(n for n, pair in enumerate(("LR", "PA", "IS")) if code in pair)
        affine[world, axis] = mm[axis] * (1 if code in "RAS" else -1)
    affine[:3, 3] = (12.0, -30.5, 7.25)
    return affine


def write_case(folder: Path, name: str, image: np.ndarray, affine: np.ndarray) -> list[Path]:
    """One file a channel, named as nnU-Net wants it."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}_{n:04d}.nii.gz" for n in range(len(image))]
    for path, channel in zip(paths, image, strict=True):
        made = nibabel.Nifti1Image(channel, affine)
        made.header.set_xyzt_units("mm")
        nibabel.save(made, path)
    return paths


@contextmanager
def quiet():
    """nnU-Net prints and warns; the tests look at what it computes."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def plans_of(peers: Sequence[Peer]) -> dict[str, Any]:
    """A plans file of several configurations, in the form that nnunetv2 2.8 writes."""
    first = peers[0]
    return {
        "dataset_name": "Dataset999_Balls",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [1.5, 1.0, 1.0],
        "original_median_shape_after_transp": [40, 40, 40],
        "image_reader_writer": first.reader,
        "transpose_forward": list(first.transpose),
        "transpose_backward": [list(first.transpose).index(axis) for axis in range(3)],
        "configurations": {peer.configuration: _configuration(peer) for peer in peers},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            str(n): {
                "max": 400.0,
                "mean": 110.0,
                "median": 110.0,
                "min": -80.0,
                "percentile_00_5": -60.0,
                "percentile_99_5": 300.0,
                "std": 60.0,
            }
            for n in range(len(first.channels))
        },
    }


def _configuration(peer: Peer) -> dict[str, Any]:
    dims = len(peer.patch)
    stages = len(peer.strides)
    residual = peer.architecture == "ResidualEncoderUNet"
    return {
        "data_identifier": f"nnUNetPlans_{peer.configuration}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(peer.patch),
        "median_image_size_in_voxels": [40.0] * dims,
        "spacing": list(peer.spacing),
        "normalization_schemes": list(peer.schemes),
        "use_mask_for_norm": list(peer.masked),
        **{
            f"resampling_fn_{what}": "resample_data_or_seg_to_shape"
            for what in ("data", "seg", "probabilities")
        },
        **{
            f"resampling_fn_{what}_kwargs": {
                "is_seg": what == "seg",
                "order": order,
                "order_z": 0,
                "force_separate_z": None,
            }
            for what, order in (("data", 3), ("seg", 1), ("probabilities", 1))
        },
        "batch_dice": True,
        "architecture": {
            "network_class_name": f"dynamic_network_architectures.architectures.unet."
            f"{peer.architecture}",
            "arch_kwargs": {
                "n_stages": stages,
                "features_per_stage": list(peer.features),
                "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
                "kernel_sizes": [[3] * dims] * stages,
                "strides": [list(stride) for stride in peer.strides],
                ("n_blocks_per_stage" if residual else "n_conv_per_stage"): [1] * stages,
                "n_conv_per_stage_decoder": [1] * (stages - 1),
                "conv_bias": True,
                "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dims}d",
                "norm_op_kwargs": {"eps": 1e-5, "affine": True},
                "dropout_op": None,
                "dropout_op_kwargs": None,
                "nonlin": "torch.nn.LeakyReLU",
                "nonlin_kwargs": {"inplace": True},
            },
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
        **({"previous_stage": peer.previous} if peer.previous else {}),
        **peer.more,
    }


def dataset_of(peer: Peer) -> dict[str, Any]:
    """A data set file."""
    order = peer.regions_class_order
    return {
        "channel_names": {str(n): name for n, name in enumerate(peer.channels)},
        "labels": dict(peer.labels),
        **({"regions_class_order": list(order)} if order else {}),
        "numTraining": 3,
        "file_ending": ".nii.gz",
    }


def train(results: Path, peers: Sequence[Peer]) -> Path:
    """Train each of `peers` (configurations of one data set) by nnU-Net's trainer.

    Its network, loss, optimizer, training step and checkpoint; only the batches are drawn here,
    without its processes. Returns the results folder of the data set.
    """
    plans, dataset = plans_of(peers), dataset_of(peers[0])
    for peer in peers:
        folder = results / peer.model_name
        for number, fold in enumerate(peer.folds):
            (folder / f"fold_{fold}").mkdir(parents=True)
            (folder / "plans.json").write_text(json.dumps(plans))
            (folder / "dataset.json").write_text(json.dumps(dataset))
            path = folder / f"fold_{fold}" / "checkpoint_final.pth"
            with quiet():
                _train_one(peer, plans, dataset, fold, path, seed=number)
    return results


def _train_one(
    peer: Peer, plans: dict, dataset: dict, fold: int | str, path: Path, *, seed: int
) -> None:
    torch.manual_seed(seed)
    kind = recursive_find_trainer_class_by_name(peer.trainer)
    trainer = kind(
        plans={**json.loads(json.dumps(plans)), "continue_training": False},
        configuration=peer.configuration,
        fold=fold,
        dataset_json=dataset,
        device=torch.device("cpu"),
    )
    # It asks the folder of prepared cases which format they have; ours are in memory.
    (path.parent / "case.b2nd").touch()
    trainer.preprocessed_dataset_folder = str(path.parent)
    trainer.initialize()
    trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    trainer.optimizer.param_groups[0]["lr"] = 0.03
    cases = [_preprocessed(trainer, peer, seed=100 * seed + case) for case in range(2)]
    random = np.random.default_rng(seed)
    trainer.network.train()
    for step in range(peer.steps):
        batch = [_patch(trainer, *cases[(step + n) % 2], random) for n in range(2)]
        data = torch.stack([one[0] for one in batch])
        target = torch.stack([one[1] for one in batch])
        scales = trainer._get_deep_supervision_scales() or [[1] * target[0, 0].ndim]
        targets = [_coarser(target, scale) for scale in scales]
        deep = trainer.enable_deep_supervision
        loss = trainer.train_step({"data": data, "target": targets if deep else targets[0]})
        trainer.logger.log("train_losses", np.float32(loss["loss"]), 0)
    trainer._best_ema = np.float64(0.5)
    trainer.save_checkpoint(str(path))


def _preprocessed(trainer: Any, peer: Peer, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    affine = affine_of("RAS", (1.0, 1.0, 1.5))
    kinds = max(trainer.label_manager.foreground_labels)
    image, labels = phantom(
        (40, 44, 30), affine, seed=seed, channels=len(peer.channels), kinds=kinds
    )
    config = trainer.configuration_manager
    preprocessor = config.preprocessor_class(verbose=False)
    data, seg, _ = preprocessor.run_case_npy(
        image.transpose(0, 3, 2, 1),
        labels.transpose(2, 1, 0)[None].astype(np.int16),
        {"spacing": [1.5, 1.0, 1.0]},
        trainer.plans_manager,
        config,
        trainer.dataset_json,
    )
    if peer.previous:
        values = trainer.label_manager.foreground_labels
        rolled = np.roll(seg[0], 1, axis=1)
        data = np.concatenate([data, [(rolled == value) for value in values]])
    return data.astype(np.float32), np.maximum(seg, 0)


def _patch(
    trainer: Any, data: np.ndarray, seg: np.ndarray, random: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    size = list(trainer.configuration_manager.patch_size)
    flat = len(size) == 2
    box = [1, *size] if flat else size
    needed = [max(side - have, 0) for side, have in zip(box, data.shape[1:], strict=True)]
    margins = [(0, 0), *((0, more) for more in needed)]
    data, seg = np.pad(data, margins), np.pad(seg, margins)
    # About a voxel of a label that is drawn, so that each is seen often.
    value = random.choice(np.unique(seg))
    center = random.permutation(np.argwhere(seg[0] == value))[0]
    at = [
        int(np.clip(c - s // 2, 0, h - s))
        for c, s, h in zip(center, box, data.shape[1:], strict=True)
    ]
    where = (slice(None), *(slice(a, a + s) for a, s in zip(at, box, strict=True)))
    values, wanted = data[where], _regions(trainer, seg[where])
    if flat:
        values, wanted = values[:, 0], wanted[:, 0]
    return torch.from_numpy(values.copy()), torch.from_numpy(wanted.astype(np.float32))


def _regions(trainer: Any, seg: np.ndarray) -> np.ndarray:
    manager = trainer.label_manager
    if not manager.has_regions:
        return seg
    return np.concatenate([np.isin(seg, members) for members in manager.foreground_regions])


def _coarser(target: torch.Tensor, scale: Sequence[float]) -> torch.Tensor:
    steps = (slice(None), slice(None), *(slice(None, None, round(1 / one)) for one in scale))
    return target[steps]


def predictor_of(folder: Path, folds: Sequence[int | str]) -> Any:
    """nnU-Net's predictor of a model, on the CPU, with everything as nnUNetv2_predict has it."""
    with quiet():
        made = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
        made.initialize_from_trained_model_folder(str(folder), tuple(folds))
    return made


def predicted(
    predictor: Any, paths: Sequence[Path], *, previous: np.ndarray | None = None
) -> np.ndarray:
    """nnU-Net's labels (i, j, k) of one case; `previous` are those of a first stage."""
    labels, properties, reader = _run(predictor, paths, previous, probabilities=False)
    out = paths[0].with_name("peer.nii.gz")
    with quiet():
        reader.write_seg(labels, str(out), properties)
    return np.asanyarray(nibabel.load(out).dataobj)


def margins(
    predictor: Any, paths: Sequence[Path], *, previous: np.ndarray | None = None
) -> np.ndarray:
    """How far (i, j, k) nnU-Net's probabilities are from another label, where it reads as stored.

    The likeliest label's less the next one's; of regions the distance to one half.
    """
    (_, shares), _, _ = _run(predictor, paths, previous, probabilities=True)
    if predictor.label_manager.has_regions:
        return np.abs(shares - 0.5).min(axis=0).transpose(2, 1, 0)
    best = np.sort(shares, axis=0)
    return (best[-1] - best[-2]).transpose(2, 1, 0)


def _run(
    predictor: Any, paths: Sequence[Path], previous: np.ndarray | None, *, probabilities: bool
) -> tuple[Any, dict, Any]:
    reader = predictor.plans_manager.image_reader_writer_class()
    with quiet():
        image, properties = reader.read_images([str(path) for path in paths])
        stage = None if previous is None else previous.transpose(2, 1, 0)[None].astype(np.float32)
        made = predictor.predict_single_npy_array(
            image, properties, stage, save_or_return_probabilities=probabilities
        )
    return made, properties, reader
