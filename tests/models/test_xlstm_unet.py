"""xLSTM-UNet: its size, its forms, and the authors' checkpoints."""

import pytest
import torch

from medseg.fault import InputFault
from medseg.models.checkpoints.filling import our_name
from medseg.models.checkpoints.xlstm_unet import load_reference
from medseg.models.cost import cost
from medseg.models.xlstm_unet import XLSTMUNet

ISOTROPIC = (1.0, 1.0, 1.0)


def _theirs(**settings: object) -> XLSTMUNet:
    with torch.device("meta"):
        return XLSTMUNet(faithful=True, **settings)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("patch", "spacing", "channels", "classes", "variant", "millions"),
    [
        ((128, 128, 128), ISOTROPIC, 4, 4, "encoder", 43.701),
        ((128, 128, 128), ISOTROPIC, 4, 4, "bottleneck", 42.092),
        ((64, 64, 64), ISOTROPIC, 1, 14, "encoder", 23.510),
        ((64, 64, 64), ISOTROPIC, 1, 14, "bottleneck", 22.544),
    ],
)
def test_it_has_the_authors_weights_but_for_the_unused_norms(
    patch, spacing, channels, classes, variant, millions
) -> None:
    model = _theirs(
        in_channels=channels,
        out_channels=classes,
        patch_size=patch,
        spacing_mm=spacing,
        variant=variant,
    )
    norms = sum(
        2 * weight.numel()
        for name, weight in model.named_parameters()
        if "norm.weight" in name and ".blocks." in name
    )
    count = sum(weight.numel() for weight in model.parameters()) + norms
    assert count / 1e6 == pytest.approx(millions, abs=6e-4)


def test_multiply_adds_are_the_authors_without_the_two_savings() -> None:
    """Theirs: 1198 at 128^3, with n x n products and 1x1 convolutions behind the doubling."""
    model = _theirs(in_channels=4, out_channels=4, patch_size=(128,) * 3, spacing_mm=ISOTROPIC)
    found = cost(model, in_channels=4, patch_size=(128, 128, 128)).gmacs
    features, sides = (32, 64, 128, 256, 320, 320), (128, 64, 32, 16, 8, 4)
    doubled = sum(7 / 8 * sides[s] ** 3 * features[s] * features[s + 1] for s in range(5))
    # 4096 tokens of 512 channels: all pairs, rather than those of a chunk of 64 and its state
    pairs = 2 * 512 * 4096 * (4096 - 64) - 2 * 4096 * 4 * 128 * 128
    assert found + (doubled + pairs) / 1e9 == pytest.approx(1198, rel=2e-3)


def test_faithful_takes_no_other_patch_and_the_mended_form_does() -> None:
    settings = {"in_channels": 1, "out_channels": 2, "patch_size": (32, 32, 32)}
    settings |= {"spacing_mm": ISOTROPIC, "base_features": 8}
    fixed, free = (XLSTMUNet(**settings, faithful=faithful).eval() for faithful in (True, False))
    assert fixed.shape_policy.fixed == (32, 32, 32)
    with pytest.raises(InputFault, match="the only size is 32x32x32"):
        fixed(torch.zeros(1, 1, 48, 32, 32))
    with torch.no_grad():
        assert free(torch.zeros(1, 1, 48, 32, 32)).shape == (1, 2, 48, 32, 32)


def test_the_authors_second_names_and_unused_norms_are_left_out() -> None:
    settings = {"in_channels": 1, "out_channels": 2, "patch_size": (32, 32, 32)}
    settings |= {"spacing_mm": ISOTROPIC, "base_features": 4, "variant": "bottleneck"}
    source, model = (XLSTMUNet(**settings, faithful=True) for _ in range(2))
    theirs = _their_names(source)
    stem = {n.removeprefix("encoder."): v for n, v in theirs.items() if n.startswith("encoder.")}
    theirs |= {f"decoder.encoder.{name}": value for name, value in stem.items()}
    theirs |= {"xlstm.norm.weight": torch.ones(32), "xlstm.norm.bias": torch.zeros(32)}
    loaded = load_reference(model, {"network_weights": theirs})
    assert loaded.left_out == ("xlstm.norm.weight", "xlstm.norm.bias")
    assert loaded.tensors == len(source.state_dict())
    image = torch.randn(1, 1, 32, 32, 32)
    with torch.no_grad():
        assert torch.equal(model.eval()(image), source.eval()(image))


_TO_THEIRS = (
    (r"^network\.", ""),
    (r"^heads\.", "decoder.seg_layers."),
    (r"^decoder\.ups\.(\d)\.", r"decoder.upsample_layers.\1.conv."),
    (r"^encoder\.mixers\.3\.blocks\.0\.", "xlstm.vil."),
    (r"layer\.norm$", "layer.mlstm_cell.outnorm.weight"),
    (r"layer\.skip$", "layer.learnable_skip"),
    (r"layer\.conv\.", "layer.conv1d.conv."),
    (r"layer\.(input|forget)_gate\.", lambda found: f"layer.mlstm_cell.{found[1][0]}gate."),
    (r"layer\.(query|key|value)\.", lambda found: f"layer.{found[1][0]}_proj."),
    (r"\.shortcut\.", ".conv3."),
)


def _their_names(model: XLSTMUNet) -> dict[str, torch.Tensor]:
    """The state as the authors name it (the bottleneck variant, four stages)."""
    return {our_name(name, _TO_THEIRS): value for name, value in model.state_dict().items()}
