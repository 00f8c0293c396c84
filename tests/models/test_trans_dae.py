"""TransDAE: its sizes, its options, and that it learns. Its parts have fixtures (tests/parity)."""

import pytest
import torch

from medseg.losses.deep import DeepSupervisionLoss
from medseg.losses.dice_ce import DiceCELoss
from medseg.models.cost import cost
from medseg.models.trans_dae import TransDAE, shape_policy_of
from medseg.nn.dual_attention import EfficientAttention, ReducedAttention, TransposedAttention
from medseg.recipe.networks.trans_dae import TransDAESection


@pytest.mark.parametrize(("size", "millions", "gmacs"), [("s", 17.0, 28.7), ("b", 29.9, 45.7)])
def test_volumes_cost_what_the_lift_was_planned_for(size, millions, gmacs) -> None:
    with torch.device("meta"):
        model = TransDAE(
            in_channels=1, out_channels=14, size=size, dimensions=3, token_size=(2, 4, 4)
        )
    found = cost(model, in_channels=1, patch_size=(64, 128, 128))
    assert found.parameters / 1e6 == pytest.approx(millions, abs=0.05)
    assert found.gmacs == pytest.approx(gmacs, rel=5e-3)


@pytest.mark.parametrize(
    ("spatial", "channel", "kinds"),
    [
        ("reduced", "efficient", {ReducedAttention, EfficientAttention}),
        ("efficient", "transposed", {EfficientAttention, TransposedAttention}),
    ],
)
def test_both_assignments_of_attention_can_be_had(spatial, channel, kinds) -> None:
    model = TransDAE(in_channels=1, out_channels=2, size="tiny", spatial=spatial, channel=channel)
    attentions = (ReducedAttention, EfficientAttention, TransposedAttention)
    assert {type(one) for one in model.modules() if isinstance(one, attentions)} == kinds


@pytest.mark.parametrize("dimensions", [2, 3])
def test_recipe_and_network_agree_on_sizes(dimensions) -> None:
    section = TransDAESection(
        name="trans_dae", dimensions=dimensions, token_size=(1, 2, 4), slice_axis=0
    )
    expected = shape_policy_of((1, 2, 4), dimensions, 0)
    assert section.shape_policy((8, 16, 32), (1.0, 1.0, 1.0)) == expected
    assert expected.nearest((3, 3, 3)) == ((3, 32, 64) if dimensions == 2 else (8, 16, 64))


def test_it_learns_spheres() -> None:
    torch.manual_seed(0)
    model = TransDAE(in_channels=1, out_channels=2, size="tiny", token_size=(2, 2, 1), dimensions=3)
    place = torch.stack(torch.meshgrid(*(torch.arange(16.0) for _ in range(3)), indexing="ij"))
    centers = torch.tensor([[5.0, 9.0, 8.0], [10.0, 6.0, 7.0]])
    distance = (place[None] - centers[:, :, None, None, None]).norm(dim=1, keepdim=True)
    target = (distance < 4.5).to(torch.uint8)
    image = target + 0.5 * torch.randn(target.shape)
    loss, optimizer = DeepSupervisionLoss(DiceCELoss()), torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(90):
        optimizer.zero_grad()
        loss(model(image), target).backward()
        optimizer.step()
    with torch.no_grad():
        found = model.eval()(image).argmax(1, keepdim=True) == 1
    truth = target == 1
    dice = 2 * (found & truth).sum() / (found.sum() + truth.sum())
    assert dice > 0.95
