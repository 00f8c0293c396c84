"""The planned residual UNet: its numbers of blocks, its skip connections, its heads."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from medseg.nn.hybrid_form import HybridForm
from medseg.nn.hybrid_unet import HybridUNet, PlannedResidualBlock, residual_mixer


def _form(stages: int, *, dimensions: int = 3, joins_last: bool = True) -> HybridForm:
    assert dimensions in {2, 3}
    return HybridForm(
        features=tuple(4 * 2**s for s in range(stages)),
        strides=((1,) * dimensions, *((2,) * dimensions for _ in range(stages - 1))),
        kernel_sizes=((3,) * dimensions,) * stages,
        dimensions=3 if dimensions == 3 else 2,
        joins_last=joins_last,
    )


def _unet(form: HybridForm, *, deep_supervision: bool = True) -> HybridUNet:
    torch.manual_seed(0)
    unet = HybridUNet(
        in_channels=1,
        out_channels=2,
        form=form,
        mixers=[nn.Identity() for _ in range(form.stages)],
        deep_supervision=deep_supervision,
    )
    unet.initialize_convolutions()
    return unet


@pytest.mark.parametrize(
    ("stages", "encoder", "decoder"),
    [
        (2, (2, 1), (2,)),
        (4, (2, 2, 1, 1), (2, 2, 1)),
        (5, (2, 2, 2, 1, 1), (2, 2, 2, 1)),
        (6, (2, 2, 2, 1, 1, 1), (2, 2, 2, 1, 1)),
    ],
)
def test_the_coarser_half_of_the_encoder_and_the_finer_of_the_decoder_have_one_block(
    stages: int, encoder: tuple[int, ...], decoder: tuple[int, ...]
) -> None:
    form = _form(stages)
    assert form.encoder_blocks == encoder
    assert form.decoder_blocks == decoder
    unet = _unet(form)
    assert tuple(len(list(stage.children())) for stage in unet.encoder.stages) == encoder
    assert tuple(len(list(stage.children())) for stage in unet.decoder.stages) == decoder


@pytest.mark.parametrize("dimensions", [2, 3])
def test_levels_come_full_resolution_first_and_halve(dimensions: int) -> None:
    unet = _unet(_form(4, dimensions=dimensions)).train()
    levels = unet(torch.randn(1, 1, *(16,) * dimensions))
    assert [level.shape for level in levels] == [
        (1, 2, *(side,) * dimensions) for side in (16, 8, 4)
    ]


def test_without_deep_supervision_there_is_one_head_and_the_logits_are_the_same() -> None:
    form = _form(3)
    many, one = _unet(form), _unet(form, deep_supervision=False)
    assert len(many.heads) == 2
    assert len(one.heads) == 1
    state = many.state_dict()
    state = {name: value for name, value in state.items() if not name.startswith("heads.")}
    state |= {f"heads.0.{name}": value for name, value in many.heads[-1].state_dict().items()}
    one.load_state_dict(state)
    image = torch.randn(2, 1, 8, 16, 8)
    with torch.no_grad():
        assert torch.equal(many.eval()(image), one.eval()(image))


def test_a_1x1_convolution_before_the_doubling_is_the_one_behind_it() -> None:
    unet, image = _unet(_form(2)), torch.randn(1, 1, 8, 8, 8)
    up, stage = unet.decoder.ups[0], unet.decoder.stages[0]
    with torch.no_grad():
        skip, deep = unet.encoder(image)
        behind = up(functional.interpolate(deep, scale_factor=2.0, mode="nearest"))
        expected = unet.heads[0](stage(torch.cat([behind, skip], dim=1)))
        torch.testing.assert_close(unet.eval()(image), expected, rtol=1e-5, atol=1e-5)


def test_without_the_last_join_full_resolution_sees_no_skip_connection() -> None:
    unet = _unet(_form(3, joins_last=False))
    maps = unet.encoder(torch.randn(1, 1, 8, 8, 8))
    detached = [one.detach().requires_grad_() for one in maps]
    _total(unet.decoder(list(detached))).backward()
    assert detached[0].grad is None
    assert detached[1].grad is not None


def test_the_shortcut_is_a_convolution_with_bias_also_where_sizes_agree() -> None:
    form = _form(2)
    first = PlannedResidualBlock(
        in_channels=4, out_channels=4, kernel=(3, 3, 3), stride=(1, 1, 1), projects=True
    )
    assert isinstance(first.shortcut, nn.Conv3d)
    assert first.shortcut.bias is not None
    assert isinstance(residual_mixer(form, 0).shortcut, nn.Identity)


def _total(levels: list[Tensor]) -> Tensor:
    return torch.stack([level.square().sum() for level in levels]).sum()
