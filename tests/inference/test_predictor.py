import itertools

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from medseg.fault import InputFault
from medseg.inference.blend import BlendLogits, Mirroring
from medseg.inference.export import SourceLabels
from medseg.inference.predictor import Predictor
from medseg.inference.settings import WalkSettings
from medseg.inference.walk import Walk
from medseg.inference.window import Windows
from medseg.preprocess.normalise import Normalisation
from medseg.preprocess.record import Preprocessing
from medseg.volume import Grid, LabelTable, Region, Target, Task, Volume

TABLE = LabelTable.from_names({3: "left lung", 7: "right lung"})
REGIONS = Target(TABLE, (Region("lungs", (3, 7), 3), Region("right", (7,), 7)))
# LPS: the first two axes run the other way than RAS.
OBLIQUE = np.array(
    [[-2.0, 0.0, 0.0, 40.0], [0.0, -1.9, 0.3, 30.0], [0.0, 0.3, 1.9, -20.0], [0, 0, 0, 1.0]]
)


class Threshold(nn.Module):
    """Logits from the intensity itself: class n is bright where the image is near its level."""

    def __init__(self, levels: tuple[float, ...]) -> None:
        super().__init__()
        self.levels = nn.Parameter(torch.tensor(levels, dtype=torch.float32))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return -((image[:, :1] - self.levels.reshape(1, -1, 1, 1, 1)) ** 2)


class Above(nn.Module):
    """One region channel a level: positive where the image is above it."""

    def __init__(self, levels: tuple[float, ...]) -> None:
        super().__init__()
        self.levels = nn.Parameter(torch.tensor(levels, dtype=torch.float32))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image[:, :1] - self.levels.reshape(1, -1, 1, 1, 1)


def scene(shape: tuple[int, int, int]) -> np.ndarray:
    """0, 1 and 2 in smooth blobs."""
    rng = np.random.default_rng(0)
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), 3)
    return np.digitize(noise, np.quantile(noise, [0.6, 0.85])).astype(np.float32)


def task(target: Target | None = None) -> Task:
    return Task(("CT",), target or Target(TABLE), (1.5, 1.5, 1.5), (16, 16, 16))


def predictor(model: nn.Module, target: Target | None = None, **changes: object) -> Predictor:
    settings: dict = {
        "models": (model,),
        "task": task(target),
        "preprocessing": Preprocessing((1.5, 1.5, 1.5), (Normalisation("none"),)),
    }
    return Predictor(**{**settings, **changes})


def test_labels_lie_on_the_grid_of_the_input() -> None:
    image = scene((30, 22, 26))
    volume = Volume(image[None], Grid(image.shape, OBLIQUE), ("CT",))
    found = predictor(Threshold((0, 1, 2)), settings=WalkSettings(batch_size=4)).predict(volume)
    wanted = np.array([0, 3, 7])[image.astype(int)]
    assert found.grid == volume.grid
    assert set(np.unique(found.array)) == {0, 3, 7}
    assert (found.array == wanted).mean() > 0.93


def test_regions_are_written_in_their_order() -> None:
    image = scene((30, 22, 26))
    volume = Volume(image[None], Grid(image.shape, OBLIQUE), ("CT",))
    found = predictor(Above((0.5, 1.5)), REGIONS).predict(volume)
    wanted = np.array([0, 3, 7])[image.astype(int)]
    assert (found.array == wanted).mean() > 0.93
    assert (found.array == 7).any()


class Given:
    """The logits of a volume, whatever the window: a network for a walk of one's own numbers."""

    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        """`windows` hold the number of each voxel."""
        return self.logits.flatten(1)[:, windows[:, 0].long()].movedim(0, 1)


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("spacing", [(1.4, 2.7, 2.2), (3.1, 1.2, 5.0)])
@pytest.mark.parametrize("target", [Target(TABLE), REGIONS])
def test_export_equals_interpolating_every_channel_at_once(
    target: Target, spacing: tuple[float, float, float], axes: tuple[int, int, int]
) -> None:
    volume = Volume(scene((21, 17, 19))[None], Grid((21, 17, 19), OBLIQUE), ("CT",))
    image, record = Preprocessing(spacing, (Normalisation("none"),)).apply(volume)
    shape = (target.output_channels, *image.shape[1:])
    logits = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    whole = np.stack([record.restore_channel(channel) for channel in logits])
    decided = whole > 0 if target.is_regions else whole.argmax(0)[None]
    wanted = record.place(target.decode(decided))
    blend = BlendLogits([Given(torch.from_numpy(logits))], Mirroring(), channels=len(logits))
    numbers = torch.arange(image[0].size).reshape(1, *image.shape[1:]).float()
    windows = Windows.over(numbers.shape[1:], (6, 5, 4), overlap=0.5)
    found = SourceLabels(record, target)
    walk = Walk(windows=windows, axes=axes)
    for box in walk.boxes(blend, numbers, linked=found.linked):
        found.add(box, blend)
    assert found.array.dtype == wanted.dtype
    np.testing.assert_array_equal(found.array, wanted)


def test_mirroring_at_test_time_leaves_a_symmetric_network_as_it_is() -> None:
    image = scene((30, 22, 26))
    volume = Volume(image[None], Grid.from_spacing(image.shape), ("CT",))
    plain = predictor(Threshold((0, 1, 2)))
    # Both sides look alike to this network, so left and right must be given the same level.
    plain_left = predictor(Threshold((0, 1, 1))).predict(volume)
    both = predictor(Threshold((0, 1, 1)), settings=WalkSettings(mirror_axes=(0, 1, 2))).predict(
        volume
    )
    np.testing.assert_array_equal(both.array, plain_left.array)
    upright = predictor(Threshold((0, 1, 2)), settings=WalkSettings(mirror_axes=(1, 2))).predict(
        volume
    )
    np.testing.assert_array_equal(upright.array, plain.predict(volume).array)


def test_logits_that_are_not_finite_give_no_mask() -> None:
    class Broken(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            logits = torch.zeros(len(image), 3, *image.shape[2:])
            logits[:, 1, 3, 4, 5] = torch.nan
            return logits

    volume = Volume(scene((20, 20, 20))[None], Grid.from_spacing((20, 20, 20)), ("CT",))
    with pytest.raises(InputFault, match="output 1 are NaN") as fault:
        predictor(Broken()).predict(volume)
    assert fault.value.code == "E_LOGITS"


def test_features_whose_logits_overflow_give_no_mask() -> None:
    class Large(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Conv3d(1, 3, 1, bias=False)
            self.head.weight.data.fill_(10)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.head(image[:, :1] + 1e38)

    volume = Volume(scene((20, 20, 20))[None], Grid.from_spacing((20, 20, 20)), ("CT",))
    made = predictor(Large())
    with pytest.raises(InputFault, match="output 0 are NaN") as fault:
        made.predict(volume)
    assert fault.value.code == "E_LOGITS"


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(bad: float) -> None:
    with pytest.raises(InputFault, match="levels") as fault:
        predictor(Threshold((0, bad, 2)))
    assert fault.value.code == "E_WEIGHTS"


@pytest.mark.parametrize("channels", [("MR",), ("CT", "PET")])
def test_other_channels_are_refused(channels: tuple[str, ...]) -> None:
    array = np.stack([scene((20, 20, 20))] * len(channels))
    volume = Volume(array, Grid.from_spacing((20, 20, 20)), channels)
    with pytest.raises(InputFault, match=r"takes 1 channel \(CT\)") as fault:
        predictor(Threshold((0, 1, 2))).predict(volume)
    assert fault.value.code == "E_CHANNELS"


def test_an_axis_that_is_none_is_refused() -> None:
    with pytest.raises(InputFault, match="mirror_axes") as fault:
        WalkSettings(mirror_axes=(3,))
    assert fault.value.code == "E_MIRROR"


@pytest.mark.parametrize("target", [Target(TABLE), REGIONS])
def test_probabilities_come_one_at_a_time_and_are_those_of_all_at_once(target: Target) -> None:
    image = scene((30, 22, 26))
    volume = Volume(image[None], Grid(image.shape, OBLIQUE), ("CT",))
    model = Above((0.5, 1.5)) if target.is_regions else Threshold((0, 1, 2))
    made = predictor(model, target)
    prepared = made.prepare(volume)
    labels, probabilities = made.label_with_probabilities(prepared)
    np.testing.assert_array_equal(labels.array, made.label(prepared).array)
    logits = made.logits(torch.from_numpy(prepared.image)).numpy()
    whole = torch.tensor(np.stack([prepared.record.restore_channel(one) for one in logits]))
    wanted = whole.sigmoid() if target.is_regions else whole.softmax(dim=0)[1:]
    found = list(probabilities)
    assert len(found) == len(probabilities) == len(wanted)
    for one, other in zip(found, wanted.numpy(), strict=True):
        assert one.dtype == np.float32
        np.testing.assert_allclose(one, prepared.record.place(other), atol=2e-6)
