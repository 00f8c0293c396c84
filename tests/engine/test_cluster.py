"""Real worker processes: a killed one costs at most the case it was at."""

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from distributed import Client

from medseg.bundle.bundle import load_bundle
from medseg.bundle.inputs import Case, NiftiCase
from medseg.bundle.manifest import MANIFEST
from medseg.engine import cluster
from medseg.engine.cluster import run_cluster
from medseg.engine.job import Job, Outcome
from medseg.engine.local import run_local
from medseg.engine.worker import Work
from medseg.engine.workers import local_workers, workers_of
from medseg.fault import InputFault
from medseg.inference.settings import WalkSettings
from medseg.io.pickled import file_sha256
from tests.engine.deadly import DeadlyCase, OnceDeadlyCase, SlowCase, bundle, sight_without
from tests.engine.small import images, job, states

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle(tmp_path_factory.mktemp("made") / "bundle")


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with local_workers(2) as made:
        yield made


def work(made: Path) -> Work:
    return Work(
        bundle=made,
        bundle_sha256=file_sha256(made / MANIFEST),
        device="cpu",
        settings=WalkSettings(),
        threads=1,
    )


def jobs_of(out: Path, cases: dict[str, Case], made: Path) -> list[Job]:
    out.mkdir(parents=True, exist_ok=True)
    digest = file_sha256(made / MANIFEST)
    return [job(out, name, case, bundle_sha256=digest) for name, case in cases.items()]


def run(client: Client, made: Path, jobs: list[Job], **options: object) -> list[Outcome]:
    outcomes: list[Outcome] = []
    run_cluster(client, work(made), jobs, settle=outcomes.append, **options)
    return outcomes


def alone(made: Path, jobs: list[Job]) -> None:
    """The same jobs in this process."""
    outcomes: list[Outcome] = []
    predictor = load_bundle(made).predictor(device="cpu", settings=WalkSettings())
    run_local(predictor, jobs, settle=outcomes.append, overlapped=False)
    assert set(states(outcomes).values()) == {"done"}


def test_every_case_is_done_once_and_to_the_bit_as_in_one_process(
    tmp_path: Path, client: Client, made: Path
) -> None:
    cases: dict[str, Case] = {p.name[:3]: NiftiCase((p,)) for p in images(tmp_path / "in", 6)}
    outcomes = run(client, made, jobs_of(tmp_path / "many", cases, made))
    assert states(outcomes) == dict.fromkeys(sorted(cases), "done")
    alone(made, jobs_of(tmp_path / "one", cases, made))
    for name in cases:
        found, wanted = (tmp_path / run / f"{name}.nii.gz" for run in ("many", "one"))
        assert found.read_bytes() == wanted.read_bytes()
    again = run(client, made, jobs_of(tmp_path / "many", cases, made))
    assert set(states(again).values()) == {"present"}


def test_a_case_that_kills_its_worker_twice_is_put_aside_and_no_other_is_blamed(
    tmp_path: Path, client: Client, made: Path
) -> None:
    files = images(tmp_path / "in", 5)
    cases: dict[str, Case] = {p.name[:3]: NiftiCase((p,)) for p in files}
    cases["c01"], cases["c03"] = DeadlyCase((files[1],)), OnceDeadlyCase((files[3],))
    found = states(run(client, made, jobs_of(tmp_path / "out", cases, made)))
    assert found == dict.fromkeys(cases, "done") | {"c01": "quarantined"}
    # The next run leaves it aside, and tells.
    (told,) = [
        one for one in run(client, made, jobs_of(tmp_path / "out", cases, made)) if one.is_fault
    ]
    assert told.state == "quarantined"
    assert told.code == "E_KILLED"
    assert "earlier run" in told.message
    mended = {**cases, "c01": NiftiCase((files[1],))}
    once_more = run(client, made, jobs_of(tmp_path / "out", mended, made), retry=True)
    assert states(once_more)["c01"] == "done"
    assert not list((tmp_path / "out" / ".medseg").glob("quarantine/*"))


@pytest.mark.slow
def test_forty_cases_three_poisoned_and_workers_killed_at_random(
    tmp_path: Path, made: Path
) -> None:
    files = images(tmp_path / "in", 40)
    cases: dict[str, Case] = {p.name[:3]: SlowCase((p,)) for p in files}
    poisoned = random.Random(0).sample(sorted(cases), 3)
    for name in poisoned:
        cases[name] = DeadlyCase(cases[name].files)
    over = threading.Event()
    killed: list[int] = []

    def begun_by(pid: int) -> Path | None:
        notes = [one for one in (tmp_path / "in").glob("*.begun") if one.read_text() == str(pid)]
        return max(notes, key=lambda note: note.stat().st_mtime_ns, default=None)

    def kill_now_and_then(client: Client) -> None:
        # However slow the machine, a case is meant to be struck once.
        chance, struck = random.Random(1), set()
        while not over.wait(chance.uniform(4, 7)):
            # One that was asked, or chosen, may have ended meanwhile.
            with contextlib.suppress(OSError, TimeoutError):
                pids = client.run(os.getpid, on_error="ignore").values()
                at = {pid: begun_by(pid) for pid in sorted(pids)}
                ready = [pid for pid, case in at.items() if case and case not in struck]
                if ready:
                    os.kill(chosen := chance.choice(ready), signal.SIGKILL)
                    killed.append(chosen)
                    struck.add(at[chosen])

    with local_workers(2) as client:
        killer = threading.Thread(target=kill_now_and_then, args=(client,), daemon=True)
        killer.start()
        outcomes = run(client, made, jobs_of(tmp_path / "many", cases, made))
        over.set()
        killer.join()
    found = states(outcomes)
    assert len(outcomes) == len(found) == 40
    assert killed
    aside = {name for name, state in found.items() if state == "quarantined"}
    assert aside >= set(poisoned)
    # A case that chance struck twice is aside too, as it should be; a rerun does it.
    struck = sorted(aside - set(poisoned))
    assert len(struck) <= 1
    healthy = {name: NiftiCase(case.files) for name, case in cases.items() if name not in poisoned}
    with local_workers(1) as client:
        run(
            client,
            made,
            jobs_of(tmp_path / "many", {n: healthy[n] for n in struck}, made),
            retry=True,
        )
    alone(made, jobs_of(tmp_path / "one", healthy, made))
    assert len(healthy) == 37
    for name in healthy:
        found_bytes, wanted = (tmp_path / run / f"{name}.nii.gz" for run in ("many", "one"))
        assert found_bytes.read_bytes() == wanted.read_bytes()


def test_two_runs_on_one_folder_do_each_case_once(
    tmp_path: Path, client: Client, made: Path
) -> None:
    cases: dict[str, Case] = {p.name[:3]: SlowCase((p,)) for p in images(tmp_path / "in", 6)}
    results: list[list[Outcome]] = [[], []]
    address = client.scheduler.address

    def one(number: int) -> None:
        with workers_of(address) as own:
            results[number] += run(own, made, jobs_of(tmp_path / "out", cases, made))

    threads = [threading.Thread(target=one, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done = [one.case for outcomes in results for one in outcomes if one.state == "done"]
    assert sorted(done) == sorted(cases)
    assert [len(outcomes) for outcomes in results] == [6, 6]


@pytest.mark.parametrize("lacking", ["output", "bundle", "medseg", "torch"])
def test_a_worker_that_sees_other_files_or_versions_is_told(
    tmp_path: Path,
    client: Client,
    made: Path,
    lacking: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cases: dict[str, Case] = {p.name[:3]: NiftiCase((p,)) for p in images(tmp_path / "in", 1)}
    monkeypatch.setattr(cluster, "sight", partial(sight_without, lacking))
    with pytest.raises(InputFault, match="same files") as fault:
        run(client, made, jobs_of(tmp_path / "out", cases, made))
    assert fault.value.code == "E_SHARED"


def test_no_scheduler_and_no_worker_are_told(tmp_path: Path, made: Path) -> None:
    with (
        pytest.raises(InputFault, match="no Dask scheduler answers") as fault,
        workers_of("tcp://127.0.0.1:9"),
    ):
        pass
    assert fault.value.code == "E_SCHEDULER"
    cases: dict[str, Case] = {p.name[:3]: NiftiCase((p,)) for p in images(tmp_path / "in", 1)}
    with local_workers(0) as client, pytest.raises(InputFault, match="no worker") as fault:
        run(client, made, jobs_of(tmp_path / "out", cases, made), patience_s=1.0)
    assert fault.value.code == "E_WORKERS"


def test_no_process_is_left_behind() -> None:
    with local_workers(2) as client:
        pids = list(client.run(os.getpid).values())
    ends = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < ends
        time.sleep(0.1)
