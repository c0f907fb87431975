"""Starts that fail: what the user is told, and the exit status."""

import socket
from pathlib import Path

import pytest

from tests.helpers.dist import launch, start_ranks, wait_ranks
from tests.helpers.stages import write_recipe

pytestmark = pytest.mark.distributed


def test_port_in_use_names_the_port_and_another(world: Path):
    recipe = write_recipe(world, "distill", world / "port")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ranks = start_ranks(["--recipe", str(recipe)], world=1, port=port)
        statuses, output = wait_ranks(ranks)
    assert statuses == [1]
    assert f"port {port} is in use" in output
    assert "--master_port" in output


def test_launcher_passes_usage_errors_on_and_prints_them_once(world: Path):
    recipe = write_recipe(world, "align", world / "missing", model={"vision": str(world / "nowhere" / "model")})
    done = launch(["--recipe", str(recipe)])
    assert done.returncode == 2
    assert done.stderr.count("error: model.vision") == 1
    assert f"run_dir={world / 'nowhere'}" in done.stderr
    assert not (world / "missing").exists()


def test_limits_that_half_the_frames_do_not_fit_are_refused_once_and_before_weights_are_read(world: Path):
    recipe = write_recipe(world, "distill", world / "tight")
    statuses, output = wait_ranks(start_ranks(["--recipe", str(recipe), "data.max_tiles=2"], world=1))
    assert statuses == [1]
    assert output.count("data.max_bad_fraction: got 12 unusable samples of 24") == 1
    assert "raise data.max_tokens or data.max_tiles" in output
    assert "left out:" not in output
    assert not (world / "tight" / "codebook.safetensors").exists()
