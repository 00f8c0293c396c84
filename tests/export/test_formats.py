"""What is exported computes what the bundle computes, and says what it needs."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from monai.bundle.config_parser import ConfigParser
from scipy import ndimage
from torch import nn

from medseg.export.monai_bundle import write_monai_bundle
from medseg.export.onnx_file import write_onnx
from medseg.export.torch_export import write_torch_export
from medseg.fault import InputFault
from medseg.inference.predictor import Predictor
from medseg.io.nifti import read_labels, write_volume
from medseg.models.mednext import MedNeXt
from medseg.models.nnunet import plain_unet, residual_unet
from medseg.models.segresnet import SegResNet
from medseg.models.swin_unetr import SwinUNETR
from medseg.preprocess.normalise import Normalisation
from medseg.preprocess.record import Preprocessing
from medseg.volume import Grid, LabelTable, Region, Target, Task, Volume

SIDE = (32, 32, 64)
FACTS = {"channels": ["CT"], "spacing_mm": [1, 1, 2]}
UNET = {"in_channels": 2, "out_channels": 3, "patch_size": SIDE, "spacing_mm": (1, 1, 1)}
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "swin_unetr": lambda: SwinUNETR(in_channels=2, out_channels=3, feature_size=12),
    "segresnet": lambda: SegResNet(in_channels=2, out_channels=3, base_features=8),
    "mednext": lambda: MedNeXt(in_channels=2, out_channels=3, base_features=4),
    "nnunet_plain": lambda: plain_unet(**UNET, base_features=4),
    "nnunet_resenc": lambda: residual_unet(**UNET, base_features=4),
}


def windows() -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [torch.randn(1, 2, *SIDE), torch.randn(3, 2, *SIDE)]


def made(name: str, count: int = 1) -> list[nn.Module]:
    torch.manual_seed(0)
    return [NETWORKS[name]().eval() for _ in range(count)]


def mean_of(models: list[nn.Module], window: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return torch.stack([model(window) for model in models]).mean(dim=0)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_torch_export_archive_holds_every_network(tmp_path: Path, name: str) -> None:
    path, models = tmp_path / "net.pt2", made(name)
    assert write_torch_export(path, models, windows(), FACTS) < 1e-3
    extra = {"medseg.json": ""}
    read = torch.export.load(path, extra_files=extra).module()
    assert json.loads(extra["medseg.json"]) == FACTS
    window = torch.randn(2, 2, *SIDE)
    torch.testing.assert_close(read(window), mean_of(models, window), atol=1e-4, rtol=1e-4)
    operators = {str(node.target) for node in torch.export.load(path).graph.nodes}
    assert not any("medseg" in operator for operator in operators)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_an_onnx_file_holds_every_network(tmp_path: Path, name: str) -> None:
    check_onnx(tmp_path / "net.onnx", made(name))


def test_an_onnx_file_holds_the_mean_of_folds(tmp_path: Path) -> None:
    check_onnx(tmp_path / "net.onnx", made("segresnet", 2))


def check_onnx(path: Path, models: list[nn.Module]) -> None:
    assert write_onnx(path, models, windows(), FACTS) < 1e-3
    onnx.checker.check_model(path)
    entries = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert json.loads(entries["medseg"]) == FACTS
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    window = torch.randn(2, 2, *SIDE)
    (found,) = session.run(["logits"], {"image": window.numpy()})
    wanted = mean_of(models, window)
    torch.testing.assert_close(torch.from_numpy(found), wanted, atol=1e-4, rtol=1e-4)


class Moody(nn.Module):
    """Computes something else when it is exported."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image * (2.0 if torch.compiler.is_exporting() else 1.0)


@pytest.mark.parametrize("write", [write_torch_export, write_onnx])
def test_what_computes_something_else_is_not_kept(tmp_path: Path, write: Callable) -> None:
    with pytest.raises(InputFault, match="not kept") as fault:
        write(tmp_path / "net.bin", [Moody()], windows(), FACTS)
    assert fault.value.code == "E_SELFTEST"
    assert list(tmp_path.iterdir()) == []


class Levels(nn.Module):
    """Logits by intensity: background, above 1, above 2 (as labels or as regions)."""

    def __init__(self, *, regions: bool) -> None:
        super().__init__()
        self.regions = regions
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        low, high = image[:, :1] - 0.2 * self.weight, image[:, :1] - 0.9 * self.weight
        if self.regions:
            return torch.cat([low, high], dim=1)
        return torch.cat([torch.zeros_like(low), low, 2 * low - 0.7], dim=1)


TABLE = LabelTable.from_names({3: "low", 7: "high"})
REGIONS = Target(TABLE, (Region("all", (3, 7), 3), Region("core", (7,), 7)))


@pytest.mark.parametrize("target", [Target(TABLE), REGIONS])
def test_a_monai_bundle_run_by_monai_gives_nearly_our_labels(
    tmp_path: Path, target: Target
) -> None:
    preprocessing = Preprocessing(
        (1.5, 1.5, 2.0), (Normalisation("ct", lower=-3, upper=3, mean=0.1, std=1.2),)
    )
    task = Task(("CT",), target, (1.5, 1.5, 2.0), (16, 16, 16))
    models = [Levels(regions=target.is_regions)]
    folder = tmp_path / "made"
    write_monai_bundle(
        folder,
        models,
        [torch.randn(2, 1, 16, 16, 16)],
        name="levels",
        task=task,
        preprocessing=preprocessing,
        overlap=0.5,
        batch_size=1,
    )
    noise = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((40, 36, 30)), 3)
    affine = np.array([[-1.2, 0, 0, 30], [0, -1.1, 0, 20], [0, 0, 1.7, -9], [0, 0, 0, 1]])
    image = (noise / noise.std()).astype(np.float32)
    volume = Volume(image[None], Grid(image.shape, affine), ("CT",))
    (folder / "data").mkdir()
    write_volume(folder / "data" / "case.nii.gz", volume)
    run_by_monai(folder)
    found = read_labels(next((folder / "eval").glob("*.nii.gz")), TABLE)
    predictor = Predictor(models=tuple(models), task=task, preprocessing=preprocessing)
    wanted = predictor.predict(volume)
    assert found.grid.difference(wanted.grid) is None or found.grid == wanted.grid
    assert set(np.unique(wanted.array)) == {0, 3, 7}
    assert (found.array == wanted.array).mean() > 0.97


# MONAI warns of what its DICOM reader lacks wherever LoadImage is made.
pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodec")


def run_by_monai(folder: Path) -> None:
    parser = ConfigParser()
    parser.read_config(folder / "configs" / "inference.json")
    parser["bundle_root"] = str(folder)
    parser["device"] = "$torch.device('cpu')"
    parser.parse()
    parser.get_parsed_content("run")


def test_each_channel_keeps_its_own_scale_in_a_monai_bundle(tmp_path: Path) -> None:
    kinds = (Normalisation("range", lower=0, upper=10), Normalisation("zscore"))
    preprocessing = Preprocessing(None, kinds, crop="nonzero")
    task = Task(("A", "B"), Target(TABLE), (1, 1, 1), (16, 16, 16))
    folder = tmp_path / "made"
    write_monai_bundle(
        folder,
        [Levels(regions=False)],
        [torch.randn(1, 2, 16, 16, 16)],
        name="two",
        task=task,
        preprocessing=preprocessing,
        overlap=0.5,
        batch_size=1,
    )
    array = np.random.default_rng(0).uniform(1, 9, (2, 20, 18, 16)).astype(np.float32)
    array[:, :3] = 0
    volume = Volume(array, Grid.from_spacing((20, 18, 16)), ("A", "B"))
    write_volume(tmp_path / "case.nii.gz", volume)
    parser = ConfigParser()
    parser.read_config(folder / "configs" / "inference.json")
    parser["bundle_root"] = str(folder)
    parser.parse()
    steps = parser.get_parsed_content("preprocessing")
    found = steps({"image": str(tmp_path / "case.nii.gz")})["image"]
    wanted, _ = preprocessing.apply(volume)
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-5)


def test_a_monai_bundle_is_not_made_where_preprocessing_has_no_equal(tmp_path: Path) -> None:
    kinds = (Normalisation("zscore_inside"),)
    with pytest.raises(InputFault, match="no transform") as fault:
        write_monai_bundle(
            tmp_path / "made",
            [Levels(regions=False)],
            [torch.randn(1, 1, 16, 16, 16)],
            name="inside",
            task=Task(("CT",), Target(TABLE), (1, 1, 1), (16, 16, 16)),
            preprocessing=Preprocessing(None, kinds),
            overlap=0.5,
            batch_size=1,
        )
    assert fault.value.code == "E_MONAI"
    assert list(tmp_path.iterdir()) == []
