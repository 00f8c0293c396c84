"""dcm2niix and SimpleITK find the same values at the same points of the patient."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import EnhancedCTImageStorage, JPEG2000Lossless, JPEGLSLossless, RLELossless

from medseg.io.dicom.read import LPS_TO_RAS, Reading, read_series
from medseg.io.dicom.series import find_series
from medseg.io.dicom.sources import dicom_files
from tests.io.dicom.case import found_by_medseg
from tests.io.dicom.enhanced import Enhanced
from tests.io.dicom.phantom import CORONAL, OBLIQUE, SAGITTAL, Layout, Made, Storing

SMALL = Layout(OBLIQUE, rows=40, columns=48, spacing_mm=(1.25, 1.0))
SERIES: dict[str, Made | Enhanced] = {
    "axial": Made(),
    "sagittal": Made(Layout(SAGITTAL)),
    "coronal": Made(Layout(CORONAL)),
    "oblique": Made(Layout(OBLIQUE)),
    "feet first": Made(Layout((-1.0, 0, 0, 0, 1, 0))),
    "signed 12 bits": Made(storing=Storing(stored=12, signed=True, intercepts=(200.0,))),
    "slope": Made(storing=Storing(slopes=(0.5,), intercepts=(-100.0,))),
    "rle": Made(SMALL, Storing(RLELossless)),
    "jpeg-ls": Made(SMALL, Storing(JPEGLSLossless)),
    "jpeg 2000": Made(SMALL, Storing(JPEG2000Lossless)),
    "enhanced": Enhanced(Made(Layout(OBLIQUE), sop_class=EnhancedCTImageStorage)),
}
# SimpleITK reads a multi-frame file through another door, and its frames in the file's order.
PLAIN = [name for name in SERIES if name != "enhanced"]


@pytest.fixture(scope="session")
def dcm2niix() -> str:
    """The program of the package dcm2niix."""
    beside = Path(sys.executable).with_name("dcm2niix")
    program = str(beside) if beside.is_file() else shutil.which("dcm2niix")
    if program is None or importlib.util.find_spec("dcm2niix") is None:
        pytest.skip("the package dcm2niix, the second opinion on DICOM, is not installed")
    return program


def by_dcm2niix(program: str, folder: Path, out: Path) -> tuple[np.ndarray, np.ndarray]:
    """Its values (i, j, k) and affine."""
    out.mkdir()
    command = [program, "-z", "n", "-b", "n", "-m", "n", "-f", "a", "-o", str(out), str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = out.glob("a*.nii")
    image = nib.load(path)
    return image.get_fdata(), image.affine


def refuse_other(reading_array: np.ndarray, affine: np.ndarray, theirs, their_affine) -> None:
    """Assert that each voxel of ours has the same value at its point of the patient in theirs."""
    assert theirs.size == reading_array.size
    indices = np.stack(np.indices(reading_array.shape), axis=-1).reshape(-1, 3)
    to_theirs = np.linalg.inv(their_affine) @ affine
    found = indices @ to_theirs[:3, :3].T + to_theirs[:3, 3]
    whole = np.rint(found).astype(int)
    assert np.abs(found - whole).max() < 2e-3
    assert np.allclose(theirs[tuple(whole.T)], reading_array.ravel(), rtol=1e-6, atol=1e-3)


@pytest.mark.parametrize("name", SERIES)
def test_dcm2niix_finds_the_same_voxels_at_the_same_points(
    name: str, dcm2niix: str, tmp_path: Path
) -> None:
    SERIES[name].write(tmp_path / "in")
    volume, notes = found_by_medseg(tmp_path / "in")
    assert notes == ()
    theirs = by_dcm2niix(dcm2niix, tmp_path / "in", tmp_path / "out")
    refuse_other(volume.array[0], volume.grid.affine, *theirs)


@pytest.mark.parametrize("name", PLAIN)
def test_simpleitk_finds_the_same_voxels_at_the_same_points(name: str, tmp_path: Path) -> None:
    SERIES[name].write(tmp_path / "in")
    volume, _ = found_by_medseg(tmp_path / "in")
    refuse_other(volume.array[0], volume.grid.affine, *by_simpleitk(tmp_path / "in"))


def by_simpleitk(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    sitk = pytest.importorskip("SimpleITK")
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).transpose(2, 1, 0), LPS_TO_RAS @ affine


def reading_of(folder: Path) -> Reading:
    with dicom_files([folder]) as files:
        (series,) = find_series(files)
        return read_series(series, "CT")


@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_dcm2niix_agrees_on_real_magnetic_resonance(
    number: int, dcm2niix: str, shared_data: Path, tmp_path: Path
) -> None:
    folder = sorted((shared_data / "dicom" / "brain_tumor_mr").iterdir())[number]
    reading = reading_of(folder)
    assert reading.notes == ()
    theirs = by_dcm2niix(dcm2niix, folder, tmp_path / "out")
    refuse_other(reading.volume.array[0], reading.volume.grid.affine, *theirs)


def test_simpleitk_agrees_on_real_magnetic_resonance(shared_data: Path) -> None:
    folder = min((shared_data / "dicom" / "brain_tumor_mr").iterdir())
    volume = reading_of(folder).volume
    refuse_other(volume.array[0], volume.grid.affine, *by_simpleitk(folder))


def at_their_points(reading: Reading, folder: Path, moved_mm: float = 0.0) -> np.ndarray:
    """Pairs (scanned value, value in the volume at its point), for every seventh pixel.

    The points are moved along the columns by `moved_mm`, for a control.
    """
    pairs = []
    for path in sorted(folder.iterdir()):
        image = dcmread(path)
        along_row, along_column = np.reshape(image.ImageOrientationPatient, (2, 3)).astype(float)
        row, column = np.meshgrid(
            *(np.arange(3, side, 7) for side in image.pixel_array.shape), indexing="ij"
        )
        down, across = map(float, image.PixelSpacing)
        points = np.array(image.ImagePositionPatient, float) + (
            (column * across)[..., None] * along_row
            + (row * down + moved_mm)[..., None] * along_column
        )
        ras = points * [-1, -1, 1]
        voxels = reading.volume.grid.world_to_voxel(ras.reshape(-1, 3))
        # Between two planes the nearer one is asked, in a plane the nearest pixel.
        whole = np.rint(voxels).astype(int)
        inside = ((whole >= 0) & (whole < reading.volume.grid.shape)).all(axis=1)
        stored = image.pixel_array[row, column].ravel()
        true = stored * float(image.RescaleSlope) + float(image.RescaleIntercept)
        found = reading.volume.array[0][tuple(whole[inside].T)]
        pairs.append(np.stack([true[inside], found]))
    return np.concatenate(pairs, axis=1)


def test_a_real_tilted_head_comes_out_straight(shared_data: Path) -> None:
    """Gantry 18.5 degrees, gaps of 1.08 to 7.0 mm: what was scanned at a point is found there."""
    folder = shared_data / "dicom" / "head_ct_tilted"
    reading = reading_of(folder)
    assert "18.5 degrees" in " ".join(reading.notes)
    assert "1.081 to 6.999 mm apart" in " ".join(reading.notes)
    grid = reading.volume.grid
    cosines = grid.affine[:3, :3] / np.linalg.norm(grid.affine[:3, :3], axis=0)
    assert np.abs(cosines.T @ cosines - np.eye(3)).max() < 1e-9
    true, found = at_their_points(reading, folder)
    assert true.size > 100_000
    assert np.corrcoef(true, found)[0, 1] > 0.97
    assert np.median(np.abs(true - found)) < 10
    # Four pixels off it is another place: the check can tell.
    control = at_their_points(reading, folder, moved_mm=2.0)
    assert np.corrcoef(control)[0, 1] < np.corrcoef(true, found)[0, 1] - 0.01
