"""SWTR-Unet's first part against torchvision's ResNet-50, and the file it can begin with."""

from pathlib import Path

import pytest
import torch
from torchvision.models import resnet50

from medseg.fault import InputFault
from medseg.models.checkpoints.resnet50 import load_resnet50
from medseg.models.swtr_unet import SWTRUNet
from medseg.recipe.networks.swtr_unet import SWTRUNetSection
from tests.models.small import task


@pytest.fixture(scope="module")
def theirs() -> torch.nn.Module:
    torch.manual_seed(0)
    network = resnet50(weights=None).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network


def test_the_residual_network_is_torchvisions(theirs: torch.nn.Module) -> None:
    ours = SWTRUNet(in_channels=3, out_channels=2).residual_network.eval()
    loaded = load_resnet50(ours, theirs.state_dict())
    assert loaded.tensors + len(loaded.left_out) == len(theirs.state_dict())
    assert {name.split(".")[0] for name in loaded.left_out} == {"layer4", "fc"}
    image = torch.randn(1, 3, 64, 32)
    with torch.no_grad():
        x = theirs.relu(theirs.bn1(theirs.conv1(image)))
        expected = [x]
        x = theirs.maxpool(x)
        for stage in (theirs.layer1, theirs.layer2, theirs.layer3):
            x = stage(x)
            expected.append(x)
        for found, wanted in zip(ours(image), expected, strict=True):
            torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("channels", [1, 4])
def test_other_channels_see_what_three_equal_ones_do(
    theirs: torch.nn.Module, channels: int
) -> None:
    ours = SWTRUNet(in_channels=channels, out_channels=2).residual_network.eval()
    load_resnet50(ours, theirs.state_dict())
    gray = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        expected = theirs.bn1(theirs.conv1(gray.expand(-1, 3, -1, -1))).relu()
        found = ours(gray.expand(-1, channels, -1, -1))[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_recipe_begins_with_the_file_it_names(theirs: torch.nn.Module, tmp_path: Path) -> None:
    file = tmp_path / "resnet50.pth"
    torch.save(theirs.state_dict(), file)
    section = SWTRUNetSection(name="swtr_unet", pretrained=str(file))
    model = section.build(task((32, 32, 1), channels=3))
    section.load_pretrained(model)
    assert isinstance(model, SWTRUNet)
    kernel = model.residual_network.state_dict()["stages.2.5.conv2.weight"]
    assert torch.equal(kernel, theirs.state_dict()["layer3.5.conv2.weight"])
    missing = section.model_copy(update={"pretrained": str(tmp_path / "nowhere.pth")})
    with pytest.raises(InputFault, match="there is no such file"):
        missing.load_pretrained(model)
    del (state := theirs.state_dict())["layer2.0.conv1.weight"]
    torch.save(state, file)
    with pytest.raises(InputFault, match=r"stages\.1\.0\.conv1\.weight: missing"):
        section.load_pretrained(model)


def test_weights_of_images_are_refused_for_volumes_before_training() -> None:
    flat = SWTRUNetSection(name="swtr_unet", pretrained="x.pth")
    assert list(flat.contradictions()) == []
    volume = SWTRUNetSection(name="swtr_unet", pretrained="x.pth", dimensions=3)
    assert [one.path for one in volume.contradictions()] == [("pretrained",)]
