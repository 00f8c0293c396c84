"""What a prediction leaves: a file a format, and probabilities that fit the labels."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from torch import Tensor, nn

from medseg.bundle.inputs import DicomCase
from medseg.bundle.outputs import Outputs, shown_table
from medseg.bundle.predict import predict_case
from medseg.fault import InputFault
from medseg.inference.predictor import Predictor
from medseg.io.dicom.series import find_series
from medseg.io.dicom_seg_read import read_dicom_seg
from medseg.io.formats import FORMATS, Origin
from medseg.io.nifti import read_labels, read_volume
from medseg.preprocess.normalise import Normalisation
from medseg.preprocess.record import Preprocessing
from medseg.volume import LabelTable, Target, Task
from medseg.volume.target import Region
from tests.io.made_series import CANARY_NAME, MadeSeries, oblique, refuse_moved

TABLE = LabelTable.from_names({3: "low", 7: "high"})
REGIONS = Target(TABLE, (Region("all", (3, 7), 3), Region("top", (7,), 7)))
SERIES = MadeSeries(cosines=oblique(10, 20), rows=32, columns=32, count=12)


class Ramp(nn.Module):
    """Logits that cross each other as the value rises: background, low, high."""

    def __init__(self, target: Target) -> None:
        super().__init__()
        first = 1 if target.is_regions else 0
        self.steps = range(first, first + target.output_channels)
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, image: Tensor) -> Tensor:
        steps = [n * image / 1000 - 1.5 * n * (n + 1) for n in self.steps]
        return torch.cat(steps, dim=1) + self.weight


def predictor(target: Target) -> Predictor:
    return Predictor(
        models=(Ramp(target),),
        task=Task(("CT",), target, (1.0, 1.0, 2.5), (16, 16, 8)),
        preprocessing=Preprocessing((1.0, 1.0, 2.5), (Normalisation("none"),)),
    )


@pytest.fixture
def case(tmp_path: Path) -> DicomCase:
    files = SERIES.write(tmp_path / "ct")
    for number, path in enumerate(files):
        image = pydicom.dcmread(path)
        values = np.add.outer(np.arange(32) * 300, np.arange(32) * 10) + number
        image.PixelData = values.astype("<u2").tobytes()
        image.save_as(path)
    return DicomCase(tuple(find_series(files)), {}, asked=("3",))


@pytest.mark.parametrize("target", [Target(TABLE), REGIONS])
def test_every_format_of_a_dicom_case_holds_the_same_voxels(
    tmp_path: Path, case: DicomCase, target: Target
) -> None:
    outputs = Outputs(tmp_path / "out", tuple(FORMATS), probabilities=True)
    assert not outputs.are_written("a")
    made = predict_case(predictor(target), case, outputs, "a", origin=Origin("ramp", "2"))
    assert outputs.are_written("a")
    labels = read_labels(tmp_path / "out" / "a.nii.gz", TABLE)
    assert set(np.unique(labels.array)) == {0, 3, 7}
    assert made.volumes_ml["high"] == pytest.approx(
        float((labels.array == 7).sum() * labels.grid.voxel_volume_mm3 / 1000)
    )
    refuse_moved(labels, read_dicom_seg(tmp_path / "out" / "a.seg.dcm", table=TABLE))
    seg = pydicom.dcmread(tmp_path / "out" / "a.seg.dcm")
    assert seg.PatientName == CANARY_NAME
    assert seg.SegmentSequence[0].SegmentAlgorithmName == "ramp"
    assert len(seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == SERIES.count

    table = shown_table(target)
    path = tmp_path / "out" / "a_probabilities.nii.gz"
    probabilities = read_volume([path], table.names).array
    assert probabilities.min() >= 0
    assert probabilities.max() <= 1
    fractional = pydicom.dcmread(tmp_path / "out" / "a.probabilities.seg.dcm")
    assert [one.SegmentLabel for one in fractional.SegmentSequence] == list(table.names)
    if target.is_regions:
        assert np.array_equal(probabilities[1] > 0.5, labels.array == 7)
        assert np.array_equal((probabilities > 0.5).any(axis=0), labels.array > 0)
    else:
        background = 1 - probabilities.sum(axis=0)
        likeliest = np.concatenate([background[None], probabilities]).argmax(axis=0)
        agree = np.array([0, 3, 7])[likeliest] == labels.array
        assert agree.mean() > 0.999


def test_a_result_that_lacks_one_format_is_not_there_yet(tmp_path: Path, case: DicomCase) -> None:
    outputs = Outputs(tmp_path / "out", ("nifti", "folder", "bids"))
    predict_case(predictor(Target(TABLE)), case, outputs, "a")
    assert outputs.are_written("a")
    (tmp_path / "out" / "a" / "labels.csv").unlink()
    assert not outputs.are_written("a")


def test_two_cases_for_one_place_are_refused(tmp_path: Path) -> None:
    Outputs(tmp_path, ("nifti",)).refuse_clashes(["a_1", "a1"])
    with pytest.raises(InputFault, match="a_1 and a1 would both be") as told:
        Outputs(tmp_path, ("bids",)).refuse_clashes(["a_1", "a1"])
    assert told.value.code == "E_CASES"
