"""Where the two forms of a NIfTI file disagree, the user decides which is right."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medseg.fault import InputFault
from medseg.io.nifti import read_header, read_labels, read_volume
from medseg.io.nifti_place import Form
from tests.io.catalogue.made import IMAGE, LABELS, PLACE, pixdim, rows
from tests.io.catalogue.packing import packed_nifti
from tests.io.catalogue.phantom import Place
from tests.io.catalogue.readers import TABLE

OF_SFORM = Place(axis=(0, 0, 1), angle=0.2, origin_ras_mm=(5.0, 6.0, 7.0))
BOTH: dict = {"srow": rows(OF_SFORM.affine)}
PLACES = {"sform": OF_SFORM.affine, "qform": PLACE.affine}


def saved(folder: Path, voxels: np.ndarray = IMAGE, **fields) -> Path:
    path = folder / "a.nii"
    path.write_bytes(packed_nifti(voxels, PLACE, **fields))
    return path


def refusal(path: Path, form: Form | None = None) -> InputFault:
    with pytest.raises(InputFault) as fault:
        read_header(path, form=form)
    return fault.value


@pytest.mark.parametrize("form", ["sform", "qform"])
def test_the_form_that_was_asked_for_is_taken_by_every_reading(tmp_path, form):
    path = saved(tmp_path, **BOTH)
    header = read_header(path, form=form)
    assert header.form == form
    volume = read_volume([path, path], ["a", "b"], form=form)
    labels = read_labels(saved(tmp_path, LABELS, **BOTH), TABLE, form=form)
    for grid in (header.grid, volume.grid, labels.grid):
        assert np.allclose(grid.affine, PLACES[form], atol=1e-4)
    assert np.array_equal(volume.array[1], IMAGE)
    assert np.array_equal(labels.array, LABELS)


def test_without_a_choice_the_refusal_names_the_option(tmp_path):
    path = saved(tmp_path, **BOTH)
    for fault in (refusal(path), refused_volume(path)):
        assert fault.code == "E_QSFORM"
        assert "--affine sform or --affine qform" in str(fault)


def refused_volume(path: Path) -> InputFault:
    with pytest.raises(InputFault) as fault:
        read_volume([path], ["a"])
    return fault.value


@pytest.mark.parametrize(
    ("codes", "form", "taken"),
    [
        ((1, 1), None, "sform"),
        ((0, 1), None, "sform"),
        ((1, 0), None, "qform"),
        ((0, 1), "qform", "sform"),
        ((1, 0), "sform", "qform"),
        ((1, 1), "qform", "qform"),
    ],
)
def test_a_file_with_one_form_is_read_by_it_whatever_was_asked(tmp_path, codes, form, taken):
    path = saved(tmp_path, qform_code=codes[0], sform_code=codes[1])
    assert read_header(path, form=form).form == taken


def test_pixdim_against_the_sform_is_decided_alike(tmp_path):
    path = saved(tmp_path, pixdim=pixdim(1, 1, 1))
    fault = refusal(path)
    assert fault.code == "E_PIXDIM"
    assert "--affine sform or --affine qform" in str(fault)
    assert np.allclose(read_header(path, form="sform").grid.spacing_mm, (2, 2.5, 3))
    assert np.allclose(read_header(path, form="qform").grid.spacing_mm, (1, 1, 1))


def test_pixdim_against_the_only_form_is_decided_by_naming_it(tmp_path):
    path = saved(tmp_path, pixdim=pixdim(1, 1, 1), qform_code=0)
    for form in (None, "qform"):
        fault = refusal(path, form)
        assert fault.code == "E_PIXDIM"
        assert "--affine sform (medseg predict" in str(fault)
        assert "qform (" not in str(fault)
    assert np.allclose(read_header(path, form="sform").grid.affine, PLACE.affine, atol=1e-4)


@pytest.mark.parametrize(
    ("fields", "code", "whole"),
    [
        ({"srow": [0.0] * 12}, "E_AFFINE", "qform"),
        ({"srow": [np.nan] * 12}, "E_AFFINE", "qform"),
        ({"quatern": (1.0, 1.0, 0.0)}, "E_QFORM", "sform"),
        ({"qoffset": (np.inf, 0.0, 0.0)}, "E_QFORM", "sform"),
        ({"pixdim": pixdim(2, 2.5, 3, qfac=-2)}, "E_QFORM", "sform"),
    ],
)
def test_a_damaged_form_is_left_by_choosing_the_other(tmp_path, fields, code, whole):
    path = saved(tmp_path, **fields)
    fault = refusal(path)
    assert fault.code == code
    assert f"choose --affine {whole}" in str(fault)
    assert np.allclose(read_header(path, form=whole).grid.affine, PLACE.affine, atol=1e-4)
    damaged = {"qform": "sform", "sform": "qform"}[whole]
    assert refusal(path, damaged).code == code


def test_a_damaged_form_that_is_the_only_one_names_no_other(tmp_path):
    assert "--affine" not in str(refusal(saved(tmp_path, srow=[0.0] * 12, qform_code=0)))


@pytest.mark.parametrize("code", [-1, 6, 300])
@pytest.mark.parametrize(("of", "other"), [("sform", "qform"), ("qform", "sform")])
def test_a_code_that_is_none_is_left_by_choosing_the_other(tmp_path, code, of, other):
    path = saved(tmp_path, **{f"{of}_code": code})
    fault = refusal(path)
    assert fault.code == "E_NOFORM"
    assert f"{of}_code {code}" in str(fault)
    assert f"choose --affine {other}" in str(fault)
    assert {read_header(path, form=form).form for form in ("sform", "qform")} == {other}


@pytest.mark.parametrize("form", ["sform", "qform"])
def test_a_choice_makes_no_place_where_there_is_none(tmp_path, form):
    assert refusal(saved(tmp_path, qform_code=0, sform_code=0), form).code == "E_NOFORM"


def test_a_sheared_sform_can_be_left_for_its_qform(tmp_path):
    sheared = PLACE.affine
    sheared[:3, :3] = sheared[:3, :3] @ [[1, 0.05, 0], [0, 1, 0], [0, 0, 1]]
    path = saved(tmp_path, srow=rows(sheared))
    assert refusal(path).code == "E_QSFORM"
    assert refusal(path, "sform").code == "E_SHEAR"
    assert np.allclose(read_header(path, form="qform").grid.affine, PLACE.affine, atol=1e-4)


def test_channels_are_compared_by_the_form_that_was_chosen(tmp_path):
    first = saved(tmp_path, **BOTH)
    second = tmp_path / "b.nii"
    second.write_bytes(packed_nifti(IMAGE, PLACE))
    assert len(read_volume([first, second], ["a", "b"], form="qform").array) == 2
    with pytest.raises(InputFault) as fault:
        read_volume([first, second], ["a", "b"], form="sform")
    assert fault.value.code == "E_PAIR"


def test_files_agree_where_the_place_of_one_is_the_other_form_of_the_other(tmp_path):
    def header(sform_mm: float, qform_mm: float):
        moved = replace(PLACE, origin_ras_mm=tuple(np.add(PLACE.origin_ras_mm, sform_mm)))
        qform = replace(PLACE, origin_ras_mm=tuple(np.add(PLACE.origin_ras_mm, qform_mm)))
        path = tmp_path / "a.nii"
        path.write_bytes(packed_nifti(IMAGE, qform, srow=rows(moved.affine)))
        return read_header(path)

    both = header(0.2, 0.0)
    assert both.apart(header(0.0, 0.0)) is None
    assert header(0.0, 0.0).apart(both) is None
    # Each was moved from where the scanner put both: equal qforms do not make them lie together.
    assert both.apart(header(0.1, 0.0)) == "corners up to 0.1 mm apart"


def test_a_file_that_is_changed_between_its_header_and_its_voxels_is_refused(tmp_path, monkeypatch):
    path = saved(tmp_path)
    before = read_header(path)
    path.write_bytes(packed_nifti(IMAGE, OF_SFORM))
    monkeypatch.setattr("medseg.io.nifti.read_header", lambda *_, **__: before)
    assert refused_volume(path).code == "E_CHANGED"
