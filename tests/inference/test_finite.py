"""What is no number is stopped at four points, each with its code, and no mask is written."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from medseg.fault import InputFault
from medseg.inference.predictor import Predictor
from medseg.io.nifti import read_volume, write_labels, write_volume
from medseg.preprocess import record
from medseg.preprocess.normalise import Normalisation
from medseg.preprocess.record import Preprocessing
from medseg.volume import Grid, LabelTable, Target, Task, Volume

SHAPE = (14, 12, 10)
TABLE = LabelTable.from_names({1: "bright"})
BAD = [np.nan, np.inf, -np.inf]


class Two(nn.Module):
    """Background, and what is brighter than a level."""

    def __init__(self) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.tensor(0.5))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.zeros_like(image), image - self.level], dim=1)


def image_file(folder: Path, *, value: float = 1.0) -> Path:
    array = np.random.default_rng(0).uniform(0, 1, (1, *SHAPE)).astype(np.float32)
    volume = Volume(array, Grid.from_spacing(SHAPE, (1.0, 1.5, 2.0)), ("CT",))
    array[0, 3, 4, 5] = value
    write_volume(folder / "in.nii.gz", volume)
    return folder / "in.nii.gz"


def predicted(folder: Path, source: Path, *, model: nn.Module | None = None) -> Path:
    """The way of a case: read, predict, write."""
    predictor = Predictor(
        models=(model or Two(),),
        task=Task(("CT",), Target(TABLE), (1.0, 1.0, 1.0), (8, 8, 8)),
        preprocessing=Preprocessing((1.0, 1.0, 1.0), (Normalisation("none"),)),
    )
    target = folder / "out.nii.gz"
    write_labels(target, predictor.predict(read_volume([source], ["CT"])))
    return target


def code_of(folder: Path, call: Callable[[], object]) -> str:
    with pytest.raises(InputFault) as fault:
        call()
    assert not (folder / "out.nii.gz").exists()
    return fault.value.code


def test_what_is_finite_everywhere_gives_a_mask(tmp_path: Path) -> None:
    assert predicted(tmp_path, image_file(tmp_path)).exists()


@pytest.mark.parametrize("bad", BAD)
def test_in_the_input(tmp_path: Path, bad: float) -> None:
    source = image_file(tmp_path, value=bad)
    assert code_of(tmp_path, lambda: predicted(tmp_path, source)) == "E_NONFINITE"


@pytest.mark.parametrize("bad", BAD)
def test_after_normalisation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: float) -> None:
    def scaled(_step: Normalisation, channel: np.ndarray, _inside: object) -> np.ndarray:
        channel = channel.copy()
        channel[1, 2, 3] = bad
        return channel

    monkeypatch.setattr(Normalisation, "_scaled", scaled)
    source = image_file(tmp_path)
    assert code_of(tmp_path, lambda: predicted(tmp_path, source)) == "E_NORMALISED"


@pytest.mark.parametrize("bad", BAD)
def test_after_resampling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: float) -> None:
    real = record.resample_image

    def resampled(*args: object, **kwargs: object) -> np.ndarray:
        result = real(*args, **kwargs)
        result[1, 2, 3] = bad
        return result

    monkeypatch.setattr(record, "resample_image", resampled)
    source = image_file(tmp_path)
    assert code_of(tmp_path, lambda: predicted(tmp_path, source)) == "E_NORMALISED"


@pytest.mark.parametrize("bad", BAD)
def test_in_the_logits(tmp_path: Path, bad: float) -> None:
    class Broken(Two):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            logits = super().forward(image)
            logits[:, 1, 2, 3, 4] = bad
            return logits

    source = image_file(tmp_path)
    assert code_of(tmp_path, lambda: predicted(tmp_path, source, model=Broken())) == "E_LOGITS"


@pytest.mark.parametrize("bad", BAD)
def test_in_the_weights(tmp_path: Path, bad: float) -> None:
    model = Two()
    model.level.data.fill_(bad)
    source = image_file(tmp_path)
    assert code_of(tmp_path, lambda: predicted(tmp_path, source, model=model)) == "E_WEIGHTS"


def test_in_weights_that_broke_after_the_predictor_was_made(tmp_path: Path) -> None:
    class Breaking(Two):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            self.level.data.fill_(torch.nan)
            return super().forward(image)

    source = image_file(tmp_path)
    assert code_of(tmp_path, lambda: predicted(tmp_path, source, model=Breaking())) == "E_LOGITS"


def test_in_a_buffer_of_half_floats(tmp_path: Path) -> None:
    model = Two()
    model.register_buffer("mean", torch.tensor([1.0, float("inf")], dtype=torch.float16))
    source = image_file(tmp_path)
    assert code_of(tmp_path, lambda: predicted(tmp_path, source, model=model)) == "E_WEIGHTS"
