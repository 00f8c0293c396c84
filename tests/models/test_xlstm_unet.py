"""xLSTM-UNet: its size, its forms, and the authors' checkpoints."""

from math import prod

import pytest
import torch
from torch import nn

from medseg.fault import InputFault
from medseg.models.checkpoints.filling import our_name
from medseg.models.checkpoints.xlstm_unet import load_reference
from medseg.models.cost import cost
from medseg.models.planned_hybrid import (
    XLSTM_FIRST,
    HybridPlan,
    Variant,
    channel_stages,
    mixed_stages,
    plan_hybrid,
)
from medseg.models.xlstm_unet import VisionLSTMMixer, XLSTMUNet
from medseg.nn.hybrid_unet import HybridUNet, PlannedResidualBlock
from medseg.nn.vision_lstm import VisionLSTMBlock, heads_of
from medseg.recipe.networks.xlstm_unet import XLSTMUNetSection

ISOTROPIC = (1.0, 1.0, 1.0)


BRAIN = {"in_channels": 4, "out_channels": 4, "patch_size": (128, 128, 128)}
CUBE = {"in_channels": 1, "out_channels": 14, "patch_size": (64, 64, 64)}
ABDOMEN = {"in_channels": 1, "out_channels": 14, "patch_size": (48, 160, 224)}
CHUNK = 64

# The parameters in millions and the multiply-adds in 10^9 of the authors' networks.
each_measured = pytest.mark.parametrize(
    ("settings", "spacing", "variant", "millions", "gmacs"),
    [
        (BRAIN, ISOTROPIC, "encoder", 43.701, 1198),
        (BRAIN, ISOTROPIC, "bottleneck", 42.092, 976),
        (CUBE, ISOTROPIC, "encoder", 23.510, 153.5),
        (CUBE, ISOTROPIC, "bottleneck", 22.544, 127.7),
        (ABDOMEN, (3.0, 1.2, 1.2), "encoder", 43.730, 1014),
        (ABDOMEN, (3.0, 1.2, 1.2), "bottleneck", 41.912, 789),
    ],
)


def _theirs(**settings: object) -> XLSTMUNet:
    with torch.device("meta"):
        return XLSTMUNet(faithful=True, **settings)  # pyright: ignore[reportArgumentType]


@each_measured
def test_weights_and_multiply_adds_are_the_authors(
    settings, spacing, variant, millions, gmacs
) -> None:
    """But for their unused norms, and for two savings in multiply-adds.

    Theirs multiply all pairs of tokens, and have 1x1 convolutions behind the doubling.
    """
    model = _theirs(**settings, spacing_mm=spacing, variant=variant)
    count = sum(weight.numel() for weight in model.parameters())
    norms = sum(
        2 * weight.numel()
        for name, weight in model.named_parameters()
        if name.endswith(".norm.weight")
    )
    assert norms > 0
    assert (count + norms) / 1e6 == pytest.approx(millions, abs=6e-4)
    patch = settings["patch_size"]
    found = cost(model, in_channels=settings["in_channels"], patch_size=patch).gmacs
    plan = plan_hybrid(
        patch_size=patch,
        spacing_mm=spacing,
        dimensions=3,
        slice_axis=2,
        stages=None,
        base_features=32,
        max_features=320,
    )
    saved = sum(
        (prod(fine) - prod(coarse)) * one * other
        for fine, coarse, one, other in zip(
            plan.grids, plan.grids[1:], plan.form.features, plan.form.features[1:], strict=False
        )
    )
    saved += sum(_pairs_saved(plan, stage, variant) for stage in _stages(plan, variant))
    # The table gives four digits.
    assert found + saved / 1e9 == pytest.approx(gmacs, rel=1e-3)


def _stages(plan: HybridPlan, variant: Variant) -> tuple[int, ...]:
    return mixed_stages(plan.form, variant, first=XLSTM_FIRST)


def _pairs_saved(plan: HybridPlan, stage: int, variant: Variant) -> int:
    """All pairs of tokens, less those within a chunk and the reading and writing of the state."""
    tokens, channels = prod(plan.grids[stage]), plan.form.features[stage]
    if stage in channel_stages(plan, variant, first=XLSTM_FIRST):
        tokens, channels = channels, tokens
    inner, heads = 2 * channels, heads_of(channels)
    chunks = [min(CHUNK, tokens - start) for start in range(0, tokens, CHUNK)]
    within = sum(length**2 for length in chunks)
    state = tokens * (2 * inner // heads + 1)
    return 2 * inner * (tokens**2 - within) - inner * state


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


def test_a_checkpoint_of_the_authors_has_a_partner_or_a_reason_for_each_of_its_578_entries() -> (
    None
):
    """Six stages: 230 of them are the encoder's again, each layer of a plain block is twice."""
    model = _theirs(**BRAIN, spacing_mm=ISOTROPIC)
    body = model.network
    assert isinstance(body, HybridUNet)
    unused = 2 * len(_stages_of(body))
    encoder = len(body.encoder.state_dict()) + unused + _twice(body.encoder)
    assert encoder == 230
    assert len(body.state_dict()) + unused + _twice(body) + encoder == 578


def _stages_of(body: HybridUNet) -> list[VisionLSTMMixer]:
    return [mixer for mixer in body.encoder.mixers if isinstance(mixer, VisionLSTMMixer)]


def _twice(module: nn.Module) -> int:
    """Two convolutions and two norms with two tensors each, in blocks that project nothing."""
    blocks = [one for one in module.modules() if isinstance(one, PlannedResidualBlock)]
    return sum(8 for block in blocks if isinstance(block.shortcut, nn.Identity))


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


def test_the_papers_text_and_the_authors_code_are_not_one_network() -> None:
    section = XLSTMUNetSection(name="xlstm_unet", faithful=True, bidirectional=True)
    found = list(section.contradictions())
    assert [one.path for one in found] == [("bidirectional",)]
    assert not list(XLSTMUNetSection(name="xlstm_unet", bidirectional=True).contradictions())


def test_bidirectional_lets_each_voxel_see_all_others() -> None:
    torch.manual_seed(0)
    settings = {"channels": 8, "by_channel": False, "depth": 1}
    image = torch.randn(1, 8, 2, 3, 4, dtype=torch.float64)
    changed = image.clone()
    changed[:, 0, 1, 1, 1] += 1
    for backward, seen in (((False,), 24 - 17), ((False, True), 24)):
        mixer = VisionLSTMMixer(**settings, backward=backward).double()
        with torch.no_grad():
            apart = (mixer(changed) - mixer(image)).abs().amax((0, 1))
        assert (apart > 1e-12).sum() == seen


def test_a_shallow_network_mixes_at_its_deepest_stage_unless_it_is_faithful() -> None:
    settings = {"in_channels": 1, "out_channels": 2, "patch_size": (16, 16, 16), "base_features": 4}
    counts = []
    for faithful in (False, True):
        model = XLSTMUNet(**settings, spacing_mm=(1.0, 1.0, 1.0), faithful=faithful)
        counts.append(sum(isinstance(one, VisionLSTMBlock) for one in model.modules()))
    assert counts == [1, 0]


def test_a_patch_that_cannot_be_halved_is_refused_for_a_fixed_network_too() -> None:
    section = XLSTMUNetSection(name="xlstm_unet", faithful=True)
    policy = section.shape_policy((100, 128, 128), (1.0, 1.0, 1.0))
    assert policy.fixed is None
    assert policy.nearest((100, 128, 128)) == (112, 128, 128)
