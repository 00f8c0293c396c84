"""SegMamba: its Mamba layers against a plain one, its slices, and the authors' names."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from medseg.fault import InputFault
from medseg.models.checkpoints.filling import our_name
from medseg.models.checkpoints.seg_mamba import load_reference
from medseg.models.seg_mamba import MambaLayer, SegMamba

NARROW = {"in_channels": 2, "out_channels": 3, "feature_size": 4, "depths": (1, 1, 1, 1)}
_TO_THEIRS = (
    (r"^stages\.0\.down\.", "vit.downsample_layers.0.0."),
    (r"^stages\.(\d)\.down\.embed\.", r"vit.downsample_layers.\1.1."),
    (r"^stages\.(\d)\.gate\.wide1\.", r"vit.gscs.\1.proj."),
    (r"^stages\.(\d)\.gate\.wide2\.", r"vit.gscs.\1.proj2."),
    (r"^stages\.(\d)\.gate\.narrow\.", r"vit.gscs.\1.proj3."),
    (r"^stages\.(\d)\.gate\.mix\.", r"vit.gscs.\1.proj4."),
    (r"^stages\.(\d)\.expand\.", r"vit.mlps.\1.fc1."),
    (r"^stages\.(\d)\.contract\.", r"vit.mlps.\1.fc2."),
    (r"^stages\.(\d)\.layers\.", r"vit.stages.\1."),
    (r"\.(conv[123])\.weight", r".\1.conv.weight"),
    (r"^stem\.", "encoder1.layer."),
    (r"^last\.", "decoder1.layer."),
    (r"^skips\.(\d)\.", lambda found: f"encoder{int(found[1]) + 2}.layer."),
    (r"^ups\.(\d)\.up\.", lambda found: f"decoder{5 - int(found[1])}.transp_conv.conv."),
    (r"^ups\.(\d)\.mix\.", lambda found: f"decoder{5 - int(found[1])}.conv_block."),
    (r"^head\.", "out.conv.conv."),
    (r"\.proj_(in|out)\.", r".\1_proj."),
    (r"\.scans\.(\d)\.conv\.", lambda found: f".conv1d{_suffix(found[1])}."),
    (r"\.scans\.(\d)\.coefficients\.", lambda found: f".x_proj{_suffix(found[1])}."),
    (r"\.scans\.(\d)\.step\.", lambda found: f".dt_proj{_suffix(found[1])}."),
    (r"\.scans\.(\d)\.log_decay$", lambda found: f".A{_suffix(found[1])}_log"),
    (r"\.scans\.(\d)\.skip$", lambda found: f".D{_suffix(found[1])}"),
)


def _suffix(number: str) -> str:
    return ("", "_b", "_s")[int(number)]


def test_a_layer_equals_mamba_written_token_by_token_in_three_orders() -> None:
    torch.manual_seed(0)
    layer = MambaLayer(channels=4, states=3, learns=True, slices=None).double()
    x = torch.randn(2, 4, 2, 3, 2, dtype=torch.float64)
    weights = {name.removeprefix("mamba."): value for name, value in layer.named_parameters()}
    tokens = functional.layer_norm(
        x.flatten(2).mT, (4,), weights["norm.weight"], weights["norm.bias"]
    )
    # Two slices of six tokens: first of each, second of each, and so on.
    orders = [
        list(range(12)),
        list(range(11, -1, -1)),
        [number + 6 * slice_ for number in range(6) for slice_ in range(2)],
    ]
    with torch.no_grad():
        wide, gate = (tokens @ weights["proj_in.weight"].T).chunk(2, dim=-1)
        total = torch.zeros_like(wide)
        for number, order in enumerate(orders):
            scan = {
                name.removeprefix(f"scans.{number}."): value
                for name, value in weights.items()
                if name.startswith(f"scans.{number}.")
            }
            total[:, order] += _plain_scan(wide[:, order], scan)
        mixed = (total * functional.silu(gate)) @ weights["proj_out.weight"].T
        expected = x + mixed.mT.reshape(x.shape)
        torch.testing.assert_close(layer(x), expected, rtol=1e-9, atol=1e-9)


def _plain_scan(tokens: Tensor, scan: Mapping[str, Tensor]) -> Tensor:
    """Mamba's inner part as in its paper, one token after another."""
    batch, count, channels = tokens.shape
    past = torch.zeros(batch, 3, channels, dtype=tokens.dtype)
    window = torch.cat([past, tokens], dim=1)
    state = torch.zeros(batch, channels, 3, dtype=tokens.dtype)
    outputs = []
    for n in range(count):
        near = (window[:, n : n + 4].mT * scan["conv.weight"][:, 0]).sum(-1) + scan["conv.bias"]
        u = near * near.sigmoid()
        found = u @ scan["coefficients.weight"].T
        rank = scan["step.weight"].shape[1]
        step = (1 + (found[:, :rank] @ scan["step.weight"].T + scan["step.bias"]).exp()).log()
        write, read = found[:, rank : rank + 3], found[:, rank + 3 :]
        keep = (-step[..., None] * scan["log_decay"].exp()).exp()
        state = keep * state + (step * u)[..., None] * write[:, None]
        outputs.append((state * read[:, None]).sum(-1) + scan["skip"] * u)
    return torch.stack(outputs, dim=1)


def test_the_authors_names_fill_the_network_or_nothing_does() -> None:
    source, model = (SegMamba(**NARROW).eval() for _ in range(2))
    theirs = {our_name(name, _TO_THEIRS): value for name, value in source.state_dict().items()}
    for name in ("vit.stages.3.0.mamba.A_s_log", "vit.stages.0.0.mamba.conv1d_b.bias"):
        assert name in theirs
    assert not [name for name in theirs if name.startswith(("stages", "skips", "ups"))]
    loaded = load_reference(model, {"state_dict": theirs})
    assert loaded.tensors == len(source.state_dict())
    image = torch.randn(1, 2, 32, 32, 16)
    with torch.no_grad():
        assert torch.equal(model(image), source(image))
    del theirs["vit.mlps.0.fc1.bias"]
    with pytest.raises(InputFault, match=r"stages\.0\.expand\.bias: missing"):
        load_reference(model, theirs)


def test_the_authors_slices_are_those_of_the_map_for_the_papers_patch() -> None:
    faithful = SegMamba(**NARROW, faithful=True)
    layers = [one for one in faithful.modules() if isinstance(one, MambaLayer)]
    assert [one.slices for one in layers] == [128 // 2**halvings for halvings in (1, 2, 3, 4)]
    with pytest.raises(InputFault, match="multiples of 32x32x32"):
        faithful(torch.zeros(1, 2, 48, 32, 32))


def test_any_size_goes_by_its_own_slices() -> None:
    layer = MambaLayer(channels=4, states=3, learns=True, slices=None).eval()
    with torch.no_grad():
        for size in ((3, 5, 2), (7, 1, 3)):
            assert layer(torch.randn(1, 4, *size)).shape == (1, 4, *size)
