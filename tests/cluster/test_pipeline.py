"""Pipelines on the local SLURM: order, arrays over parts, failures, and going on where they broke off."""

import json
from pathlib import Path

import pytest
import yaml

from slurm.attempts import CRASHED, DONE, STOPPED, load_attempts
from tests.cluster import jobs

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("cluster")]


def write_pipeline(path: Path, *steps: dict[str, object], **resources: object) -> Path:
    path.write_text(yaml.safe_dump({"name": "tiny", "steps": list(steps), "resources": resources}))
    return path


def test_steps_run_in_order_and_a_failed_part_alone_is_done_again(tmp_path):
    out, folder = tmp_path / "out", tmp_path / "pipeline"
    out.mkdir()
    parts = f"""bash -c "echo {{part}} >> {out}/ran; [ {{part}} != 1 -o -f {out}/mended ] && touch {out}/{{part}}" """
    last = f"""bash -c "ls {out} > {out}/listed" """
    file = write_pipeline(
        tmp_path / "p.yaml",
        {"name": "parts", "command": parts, "array": 3},
        {"name": "list", "command": last},
        max_crashes=0,
    )
    jobs.slurm("pipeline", str(file), "--folder", str(folder))
    jobs.wait_for_end(folder / "00-parts", elements=3)
    jobs.wait_until(lambda: "failed" in _line(folder, "list"), "cancelled step")
    said = jobs.slurm("status", str(folder)).stdout
    assert "2 done, 1 failed of 3" in said or "1 failed" in said, said
    assert not (out / "listed").exists()

    (out / "mended").touch()
    jobs.slurm("pipeline", str(file), "--folder", str(folder))
    jobs.wait_for_end(folder / "01-list")
    assert {"0", "1", "2"} <= set((out / "listed").read_text().split())
    assert sorted((out / "ran").read_text().split()) == ["0", "1", "1", "2"]
    again = jobs.slurm("pipeline", str(file), "--folder", str(folder)).stdout
    assert "parts: done" in again
    assert "list: done" in again


def test_crashes_and_stops_without_progress_are_requeued_up_to_their_limits(tmp_path):
    counted = tmp_path / "files"
    crash = """bash -c "echo this one breaks >&2; exit 3" """
    stall = """bash -c "exit 75" """
    advance = f"""bash -c "n=$(ls {counted} | wc -l); touch {counted}/$n; [ $n -ge 2 ] || exit 75" """
    counted.mkdir()
    file = write_pipeline(
        tmp_path / "p.yaml",
        {"name": "crash", "command": crash, "after": []},
        {"name": "stall", "command": stall, "after": []},
        {"name": "advance", "command": advance, "after": [], "progress": str(counted)},
        max_crashes=1,
        max_stalls=2,
    )
    jobs.slurm("pipeline", str(file), "--folder", str(tmp_path / "pipeline"))
    outcomes = {}
    for index, name in enumerate(("crash", "stall", "advance")):
        folder = tmp_path / "pipeline" / f"{index:02d}-{name}"
        jobs.wait_for_end(folder)
        outcomes[name] = load_attempts(folder, 0).starts
    assert [one.outcome for one in outcomes["crash"]] == [CRASHED, CRASHED]
    assert "exit status 3: this one breaks; not requeued: crash 2 of at most 1" in outcomes["crash"][-1].reason
    assert [one.outcome for one in outcomes["stall"]] == [STOPPED, STOPPED]
    assert "2 starts in a row saved nothing new" in outcomes["stall"][-1].reason
    assert [one.outcome for one in outcomes["advance"]] == [STOPPED, STOPPED, DONE]


def test_a_point_goes_on_without_waiting_for_the_others_and_one_that_fails_ends_alone(tmp_path):
    out, folder = tmp_path / "out", tmp_path / "pipeline"
    out.mkdir()
    wait = f"for i in $(seq {{wait}}); do [ -e {out}/0.json ] && break; sleep 0.2; done"
    first = f"""bash -c "[ {{seed}} != 1 ] || exit 2; {wait}; touch {out}/first-{{seed}}" """
    second = f"""bash -c "ls {out} > {out}/seen-{{seed}}; echo '{{\\"score\\": {{seed}}}}' > {out}/{{seed}}.json" """
    file = write_pipeline(
        tmp_path / "p.yaml",
        {"name": "first", "command": first, "points": True},
        {"name": "second", "command": second, "points": True, "results": f"{out}/{{seed}}.json"},
        max_crashes=0,
    )
    content = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump({**content, "points": [{"seed": [0, 1, 2], "wait": [0, 0, 2000]}]}))
    said = jobs.slurm("pipeline", str(file), "--folder", str(folder), "--wait", expect=2).stderr
    assert "step first: 1 of 3 not done" in said
    assert "step second: 1 of 3 not done" in said
    assert "first-2" not in (out / "seen-0").read_text().split()
    assert "first-2" in (out / "seen-2").read_text().split()
    assert not (out / "seen-1").exists()
    shown = jobs.slurm("report", str(folder), "--metric", "second.score").stdout
    rows = json.loads((folder / "report.json").read_text())["points"]
    assert [row["metrics"]["second.score"] for row in rows] == [0.0, None, 2.0], shown
    assert [row["state"] for row in rows] == ["done", "failed", "done"]


def test_a_cancelled_job_is_not_requeued_and_gives_its_run_directory_back(tmp_path):
    file = write_pipeline(tmp_path / "p.yaml", {"name": "sleep", "command": "sleep 600"})
    jobs.slurm("pipeline", str(file), "--folder", str(tmp_path / "pipeline"))
    folder = tmp_path / "pipeline" / "00-sleep"
    jobs.wait_until(lambda: "running" in _line(tmp_path / "pipeline", "sleep"), "start", folder)
    jobs.wait_until(lambda: (folder / "work-000" / "attempt-000" / "task-0000.log").exists(), "rank", folder)
    jobs.scancel([_line(tmp_path / "pipeline", "sleep").split("job ")[1].split()[0]])
    jobs.wait_for_end(folder)
    jobs.wait_until(lambda: "cancelled" in _line(tmp_path / "pipeline", "sleep"), "cancelled state", folder)
    assert len(load_attempts(folder, 0).starts) == 1


def _line(folder: Path, step: str) -> str:
    lines = jobs.slurm("status", str(folder)).stdout.splitlines()
    return next((line for line in lines if line.split()[:1] == [step]), "")
