import json
import logging
import pickle
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from medseg.bundle.inputs import NiftiCase, UnusableCase
from medseg.engine.job import Outcome
from medseg.engine.once import run_job
from medseg.engine.receipt import claim_path, receipt_path
from medseg.fault import InputFault
from medseg.inference.postprocess import RemoveSmall
from medseg.io.claim import claim
from tests.engine.small import image, job, predictor


def sent(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))  # noqa: S301  # bytes of our own


def test_a_case_is_done_once_and_its_receipt_tells_of_what(tmp_path: Path) -> None:
    file = image(tmp_path / "a.nii.gz")
    given = job(tmp_path / "out", "a", NiftiCase((file,)))
    done = run_job(predictor(), given)
    assert done.state == "done"
    assert done.path == tmp_path / "out" / "a.nii.gz"
    np.testing.assert_array_equal(nib.load(done.path).get_fdata(), nib.load(file).get_fdata())
    assert done.voxels["bright"] == int((nib.load(file).get_fdata() == 2).sum())
    assert done.volumes_ml["bright"] == pytest.approx(done.voxels["bright"] * 0.002)
    receipt = json.loads(receipt_path(given).read_text())
    assert receipt["outputs"].keys() == {"a.nii.gz"}
    assert receipt["noted"]["geometry"]["source_grid"]["shape"] == [10, 9, 8]
    again = run_job(predictor(), given)
    assert again.state == "present"
    assert (again.voxels, again.seconds) == (done.voxels, done.seconds)
    assert not claim_path(given).exists()


def test_jobs_and_outcomes_travel_between_processes(tmp_path: Path) -> None:
    file = image(tmp_path / "a.nii.gz")
    rules = (RemoveSmall(below_mm3=3.0),)
    given = sent(job(tmp_path / "o", "a", NiftiCase((file,)), rules=rules))
    outcome = run_job(predictor(), given)
    assert sent(outcome) == outcome


def test_rules_are_applied_and_their_effect_is_noted(tmp_path: Path) -> None:
    file = image(tmp_path / "a.nii.gz")
    rules = (RemoveSmall(labels=("bright",), below_mm3=1e6),)
    done = run_job(predictor(), job(tmp_path / "o", "a", NiftiCase((file,)), rules=rules))
    assert done.voxels["bright"] == 0
    assert "bright" in done.message


@pytest.mark.parametrize("changed", ["input", "bundle", "settings"])
def test_what_changed_is_predicted_again_and_named(tmp_path: Path, changed: str) -> None:
    file = image(tmp_path / "a.nii.gz")
    terms: dict = {}
    assert run_job(predictor(), job(tmp_path / "o", "a", NiftiCase((file,)))).state == "done"
    if changed == "input":
        image(file, seed=1)
    else:
        terms = {"bundle_sha256": "c" * 64} if changed == "bundle" else {"settings": {"x": 1}}
    again = run_job(predictor(), job(tmp_path / "o", "a", NiftiCase((file,)), **terms))
    assert again.state == "done"
    assert f"the {changed} changed" in again.message
    third = run_job(predictor(), job(tmp_path / "o", "a", NiftiCase((file,)), **terms))
    assert third.state == "present"


def test_the_same_bytes_elsewhere_and_later_are_the_same_input(tmp_path: Path) -> None:
    file = image(tmp_path / "a.nii.gz")
    assert run_job(predictor(), job(tmp_path / "o", "a", NiftiCase((file,)))).state == "done"
    moved = tmp_path / "moved" / "b.nii.gz"
    moved.parent.mkdir()
    moved.write_bytes(file.read_bytes())
    again = run_job(predictor(), job(tmp_path / "o", "a", NiftiCase((moved,))))
    assert again.state == "present"


def test_a_lost_output_is_made_again(tmp_path: Path) -> None:
    given = job(tmp_path / "o", "a", NiftiCase((image(tmp_path / "a.nii.gz"),)))
    first = run_job(predictor(), given)
    content = given.path.read_bytes()
    given.path.unlink()
    again = run_job(predictor(), given)
    assert (first.state, again.state) == ("done", "done")
    assert given.path.read_bytes() == content


def test_a_label_map_that_somebody_corrected_is_kept(tmp_path: Path) -> None:
    case = NiftiCase((image(tmp_path / "a.nii.gz"),))
    given = job(tmp_path / "o", "a", case)
    run_job(predictor(), given)
    given.path.write_bytes(given.path.read_bytes() + b"corrected")
    refused = run_job(predictor(), job(tmp_path / "o", "a", case, bundle_sha256="c" * 64))
    assert (refused.state, refused.code) == ("failed", "E_CHANGED")
    assert given.path.read_bytes().endswith(b"corrected")
    assert run_job(predictor(), job(tmp_path / "o", "a", case, overwrite=True)).state == "done"
    assert not given.path.read_bytes().endswith(b"corrected")


def test_a_label_map_without_a_receipt_is_kept(tmp_path: Path) -> None:
    given = job(tmp_path / "o", "a", NiftiCase((image(tmp_path / "a.nii.gz"),)))
    given.path.parent.mkdir()
    given.path.write_bytes(b"of another program")
    kept = run_job(predictor(), given)
    assert kept.state == "present"
    assert "receipt" in kept.message
    assert given.path.read_bytes() == b"of another program"


def test_half_made_outputs_of_a_lost_run_are_made_again(tmp_path: Path) -> None:
    given = job(tmp_path / "o", "a", NiftiCase((image(tmp_path / "a.nii.gz"),)))
    lost = claim(claim_path(given))
    assert lost is not None
    lost.begin_writing()
    given.path.write_bytes(b"half")
    lost.release(finished=False)
    assert run_job(predictor(), given).state == "done"
    assert given.path.read_bytes() != b"half"
    assert run_job(predictor(), given).state == "present"


def test_a_receipt_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    given = job(tmp_path / "o", "a", NiftiCase((image(tmp_path / "a.nii.gz"),)))
    run_job(predictor(), given)
    for damage in ("", "[]", '{"format": 1}', '{"format": 9}', "\x00"):
        receipt_path(given).write_text(damage)
        assert run_job(predictor(), given).state == "present"


def test_faults_of_a_case_and_of_ours_are_outcomes_and_quote_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    poisoned = image(tmp_path / "p.nii.gz", poisoned=True)
    with caplog.at_level(logging.ERROR):
        outcome = run_job(predictor(), job(tmp_path / "o", "p", NiftiCase((poisoned,))))
    assert (outcome.state, outcome.code) == ("failed", "E_OURS")
    assert "RuntimeError" in outcome.message
    assert "forward" in caplog.text
    assert "PatientName" not in caplog.text.replace(
        'raise RuntimeError("PatientName was here")', ""
    )
    unusable = UnusableCase(InputFault("no channel T2", code="E_CASES"))
    failed = run_job(predictor(), job(tmp_path / "o", "q", unusable))
    assert failed == Outcome(
        case="q", state="failed", code="E_CASES", message="no channel T2", read_s=failed.read_s
    )
    assert list((tmp_path / "o" / ".medseg" / "claims").iterdir()) == []
