"""A whole run on two ranks in which everything goes wrong on one of them, step after step."""

import json
import time
from pathlib import Path

import pytest

from tests.helpers.dist import start_ranks, wait_ranks
from tests.helpers.stages import write_recipe
from tests.helpers.waiting import TIMEOUT_S

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def spoilt(world: Path) -> tuple[Path, list[int], str, float]:
    """On rank 1 a sleep before the first step, a loss that is no number in step 2, a sleep in step 3, no memory in step
    4; and the seconds from then to the end of rank 0."""
    run_dir = world / "spoilt"
    recipe = write_recipe(world, "distill", run_dir, steps=9, hang_after=4.0, profile={"start": 1, "steps": 2})
    script = ("tests/helpers/spoilt_rank.py", "1", "0=12,2=nan,3=10,4=memory")
    ranks = start_ranks(["--recipe", str(recipe)], script=script)
    ranks[1].wait(timeout=TIMEOUT_S)
    began = time.monotonic()
    statuses, output = wait_ranks(ranks)
    return run_dir, statuses, output, time.monotonic() - began


def test_a_step_is_skipped_on_both_ranks_and_its_samples_written_down(spoilt):
    run_dir, _, output, _ = spoilt
    (row,) = map(json.loads, (run_dir / "skipped.jsonl").read_text().splitlines())
    assert row["step"] == 2
    assert [pack["rank"] for pack in row["packs"]] == [0, 1]
    assert row["packs"][0]["loss"] is not None
    assert row["packs"][1]["loss"] is None
    assert all(pack["keys"] for pack in row["packs"])
    assert "step 2 skipped, the loss of rank 1 is not finite" in output
    rows = {row["step"]: row for row in map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())}
    assert [rows[step]["data/skipped_steps"] for step in (1, 2, 3)] == [0, 1, 1]
    assert "loss/total" not in rows[2]
    assert rows[3]["loss/total"] > 0


def test_a_hang_names_the_rank_and_leaves_stacks_of_both(spoilt):
    run_dir, _, output, _ = spoilt
    assert "rank 1 is behind" in output
    for rank in (0, 1):
        assert "train_step" in (run_dir / "stacks" / f"rank_{rank}.txt").read_text()


def test_a_hang_before_the_first_step_is_told_of_as_well(spoilt):
    run_dir, _, output, _ = spoilt
    assert "rank 1: step 0, preparing the stage, waits for no one" in output
    assert "prepare_late" in (run_dir / "stacks" / "rank_1.txt").read_text()


def test_out_of_memory_names_the_pack_and_no_rank_waits(spoilt):
    _, statuses, output, seconds = spoilt
    assert statuses == [1, 1]
    assert "out of memory at a pack of 26 tiles (data.max_tiles 26)" in output
    assert "lower data.max_tiles: CUDA out of memory. Tried to allocate 7.00 GiB" in output
    assert seconds < 300, "half of what a collective waits for a rank that is gone"
    assert "Traceback" in output, "the other rank says as well why it ended"


def test_the_profile_of_the_chosen_steps_is_written_by_both_ranks(spoilt):
    run_dir, _, output, _ = spoilt
    names = sorted(path.name for path in (run_dir / "profile").iterdir())
    assert names == ["steps_1-2.rank_0.json.gz", "steps_1-2.rank_1.json.gz"]
    assert "profile of 2 steps" in output


def test_everything_that_is_watched_is_logged(spoilt):
    run_dir, _, _, _ = spoilt
    row = json.loads((run_dir / "metrics.jsonl").read_text().splitlines()[0])
    modules, rates = ("vision", "bridge"), ("samples_per_s", "data_wait", "useful_tflops", "hardware_tflops")
    names = ["loss/features", "loss/patch_logits", "optim/grad_norm", "memory/gib", "data/quarantined"]
    names += [f"grad_norm/{name}" for name in modules] + [f"lr/{name}/decay" for name in modules]
    names += [f"rate/{name}" for name in rates] + ["ranks/cost_balance", "ranks/slowest_over_median"]
    for name in names:
        assert row[name] >= 0 or name == "loss/features", name
    by_dataset = [row[f"loss/{name}"] for name in ("driving", "general") if f"loss/{name}" in row]
    assert min(by_dataset) - 1e-6 <= row["loss/total"] <= max(by_dataset) + 1e-6
    assert row["loss/features"] + row["loss/patch_logits"] == pytest.approx(row["loss/total"], rel=1e-5)
    assert row["optim/grad_norm"] ** 2 == pytest.approx(row["grad_norm/vision"] ** 2 + row["grad_norm/bridge"] ** 2)
    assert 1 <= row["ranks/cost_balance"] < 2
    assert "utilisation/mfu" not in row
