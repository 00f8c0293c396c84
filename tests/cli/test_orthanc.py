"""A study in a real archive: sent, fetched, labeled, and its labels stored beside it.

Needs the Debian packages orthanc, orthanc-dicomweb and dcmtk; part of `make test-all`.
"""

import json
import secrets
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import pytest

from medseg.cli import main
from medseg.io.dicom_seg_read import read_dicom_seg
from medseg.io.nifti import read_labels
from medseg.volume import LabelTable
from tests.io.made_series import MadeSeries

PLUGINS = Path("/usr/share/orthanc/plugins")
DICOM_WEB = "libOrthancDicomWeb.so"
SERIES = MadeSeries(cosines=(1, 0, 0, 0, 0.8, 0.6), rows=40, columns=36, count=24, gap_mm=1.5)


@dataclass(frozen=True)
class Archive:
    """A running Orthanc."""

    http_port: int
    dicom_port: int

    def ask(self, path: str, *, body: bytes | None = None, kind: str = "") -> bytes:
        """The answer to a GET, or to a POST of `body`."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.http_port}{path}", data=body)
        if kind:
            request.add_header("Content-Type", kind)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.read()

    def found(self, query: str) -> list[dict]:
        """The matches of a QIDO-RS query."""
        return json.loads(self.ask(f"/dicom-web/{query}") or b"[]")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    program = shutil.which("Orthanc")
    if program is None or not (PLUGINS / DICOM_WEB).exists():
        pytest.skip("Orthanc is not installed (Debian: orthanc, orthanc-dicomweb)")
    folder = tmp_path_factory.mktemp("orthanc")
    http_port, dicom_port = _free_port(), _free_port()
    settings = {
        "Name": "test",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "Plugins": [str(PLUGINS / DICOM_WEB)],
        "HttpPort": http_port,
        "DicomPort": dicom_port,
        "DicomAet": "ARCHIVE",
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomWeb": {"Enable": True},
    }
    (folder / "orthanc.json").write_text(json.dumps(settings), encoding="utf-8")
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([program, str(folder / "orthanc.json")], stdout=log, stderr=log)
        try:
            yield _awaited(Archive(http_port, dicom_port), server, folder / "log")
        finally:
            server.terminate()
            server.wait(30)


@pytest.mark.external
def test_a_series_sent_to_orthanc_is_fetched_labeled_and_its_seg_is_found_beside_it(
    archive: Archive, run: Path, tmp_path: Path
) -> None:
    files = SERIES.write(tmp_path / "scanner")
    half = len(files) // 2
    _store_by_network(archive, files[:half])
    _store_by_web(archive, files[half:])
    header = pydicom.dcmread(files[0], stop_before_pixels=True)
    study, series = str(header.StudyInstanceUID), str(header.SeriesInstanceUID)
    assert len(archive.found(f"studies/{study}/series/{series}/instances")) == len(files)

    fetched = tmp_path / "fetched.zip"
    fetched.write_bytes(archive.ask(f"/series/{_own_id(archive, series)}/archive"))
    out = tmp_path / "out"
    formats = ["--format", "nifti,dicom-seg"]
    assert main(["predict", str(run / "bundle"), str(fetched), "-o", str(out), *formats]) == 0

    written = out / "fetched.seg.dcm"
    _store_by_web(archive, [written])
    matches = archive.found(f"studies/{study}/series?Modality=SEG")
    assert len(matches) == 1
    table = LabelTable.from_csv((run / "bundle/labels.csv").read_text(), place="labels.csv")
    back = _first_file(archive, matches[0]["0020000E"]["Value"][0], tmp_path / "back.dcm")
    expected = read_labels(out / "fetched.nii.gz", table)
    assert expected.grid.shape == SERIES.grid.shape
    assert np.allclose(expected.grid.affine, SERIES.grid.affine, atol=1e-4)
    again = read_dicom_seg(back, table=table)
    inside = np.argwhere(again.array > 0)
    places = expected.grid.world_to_voxel(again.grid.voxel_to_world(inside))
    assert np.abs(places - np.rint(places)).max() < 0.01
    moved = np.zeros_like(expected.array)
    moved[tuple(np.rint(places).astype(int).T)] = again.array[tuple(inside.T)]
    assert np.array_equal(moved, expected.array)


def _store_by_network(archive: Archive, files: list[Path]) -> None:
    """C-STORE."""
    program = shutil.which("storescu")
    if program is None:
        pytest.skip("storescu is not installed (Debian: dcmtk)")
    called = [program, "-aec", "ARCHIVE", "127.0.0.1", str(archive.dicom_port)]
    subprocess.run([*called, *map(str, files)], check=True, timeout=60)


def _store_by_web(archive: Archive, files: list[Path]) -> None:
    """STOW-RS (PS3.18 10.5)."""
    boundary = secrets.token_hex(16)
    head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    parts = b"".join(head + file.read_bytes() + b"\r\n" for file in files)
    kind = f'multipart/related; type="application/dicom"; boundary={boundary}'
    archive.ask("/dicom-web/studies", body=parts + f"--{boundary}--".encode(), kind=kind)


def _own_id(archive: Archive, series_uid: str) -> str:
    """Orthanc's own name of a series."""
    return json.loads(archive.ask("/tools/lookup", body=series_uid.encode()))[0]["ID"]


def _first_file(archive: Archive, series_uid: str, path: Path) -> Path:
    instance = json.loads(archive.ask(f"/series/{_own_id(archive, series_uid)}"))["Instances"][0]
    path.write_bytes(archive.ask(f"/instances/{instance}/file"))
    return path


def _free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


def _awaited(archive: Archive, server: subprocess.Popen, log: Path) -> Archive:
    for _ in range(120):
        assert server.poll() is None, log.read_text(errors="replace")[-2000:]
        try:
            archive.ask("/system")
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.5)
        else:
            return archive
    raise AssertionError(f"Orthanc did not answer: {log.read_text(errors='replace')[-2000:]}")
