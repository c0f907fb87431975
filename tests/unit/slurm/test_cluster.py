"""What SLURM's programs print, read by what they printed on real clusters."""

import subprocess

import pytest

from slurm import cluster
from slurm.cluster import check_resources, count_gpus, job_states, partitions, require_sbatch, state_of
from slurm.resources import Resources
from slurm.typed import SlurmError


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[int, str]]:
    """Exit status and output by program."""
    said = {"sinfo": (0, "gpu*|4|gpu:a100:8(S:0-1)|96\ngpu*|2|gpu:a100:4|64\ncpu|10|(null)|32+\n")}

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess:
        if command[0] not in said:
            raise FileNotFoundError(command[0])
        status, text = said[command[0]]
        return subprocess.CompletedProcess(command, status, text, text)

    monkeypatch.setattr(cluster.subprocess, "run", run)
    return said


@pytest.mark.parametrize(
    ("gres", "expected"),
    [("(null)", 0), ("gpu:8", 8), ("gpu:a100:4(S:0-1)", 4), ("gpu:a100:2,gpu:t4:1", 3), ("nvme:2", 0)],
)
def test_gpus_are_counted_in_every_form_of_gres(gres, expected):
    assert count_gpus(gres) == expected


def test_rows_of_one_partition_are_joined(printed):
    gpu, cpu = partitions()
    assert (gpu.name, gpu.is_default, gpu.nodes, gpu.gpus, gpu.cpus) == ("gpu", True, 6, 8, 96)
    assert (cpu.is_default, cpu.gpus, cpu.cpus) == (False, 0, 32)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"nodes": 7}, "--nodes: got 7, but partition 'gpu' has 6"),
        ({"gpus_per_node": 9}, "--gpus-per-node: got 9, but nodes of partition 'gpu' have 8"),
        ({"partition": "cpu", "device": "gpu"}, "the nodes of partition 'cpu' have no GPUs"),
        ({"partition": "cpu", "gpus_per_node": 5, "cpus_per_task": 8}, "'cpu' have 32 cores"),
    ],
)
def test_more_than_the_partition_has_is_a_problem(printed, asked, said):
    _, problems = check_resources(Resources(**asked), partitions())
    assert len(problems) == 1
    assert said in problems[0]


def test_what_the_partition_has_is_none(printed):
    assert check_resources(Resources(nodes=6, gpus_per_node=8), partitions())[1] == []


def test_an_unknown_partition_names_the_nearest(printed):
    with pytest.raises(SlurmError, match="--partition: got 'gpus'; did you mean 'gpu'"):
        check_resources(Resources(partition="gpus"), partitions())


def test_the_queue_is_read_by_element(printed):
    printed["squeue"] = (0, "17_0|RUNNING|None|n[1-2]\n17_1|PENDING|JobArrayTaskLimit|\n")
    states = job_states()
    assert (states["17_0"].nodes, states["17_1"].reason) == ("n[1-2]", "JobArrayTaskLimit")


def test_the_state_of_a_job_is_read_and_an_unknown_job_has_none(printed):
    printed["scontrol"] = (0, "JobId=17 ArrayJobId=17 JobState=RUNNING Reason=None")
    assert state_of("17") == "RUNNING"
    printed["scontrol"] = (0, "JobId=17 JobState=COMPLETING Reason=TimeLimit Dependency=(null)")
    assert state_of("17") == "TIMEOUT"
    printed["scontrol"] = (1, "slurm_load_jobs error: Invalid job id specified")
    assert state_of("17") == ""


def test_further_nodes_are_kept_off_beside_those_before(answers, monkeypatch):
    asked = []
    run = cluster.subprocess.run
    monkeypatch.setattr(cluster.subprocess, "run", lambda command, **more: asked.append(command) or run(command))
    shown = "JobId=17 Partition=gpu,cpu ReqNodeList=(null) ExcNodeList=n[3-4] Features=(null)"
    answers += [(0, shown, ""), (0, "n3\nn4\nn1\n", ""), (0, "n1\nn2\nn3\nn4\n", ""), (0, "", "")]
    assert cluster.exclude("17", "n1", 1) == ""
    assert asked[-1] == ("scontrol", "update", "JobId=17", "ExcNodeList=n[3-4],n1")


def test_a_job_is_not_kept_off_nodes_without_which_it_could_never_start(answers):
    shown = "JobId=17 Partition=gpu ExcNodeList=(null)"
    answers += [(0, shown, ""), (0, "n1\n", ""), (0, "n1\nn2\n", "")]
    assert "too few nodes for it without n1" in cluster.exclude("17", "n1", 2)
    assert answers == []


def test_failing_and_missing_programs_are_named(printed, monkeypatch):
    printed["sinfo"] = (1, "Unable to contact slurm controller")
    with pytest.raises(SlurmError, match="sinfo: Unable to contact"):
        partitions()
    with pytest.raises(SlurmError, match="squeue: not found"):
        job_states()
    monkeypatch.setattr(cluster.shutil, "which", lambda program: None)
    with pytest.raises(SlurmError, match=r"sbatch: not found.*local_cluster\.sh up"):
        require_sbatch()


def test_of_several_jobs_shown_the_first_is_the_one_asked_for(printed):
    printed["scontrol"] = (0, "JobId=17 JobState=CANCELLED Reason=None\nJobId=18 JobState=RUNNING Reason=TimeLimit\n")
    assert state_of("17") == "CANCELLED"


def test_one_of_several_partitions_is_enough_and_each_has_to_exist(printed):
    partition, problems = check_resources(Resources(partition="cpu,gpu", device="gpu"), partitions())
    assert (partition.name, problems) == ("gpu", [])
    _, problems = check_resources(Resources(partition="gpu,cpu", nodes=99), partitions())
    assert problems == ["--nodes: got 99, but partition 'gpu' has 6"]
    with pytest.raises(SlurmError, match="got 'cpus'; did you mean 'cpu'"):
        check_resources(Resources(partition="gpu,cpus"), partitions())


AWAY = (1, "", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)")


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str, str]]:
    """Exit status, output and errors of one call after the other; waiting costs no time."""
    left: list[tuple[int, str, str]] = []
    monkeypatch.setattr(
        cluster.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, *left.pop(0))
    )
    monkeypatch.setattr(cluster.time, "sleep", lambda seconds: None)
    return left


def test_the_end_of_a_start_waits_for_a_controller_that_is_away(answers):
    answers += [AWAY, AWAY, (0, "JobId=17 JobState=RUNNING Reason=None", "")]
    assert state_of("17") == "RUNNING"
    answers += [AWAY, (0, "", "")]
    assert cluster.requeue("17") == ""
    assert answers == []


def test_a_requeue_whose_answer_was_lost_was_one(answers):
    answers += [AWAY, (1, "", "Job is pending execution for job 17")]
    assert cluster.requeue("17") == ""
    answers += [(1, "", "Requested operation is presently disabled for job 17")]
    assert "disabled" in cluster.requeue("17")


def test_a_controller_that_stays_away_is_given_up(answers, monkeypatch):
    monkeypatch.setattr(cluster, "PATIENCE_S", 0.0)
    answers += [AWAY]
    assert state_of("17") == ""


def test_a_program_without_an_answer_is_named(monkeypatch):
    def run(command: list[str], **more: object) -> None:
        raise subprocess.TimeoutExpired(command, 60)

    monkeypatch.setattr(cluster.subprocess, "run", run)
    with pytest.raises(SlurmError, match="squeue: no answer within 60 s"):
        job_states()
