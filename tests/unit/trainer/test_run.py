"""The command line in one process: usage errors and the dry run."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from data_shards.storage import Unreachable
from tests.helpers.paths import ROOT
from tests.helpers.stages import make_world, write_recipe
from tests.helpers.waiting import TIMEOUT_S
from trainer.config import load_recipe
from trainer.job import Outcome
from trainer.run import main

CONFIG = str(ROOT / "ds_configs" / "cpu_zero3.json")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"), frames=3)


def _main(*arguments: object) -> int:
    return main(["--ds_config", CONFIG, *map(str, arguments)])


def test_dry_run_prints_recipe_plan_and_table_and_writes_nothing(world, capsys):
    recipe = write_recipe(world, "distill", world / "dry")
    assert _main("--recipe", recipe, "--dry-run", "--local_rank=0", "steps=11") == 0
    output = capsys.readouterr().out
    assert "steps: 11" in output
    assert "packs an epoch; 11 steps" in output
    assert "bridge" in output
    assert '"train_batch_size": 1' in output
    assert not (world / "dry").exists()


def test_dry_run_tells_the_memory_of_ranks_and_cards_that_are_not_here(world, capsys):
    recipe = write_recipe(world, "distill", world / "dry")
    asked = ("--dry-run", "--world-size", 64, "--gpu-memory", 0.001)
    assert _main("--recipe", recipe, *asked) == 0
    output = capsys.readouterr().out
    assert '"train_batch_size": 64' in output
    assert "ZeRO-3 on 64 ranks, 32 bits" in output
    assert "teacher" in output
    assert "in 0.001 GiB: does not fit" in output


@pytest.mark.parametrize("option", [["--world-size", "8"], ["--gpu-memory", "80"], ["--dry-run", "--world-size", "0"]])
def test_questions_about_other_machines_need_a_dry_run_and_a_number(world, capsys, option):
    recipe = write_recipe(world, "distill", world / "dry")
    with pytest.raises(SystemExit) as ended:
        _main("--recipe", recipe, *option)
    assert ended.value.code == 2
    assert "--world-size" in capsys.readouterr().err or "--gpu-memory" in option


def test_a_store_that_is_not_reached_is_a_failure_in_one_line(world, capsys, monkeypatch):
    def describe(job):
        raise Unreachable("http://host/x.tar: refused; tried 9 times")

    monkeypatch.setattr("trainer.run.describe", describe)
    assert _main("--recipe", write_recipe(world, "distill", world / "far"), "--dry-run") == 1
    assert capsys.readouterr().err == "error: http://host/x.tar: refused; tried 9 times\n"


def test_unknown_key_is_a_usage_error(world, capsys):
    recipe = write_recipe(world, "distill", world / "typo")
    assert _main("--recipe", recipe, "--dry-run", "optim.grad_clipp=1") == 2
    assert "did you mean 'grad_clip'?" in capsys.readouterr().err


def test_conflict_of_the_two_files_is_a_usage_error_that_names_both(world, capsys, tmp_path):
    config = tmp_path / "conflict.json"
    config.write_text('{"gradient_clipping": 7.0, "zero_optimization": {"stage": 3}}')
    recipe = write_recipe(world, "distill", world / "conflict")
    assert main(["--ds_config", str(config), "--recipe", str(recipe), "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert str(config) in error
    assert str(recipe) in error


def test_missing_shards_are_a_usage_error_that_names_the_directory(world, capsys):
    recipe = write_recipe(world, "distill", world / "noshards")
    tree = yaml.safe_load(recipe.read_text())
    tree["data"]["datasets"] = [{"path": str(world / "absent")}]
    recipe.write_text(yaml.safe_dump(tree))
    assert _main("--recipe", recipe, "--dry-run") == 2
    assert str(world / "absent") in capsys.readouterr().err


def test_a_signal_that_comes_again_while_a_stopped_run_leaves_does_not_end_it(world, monkeypatch):
    left, reached = [], []

    def teardown(**_):
        left.append("the group")
        if len(left) == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("trainer.run.run_job", lambda *_: Outcome.STOPPED)
    monkeypatch.setattr("trainer.run.dist.teardown", teardown)
    former = signal.signal(signal.SIGTERM, lambda number, _: reached.append(number))
    try:
        assert _main("--recipe", write_recipe(world, "distill", world / "again")) == 75
    finally:
        signal.signal(signal.SIGTERM, former)
    assert (bool(left), reached) == (True, [])


_SIGNALLED_IMPORT = """
import os, signal
from trainer.state import stop_on_signals
os.kill(os.getpid(), signal.{name})
with stop_on_signals() as stop:
    os._exit(75 if stop.signal_name == "{name}" else 1)
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGUSR2"])
def test_a_signal_that_comes_during_the_imports_is_a_request_to_stop(tmp_path, name):
    (tmp_path / "torch.py").write_text(_SIGNALLED_IMPORT.format(name=name))
    done = subprocess.run(
        [sys.executable, "trainer/run.py"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 75


def test_a_dry_run_ends_on_a_signal(world, capsys, monkeypatch):
    monkeypatch.setattr("trainer.run.describe", lambda _: f"held: {list(signal.pthread_sigmask(signal.SIG_BLOCK, ()))}")
    former = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGUSR1,))
    try:
        assert _main("--recipe", write_recipe(world, "distill", world / "dry"), "--dry-run") == 0
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)
    assert "held: []" in capsys.readouterr().out


@pytest.mark.parametrize("stage", ["distill", "align", "finetune"])
def test_committed_recipes_are_valid(stage):
    recipe, _ = load_recipe(ROOT / "trainer" / "recipes" / f"demo_{stage}.yaml")
    assert recipe.stage == stage


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what is missing where there is no GPU")
def test_the_attention_backend_is_announced_and_one_that_does_not_work_here_is_refused(world, capsys):
    recipe = write_recipe(world, "distill", world / "attention")
    assert _main("--recipe", recipe, "--dry-run") == 0
    assert "attention: sdpa (masked SDPA; vision: sdpa) on cpu" in capsys.readouterr().out
    assert _main("--recipe", recipe, "--dry-run", "model.attention=varlen") == 2
    assert "attention: got 'varlen', expected one of auto, sdpa here" in capsys.readouterr().err
