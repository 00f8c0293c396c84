"""U-Mamba: the size of the authors' networks, and their names."""

import pytest
import torch

from medseg.fault import InputFault
from medseg.models.checkpoints.filling import our_name
from medseg.models.checkpoints.u_mamba import load_reference
from medseg.models.planned_hybrid import Variant
from medseg.models.u_mamba import UMamba

ISOTROPIC = (1.0, 1.0, 1.0)
SMALL = {
    "in_channels": 1,
    "out_channels": 2,
    "patch_size": (32, 32, 32),
    "spacing_mm": ISOTROPIC,
    "base_features": 4,
    "variant": "bottleneck",
}
_TO_THEIRS = (
    (r"^network\.", ""),
    (r"^heads\.", "decoder.seg_layers."),
    (r"^decoder\.ups\.(\d)\.", r"decoder.upsample_layers.\1.conv."),
    (r"^encoder\.mixers\.\d\.", "mamba_layer."),
    (r"\.shortcut\.", ".conv3."),
    (r"\.proj_(in|out)\.", r".\1_proj."),
    (r"\.scans\.0\.conv\.", ".conv1d."),
    (r"\.scans\.0\.coefficients\.", ".x_proj."),
    (r"\.scans\.0\.step\.", ".dt_proj."),
    (r"\.scans\.0\.log_decay$", ".A_log"),
    (r"\.scans\.0\.skip$", ".D"),
)


@pytest.mark.parametrize(("variant", "millions"), [("encoder", 42.755), ("bottleneck", 42.125)])
def test_weights_are_as_many_as_the_authors(variant: Variant, millions: float) -> None:
    with torch.device("meta"):
        model = UMamba(
            in_channels=4,
            out_channels=4,
            patch_size=(128, 128, 128),
            spacing_mm=ISOTROPIC,
            variant=variant,
            faithful=True,
        )
    found = sum(weight.numel() for weight in model.parameters())
    assert found / 1e6 == pytest.approx(millions, abs=6e-4)


def test_the_authors_names_fill_the_network_or_nothing_does() -> None:
    source, model = (UMamba(**SMALL, faithful=True).eval() for _ in range(2))
    theirs = {our_name(name, _TO_THEIRS): value for name, value in source.state_dict().items()}
    assert {"mamba_layer.mamba.A_log", "mamba_layer.norm.weight"} <= set(theirs)
    assert not [name for name in theirs if name.startswith(("network", "heads"))]
    again = {
        f"decoder.{name}": value for name, value in theirs.items() if name.startswith("encoder.")
    }
    loaded = load_reference(model, {"network_weights": theirs | again})
    assert loaded.tensors == len(source.state_dict())
    image = torch.randn(1, 1, 32, 32, 32)
    with torch.no_grad():
        assert torch.equal(model(image), source(image))
    del theirs["mamba_layer.mamba.D"]
    with pytest.raises(InputFault, match="missing"):
        load_reference(model, theirs)
