"""A network as a MONAI bundle: `python -m monai.bundle run --config_file configs/inference.json`.

MONAI resamples and windows by its own code, so its labels are near ours, not the same; the bundle's
docs say so.
"""

import json
import shutil
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from monai.bundle.config_parser import ConfigParser
from torch import Tensor, nn

from medseg.export.network import plain_network, refuse_other_logits
from medseg.export.torch_export import exported_program
from medseg.fault import InputFault
from medseg.io.atomic import write_json, write_text
from medseg.preprocess.normalise import Normalisation
from medseg.preprocess.record import Preprocessing
from medseg.volume import Task

MODEL = "models/model.pt2"
SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
    "meta_schema_20240725.json"
)


def write_monai_bundle(
    folder: Path,
    models: Sequence[nn.Module],
    windows: Sequence[Tensor],
    *,
    name: str,
    task: Task,
    preprocessing: Preprocessing,
    overlap: float,
    batch_size: int,
) -> float:
    """Write the mean of `models` with MONAI's transforms around it; the largest difference.

    Windows cover the share `overlap` of each other and run `batch_size` at a time.
    The network is compared on `windows` (b, c, i, j, k), and the configuration is parsed.

    Raises:
        InputFault: preprocessing has no equal in MONAI (E_MONAI), the folder is there (E_EXISTS),
            or the network computes something else (E_SELFTEST).
    """
    if folder.exists():
        raise InputFault(f"{folder}: it is there already; choose another.", code="E_EXISTS")
    config = inference_config(task, preprocessing, overlap=overlap, batch_size=batch_size)
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        network = plain_network(models)
        (made / "models").mkdir()
        torch.export.save(exported_program(network, windows[0]), made / MODEL)
        write_json(made / "configs/inference.json", config)
        write_json(made / "configs/metadata.json", _metadata(name, task))
        write_text(made / "docs/README.md", _readme(name, task))
        read_back = _parsed_network(made)
        apart = refuse_other_logits(models, read_back, windows, place=str(folder))
        made.chmod(0o755)
        made.rename(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return apart


def inference_config(
    task: Task, preprocessing: Preprocessing, *, overlap: float, batch_size: int
) -> dict[str, Any]:
    """What MONAI's ConfigParser reads: transforms, inferer, evaluator.

    Raises:
        InputFault: a step of preprocessing has no equal in MONAI (E_MONAI).
    """
    return {
        "imports": [
            "$import glob",
            "$import os",
            "$import numpy as np",
            "$import torch",
            "$import torch.export.passes",
        ],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/data'",
        "output_dir": "$@bundle_root + '/eval'",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "datalist": "$sorted(glob.glob(os.path.join(@dataset_dir, '*.nii.gz')))",
        "program": f"$torch.export.load(@bundle_root + '/{MODEL}')",
        "network_def": "$torch.export.passes.move_to_device_pass(@program, str(@device)).module()",
        # A graph has but one mode, and MONAI's evaluator asks for it.
        "network": "$(lambda net: (setattr(net, 'eval', lambda: net), "
        "setattr(net, 'train', lambda mode=True: net), net)[-1])(@network_def)",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": _transforms(task, preprocessing),
        },
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': path} for path in @datalist]",
            "transform": "@preprocessing",
        },
        "dataloader": {
            "_target_": "DataLoader",
            "dataset": "@dataset",
            "batch_size": 1,
            "shuffle": False,
            "num_workers": 0,
        },
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": list(task.patch_size),
            "sw_batch_size": batch_size,
            "overlap": overlap,
            "mode": "gaussian",
        },
        "postprocessing": {"_target_": "Compose", "transforms": _back(task)},
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
        },
        "run": ["$@evaluator.run()"],
    }


def _transforms(task: Task, preprocessing: Preprocessing) -> list[dict[str, Any]]:
    _refuse_unlike(preprocessing)
    steps: list[dict[str, Any]] = [
        {
            "_target_": "LoadImaged",
            "keys": "image",
            "reader": "NibabelReader",
            "ensure_channel_first": True,
        },
        {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS", "labels": None},
    ]
    if preprocessing.crop == "nonzero":
        steps.append(
            {
                "_target_": "CropForegroundd",
                "keys": "image",
                "source_key": "image",
                "select_fn": "$lambda x: x != 0",
                "allow_smaller": True,
            }
        )
    kinds = preprocessing.normalisation
    if len(set(kinds)) == 1:
        steps += _normalised("image", kinds[0])
    else:
        names = [f"channel{number}" for number in range(len(kinds))]
        keys = [f"image_{name}" for name in names]
        steps.append({"_target_": "SplitDimd", "keys": "image", "output_postfixes": names})
        steps += [
            step for key, kind in zip(keys, kinds, strict=True) for step in _normalised(key, kind)
        ]
        steps.append({"_target_": "ConcatItemsd", "keys": keys, "name": "image"})
        steps.append({"_target_": "DeleteItemsd", "keys": keys})
    if preprocessing.spacing_mm is not None:
        steps.append(
            {
                "_target_": "Spacingd",
                "keys": "image",
                "pixdim": list(task.spacing_mm),
                "mode": 3,
                "padding_mode": "nearest",
            }
        )
    return steps


def _normalised(key: str, kind: Normalisation) -> list[dict[str, Any]]:
    if kind.kind == "none":
        return []
    if kind.kind in ("zscore", "zscore_nonzero"):
        return [
            {
                "_target_": "NormalizeIntensityd",
                "keys": key,
                "nonzero": kind.kind == "zscore_nonzero",
                "channel_wise": True,
            }
        ]
    assert kind.lower is not None
    assert kind.upper is not None
    ends = (0.0, 1.0)
    if kind.kind == "ct":
        assert kind.mean is not None
        assert kind.std is not None
        ends = ((kind.lower - kind.mean) / kind.std, (kind.upper - kind.mean) / kind.std)
    return [
        {
            "_target_": "ScaleIntensityRanged",
            "keys": key,
            "a_min": kind.lower,
            "a_max": kind.upper,
            "b_min": ends[0],
            "b_max": ends[1],
            "clip": True,
        }
    ]


def _back(task: Task) -> list[dict[str, Any]]:
    """Onto the source grid, then to label values, as medseg orders them."""
    steps: list[dict[str, Any]] = [
        {
            "_target_": "Invertd",
            "keys": "pred",
            "transform": "@preprocessing",
            "orig_keys": "image",
            "nearest_interp": False,
            "to_tensor": True,
        }
    ]
    target = task.target
    if target.is_regions:
        values = [0, *(region.value for region in target.regions)]
        # The last region that is there gives the value.
        last = f"(x > 0) * torch.arange(1, {len(values)}, device=x.device).view(-1, 1, 1, 1)"
        func = f"$lambda x: torch.tensor({values}, device=x.device)[({last}).amax(0, keepdim=True)]"
        steps.append({"_target_": "Lambdad", "keys": "pred", "func": func})
    else:
        values = [0, *target.labels.values]
        steps.append({"_target_": "AsDiscreted", "keys": "pred", "argmax": True})
        if values != list(range(len(values))):
            steps.append(
                {
                    "_target_": "MapLabelValued",
                    "keys": "pred",
                    "orig_labels": list(range(len(values))),
                    "target_labels": values,
                }
            )
    steps.append(
        {
            "_target_": "SaveImaged",
            "keys": "pred",
            "output_dir": "@output_dir",
            "output_dtype": "$np.uint8" if max(values) < 256 else "$np.uint16",
            "resample": False,
            "separate_folder": False,
        }
    )
    return steps


def _refuse_unlike(preprocessing: Preprocessing) -> None:
    stored = preprocessing.to_json().get("orientation") != "RAS"
    inside = any(kind.kind == "zscore_inside" for kind in preprocessing.normalisation)
    if stored or inside:
        why = "axes as they are stored" if stored else "statistics within the filled body"
        raise InputFault(
            f"this bundle's preprocessing takes {why}, as nnU-Net does, and MONAI has no transform "
            "for it; export --to onnx or torch-export.",
            code="E_MONAI",
        )


def _metadata(name: str, task: Task) -> dict[str, Any]:
    target = task.target
    names = target.foreground_names if target.is_regions else ("background", *target.labels.names)
    return {
        "schema": SCHEMA,
        "version": "0.1.0",
        "changelog": {"0.1.0": "exported by medseg"},
        "monai_version": version("monai"),
        "pytorch_version": torch.__version__.split("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": {"nibabel": version("nibabel"), "pytorch-ignite": "0.5.2"},
        "name": name,
        "task": "segmentation",
        "description": f"{name}, exported by medseg {version('medseg')}",
        "authors": "see the bundle's recipe",
        "copyright": "see the bundle's recipe",
        "intended_use": "research; not a medical device",
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "format": "magnitude",
                    "modality": ", ".join(task.channels),
                    "num_channels": task.in_channels,
                    "spatial_shape": list(task.patch_size),
                    "dtype": "float32",
                    "value_range": [],
                    "is_patch_data": True,
                    "channel_def": {str(n): channel for n, channel in enumerate(task.channels)},
                }
            },
            "outputs": {
                "pred": {
                    "type": "image",
                    "format": "segmentation",
                    "num_channels": task.out_channels,
                    "spatial_shape": list(task.patch_size),
                    "dtype": "float32",
                    "value_range": [],
                    "is_patch_data": True,
                    "channel_def": {str(n): one for n, one in enumerate(names)},
                }
            },
        },
    }


def _readme(name: str, task: Task) -> str:
    return (
        f"# {name}\n\nExported by medseg. Put images into `data/` (channels "
        f"{', '.join(task.channels)} in this order, in one 4D file where there are several) and "
        "run (MONAI wants pytorch-ignite and fire)\n\n    python -m monai.bundle run "
        "--config_file configs/inference.json\n\nThe network is the bundle's, compared when it was "
        "exported. Around it are MONAI's transforms: where images are resampled its spline and its "
        "grids differ slightly from medseg's, and test-time mirroring and rules of post-processing "
        "are left out, so labels differ at borders. `medseg predict` is the reference.\n"
    )


def _parsed_network(folder: Path) -> Any:
    """The network as MONAI's parser makes it, so that the configuration is tried too."""
    parser = ConfigParser()
    parser.read_config(json.loads((folder / "configs/inference.json").read_text()))
    parser["bundle_root"] = str(folder)
    parser["device"] = "$torch.device('cpu')"
    parser.parse()
    return parser.get_parsed_content("network_def")
