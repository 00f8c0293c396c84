"""Where workers come from; Slurm is played by two scripts that start and end jobs here."""

import os
import time
from pathlib import Path

import pytest

from medseg.engine.workers import slurm_script, slurm_workers
from medseg.fault import InputFault

pytestmark = pytest.mark.filterwarnings("default")

SBATCH = """#!/bin/sh
for last; do :; done
# As Slurm does: the script is taken along, for the one submitted is removed.
cp "$last" {folder}/$$.sh
setsid sh {folder}/$$.sh > {folder}/$$.log 2>&1 &
echo $! >> {folder}/pids
echo "Submitted batch job $!"
"""
SCANCEL = """#!/bin/sh
for job; do kill -TERM -- -"$job" 2>/dev/null; done
exit 0
"""
OPTIONS = {"queue": "gpu", "memory": "2GB", "walltime": "00:10:00", "cores": "1", "gres": "gpu:1"}


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in front of PATH with an sbatch and an scancel; the jobs' numbers are kept."""
    for name, text in (("sbatch", SBATCH.format(folder=tmp_path)), ("scancel", SCANCEL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_job_script_asks_slurm_for_what_was_given() -> None:
    script = slurm_script(OPTIONS)
    for line in ("-p gpu", "--gres=gpu:1", "-t 00:10:00", "--cpus-per-task=1", "--mem=2G"):
        assert f"#SBATCH {line}" in script
    assert "--nthreads 1" in script


def test_an_option_that_is_none_is_told() -> None:
    with pytest.raises(InputFault, match="queu") as fault:
        slurm_script({"queu": "gpu"})
    assert fault.value.code == "E_USE"


def test_slurm_jobs_become_workers_and_end_with_the_run(slurm: Path) -> None:
    with slurm_workers(2, OPTIONS) as client:
        client.wait_for_workers(2, timeout=60)
        assert len(client.run(os.getpid)) == 2
    jobs = [int(line) for line in (slurm / "pids").read_text().split()]
    assert len(jobs) == 2
    ends = time.monotonic() + 30
    while any(map(_runs, jobs)):
        assert time.monotonic() < ends
        time.sleep(0.1)


def _runs(job: int) -> bool:
    """Whether a process is there, and no zombie that nobody waits for here."""
    try:
        state = Path(f"/proc/{job}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"
