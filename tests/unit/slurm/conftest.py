"""A pretended cluster: programs in the place of SLURM's, which note what they were asked."""

import os
from pathlib import Path

import pytest

from tests.unit.slurm.samples import write_program

SBATCH = """
n=$(cat "$DRIVLM_TEST/jobs"); echo $((n + 1)) > "$DRIVLM_TEST/jobs"
env > "$DRIVLM_TEST/environment"
cp "$1" "$DRIVLM_TEST/script"
echo "Submitted batch job $n"
"""


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Their directory: one partition of two nodes without GPUs, jobs from 17 on, a queue that is the file `queue`."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("DRIVLM_TEST", str(tmp_path))
    monkeypatch.setenv("PATH", f"{directory}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("DRIVLM_SITE", raising=False)
    (tmp_path / "queue").touch()
    (tmp_path / "jobs").write_text("17")
    write_program(directory / "sbatch", SBATCH)
    write_program(directory / "srun", "exit 1")
    write_program(directory / "sinfo", "echo 'debug*|2|(null)|8'")
    write_program(directory / "squeue", 'cat "$DRIVLM_TEST/queue"')
    write_program(directory / "scancel", 'echo "$@" >> "$DRIVLM_TEST/cancelled"')
    return directory
