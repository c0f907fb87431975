"""A real SLURM of two nodes on this machine for all tests of a session, and one tiny world."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT
from tests.helpers.stages import make_world

SCRIPT = ROOT / "slurm" / "local_cluster.sh"
PROGRAMS = ("sbatch", "slurmctld", "slurmd", "munged")


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """SLURM_CONF names the cluster as long as the tests run."""
    path = f"{os.environ['PATH']}{os.pathsep}/usr/sbin"
    missing = [program for program in PROGRAMS if shutil.which(program, path=path) is None]
    if missing:
        give_up = pytest.fail if os.environ.get("CI") else pytest.skip
        give_up(f"{', '.join(missing)} not installed (Debian: slurm-wlm, munge)")
    state = tmp_path_factory.mktemp("slurm")
    started = subprocess.run([SCRIPT, "up", state], capture_output=True, text=True, check=False)
    with pytest.MonkeyPatch.context() as patch:
        try:
            assert started.returncode == 0, started.stderr
            patch.setenv("SLURM_CONF", str(state / "slurm.conf"))
            yield
        finally:
            subprocess.run([SCRIPT, "down", state], check=True)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))
