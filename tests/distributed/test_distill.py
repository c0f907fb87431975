"""Distillation on two ranks under ZeRO-3: whole and partitioned frozen parts, and students of cached targets."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.helpers.dist import losses, train
from tests.helpers.paths import ROOT
from tests.helpers.stages import make_teacher_vlm, write_recipe

pytestmark = pytest.mark.distributed

TERMS = {"codebook_size": 32, "codebook_tiles": 26, "last_k": 2, "answer_logits": 1.0}


def _answering(world: Path, placement: str) -> dict[int, float]:
    """Losses of two steps with all three terms."""
    model = {"teacher": None, "teacher_vlm": str(make_teacher_vlm(world))}
    run_dir = world / f"answers-{placement}"
    distill = {**TERMS, "teacher_placement": placement}
    train(["--recipe", str(write_recipe(world, "distill", run_dir, steps=2, model=model, distill=distill))])
    metrics = json.loads((run_dir / "metrics.jsonl").read_text().splitlines()[0])
    assert {"loss/features", "loss/patch_logits", "loss/answer_logits", "accuracy/teacher_tokens"} <= metrics.keys()
    parts = (metrics[f"loss/{name}"] for name in ("features", "patch_logits", "answer_logits"))
    assert metrics["loss/total"] == pytest.approx(sum(parts), rel=1e-6)
    return losses(run_dir)


def test_partitioned_and_whole_frozen_parts_teach_alike(world):
    whole, divided = _answering(world, "replicate"), _answering(world, "partition")
    assert len(whole) == 2
    for step, loss in whole.items():
        assert divided[step] == pytest.approx(loss, rel=1e-5)


def test_a_student_of_cached_targets_needs_no_teacher_and_quarantines_their_damage(world):
    run_dir = world / "cached"
    path = write_recipe(world, "distill", run_dir, steps=2, data={"workers": 1}, distill={"top_k": 8})
    tree = yaml.safe_load(path.read_text())
    tree["distill"]["codebook"] = str(world / "cached-codebook.safetensors")
    tree["data"]["datasets"] = [{"path": str(world / "driving"), "targets": str(world / "cached-targets")}]
    tree["data"]["max_bad_fraction"] = 0.5
    path.write_text(yaml.safe_dump(tree))
    command = [sys.executable, "-m", "data_shards", "teacher-targets", "--recipe", str(path)]
    for more in (["--fit-codebook"], []):
        done = subprocess.run([*command, *more], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert "complete" in done.stdout
    tar = world / "cached-targets" / "shard-000000.tar"
    content = bytearray(tar.read_bytes())
    content[content.index(b"\x93NUMPY") + 200] ^= 1
    tar.write_bytes(content)
    output = train(["--recipe", str(path), "model.teacher=null"])
    assert "the teacher is not loaded" in output
    assert len(losses(run_dir)) == 2
    records = [json.loads(line) for line in (run_dir / "quarantine.jsonl").read_text().splitlines()]
    assert [record["reason"][:16] for record in records] == ["teacher targets:"]
