"""One task: its place among the ranks, its signals, its record."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from slurm.attempts import attempt_folder, load_records
from slurm.job import FIRST_PORT, NUM_PORTS, last_words, rank_environment, rank_place
from slurm.spec import Work, save_spec
from tests.helpers.paths import ROOT
from tests.helpers.waiting import TIMEOUT_S, lives, wait_until
from tests.unit.slurm.samples import spec

SLURM = {
    "SLURM_JOB_ID": "4711",
    "SLURM_NTASKS": "16",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_PROCID": "9",
    "SLURM_LOCALID": "1",
    "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.3",
}
TRAINER = """
    import signal, sys, time
    time.sleep(1.0)  # the imports of a real one
    stopped = []
    signal.signal(signal.SIGUSR2, lambda *_: stopped.append(1))
    print("listening", flush=True)
    while not stopped:
        time.sleep(0.02)
    sys.exit(75)
"""


def test_torch_finds_its_ranks():
    environment = rank_environment(rank_place(SLURM, "localhost", 0), {"SLURM_CPUS_PER_TASK": "6", "LOCAL_SIZE": "3"})
    assert environment["RANK"] == "9"
    assert environment["LOCAL_RANK"] == "1"
    assert (environment["WORLD_SIZE"], environment["LOCAL_WORLD_SIZE"]) == ("16", "8")
    assert environment["MASTER_ADDR"] == "localhost"
    assert environment["OMP_NUM_THREADS"] == "6"
    assert "LOCAL_SIZE" not in environment


def test_a_task_that_sees_one_gpu_alone_takes_it():
    place = rank_place(SLURM, "localhost", 0)
    assert rank_environment(place, {"CUDA_VISIBLE_DEVICES": "1"})["LOCAL_RANK"] == "0"
    assert rank_environment(place, {"CUDA_VISIBLE_DEVICES": "0,1"})["LOCAL_RANK"] == "1"


def test_the_cpu_is_taken_by_jobs_for_it_alone_whatever_the_submitter_had():
    place, inherited = rank_place(SLURM, "localhost", 0), {"DS_ACCELERATOR": "cpu"}
    assert "DS_ACCELERATOR" not in rank_environment(place, inherited)
    assert rank_environment(place, {}, on_cpu=True)["DS_ACCELERATOR"] == "cpu"


def test_every_start_and_job_has_its_own_port_and_unresolved_names_fall_back_to_an_address():
    ports = {rank_place(SLURM | {"SLURM_JOB_ID": str(i)}, "localhost", n).port for i in range(20) for n in range(5)}
    assert len(ports) == 100
    assert all(FIRST_PORT <= port < FIRST_PORT + NUM_PORTS for port in ports)
    assert rank_place(SLURM, "no-such-host.invalid", 0).master == "10.0.0.3"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\nerror: recipe: steps\nbye\n", "error: recipe: steps"),
        ("Traceback\n  x\nRuntimeError: closed by peer\n", "RuntimeError: closed by peer"),
        ("5%|#\r10%|##\n", "10%|##"),
        ("", ""),
    ],
)
def test_the_last_words_name_the_error(tmp_path, text, expected):
    (tmp_path / "log").write_text(text)
    assert last_words(tmp_path / "log") == expected


def run_task(tmp_path: Path, work: Work, **changes: object) -> subprocess.Popen:
    folder = tmp_path / "job"
    folder.mkdir()
    save_spec(folder, spec(work, tasks_per_node=1, **changes))
    attempt_folder(folder, 0, 0).mkdir(parents=True)
    environment = os.environ | SLURM | {"SLURM_NTASKS": "1", "SLURM_JOB_NUM_NODES": "1", "SLURM_PROCID": "0"}
    environment |= {"SUBMITIT_EXECUTOR": "slurm", "DRIVLM_ATTEMPT": "0", "SLURMD_NODENAME": "n1"}
    call = f"from pathlib import Path; from slurm.job import Task; Task(folder=Path({str(folder)!r}), index=0)()"
    return subprocess.Popen([sys.executable, "-c", call], cwd=ROOT, env=environment, stdout=subprocess.PIPE)


def the_record(tmp_path: Path):
    (one,) = load_records(tmp_path / "job" / "work-000" / "attempt-000")
    return one


def training(tmp_path: Path, text: str) -> Work:
    (tmp_path / "train.py").write_text(textwrap.dedent(text))
    return Work(name="t", command=("python", str(tmp_path / "train.py")), run_dir=tmp_path / "run", steps=3)


def wait_for_child(process: subprocess.Popen) -> None:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    wait_until(children.read_text)


def test_a_signal_before_the_trainer_listens_still_reaches_it(tmp_path):
    process = run_task(tmp_path, training(tmp_path, TRAINER))
    wait_for_child(process)
    process.send_signal(signal.SIGUSR2)
    assert process.wait(TIMEOUT_S) == 0
    assert (the_record(tmp_path).status, the_record(tmp_path).signals) == (75, ("SIGUSR2",))


def test_a_crash_leaves_its_reason_and_makes_srun_end_the_others(tmp_path):
    process = run_task(tmp_path, training(tmp_path, "raise RuntimeError('out of luck')"))
    assert process.wait(TIMEOUT_S) == 1
    one = the_record(tmp_path)
    assert (one.rank, one.host, one.status, one.reason) == (0, "n1", 1, "RuntimeError: out of luck")


def test_a_rank_dies_with_the_task_that_watches_it(tmp_path):
    process = run_task(tmp_path, training(tmp_path, TRAINER))
    wait_for_child(process)
    child = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])
    process.kill()
    process.wait()
    wait_until(lambda: not lives(child))


def test_a_command_that_ends_on_the_signal_was_stopped(tmp_path):
    process = run_task(tmp_path, Work(name="c", command=("sleep", "600")))
    wait_for_child(process)
    process.send_signal(signal.SIGUSR2)
    assert process.wait(TIMEOUT_S) == 0
    assert the_record(tmp_path).status == 75


def test_a_run_without_steps_for_too_long_is_ended(tmp_path):
    process = run_task(tmp_path, training(tmp_path, TRAINER), hang_minutes=0.01)
    assert process.wait(TIMEOUT_S) == 1
    one = the_record(tmp_path)
    assert (one.status, one.blames_node) == (-9, False)
    assert one.reason == "no step for 0.01 minutes"


def test_a_command_that_shows_no_progress_is_not_taken_for_hung(tmp_path):
    process = run_task(tmp_path, Work(name="c", command=("sleep", "1")), hang_minutes=0.001)
    assert process.wait(TIMEOUT_S) == 0
    assert the_record(tmp_path).status == 0


def test_a_command_without_a_new_file_for_too_long_is_ended(tmp_path):
    work = Work(name="c", command=("sleep", "600"), progress=tmp_path / "out")
    process = run_task(tmp_path, work, hang_minutes=0.01)
    assert process.wait(TIMEOUT_S) == 1
    assert the_record(tmp_path).reason == f"nothing new in {tmp_path / 'out'} for 0.01 minutes"


def test_a_command_that_fails_because_it_was_told_to_end_was_stopped(tmp_path):
    text = "trap 'exit 1' TERM; touch ready; while :; do sleep 0.02; done"
    process = run_task(tmp_path, Work(name="c", command=("bash", "-c", text)), directory=tmp_path)
    wait_until((tmp_path / "ready").exists)
    process.send_signal(signal.SIGTERM)
    assert process.wait(TIMEOUT_S) == 0
    assert the_record(tmp_path).status == 75
