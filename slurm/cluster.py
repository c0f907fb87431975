"""What SLURM says about itself and its jobs: partitions, GPUs, job states; each function is one command."""

import re
import shutil
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass

from slurm.resources import Resources
from slurm.typed import SlurmError, nearest

COMMAND_TIMEOUT_S = 60
PATIENCE_S, PAUSE_S = 600.0, 10.0
"""How long, and how often, the end of a start asks a controller that does not answer."""
_AWAY = re.compile(r"unable to contact|timed out|no answer|zero bytes|standby|connection refused|temporarily", re.I)


@dataclass(frozen=True, kw_only=True)
class Partition:
    """A partition.

    Attributes:
        name, is_default: of it.
        nodes: how many it has.
        gpus: of its best node.
        cpus: of its largest node.
    """

    name: str
    is_default: bool
    nodes: int
    gpus: int
    cpus: int


@dataclass(frozen=True, kw_only=True)
class JobState:
    """A line of squeue.

    Attributes:
        state: PENDING, RUNNING, COMPLETING, ...
        reason: why it waits.
        nodes: where it runs.
    """

    state: str
    reason: str
    nodes: str


def has_sbatch() -> bool:
    """Whether jobs can be submitted from here."""
    return shutil.which("sbatch") is not None and shutil.which("srun") is not None


def require_sbatch() -> None:
    """Stop where no jobs can be submitted.

    Raises:
        SlurmError: no sbatch here.
    """
    if not has_sbatch():
        raise SlurmError(
            "sbatch: not found; submit from a login node of a SLURM cluster, look at the batch script with --dry-run, "
            "or start a SLURM on this machine with slurm/local_cluster.sh up"
        )


def partitions() -> list[Partition]:
    """All partitions.

    Raises:
        SlurmError: sinfo fails.
    """
    found: dict[str, Partition] = {}
    for line in _output("sinfo", "--noheader", "--all", "--noconvert", "--format", "%P|%D|%G|%c").splitlines():
        marked, nodes, gres, cpus = line.strip().split("|")
        name = marked.rstrip("*")
        former = found.get(name)
        found[name] = Partition(
            name=name,
            is_default=marked.endswith("*"),
            nodes=int(nodes) + (former.nodes if former else 0),
            gpus=max(count_gpus(gres), former.gpus if former else 0),
            cpus=max(int(cpus.rstrip("+")), former.cpus if former else 0),
        )
    return list(found.values())


def count_gpus(gres: str) -> int:
    """GPUs in a node's generic resources, as `gpu:a100:8(S:0-1),nvme:1` says."""
    return sum(int(count) for count in re.findall(r"gpu(?::[^:,(]+)?:(\d+)", gres))


def check_resources(asked: Resources, known: Iterable[Partition]) -> tuple[Partition, list[str]]:
    """The partition a job will run in, and what it asks that the partition does not have; of several partitions
    (`a,b`) the first that has all of it, else the first.

    Raises:
        SlurmError: there is no such partition.
    """
    checked = [(partition, _lacking(asked, partition)) for partition in _chosen(asked.partition, list(known))]
    return next((one for one in checked if not one[1]), checked[0])


def _chosen(wanted: str | None, known: list[Partition]) -> list[Partition]:
    """The partitions of a comma-separated list, or the default one."""
    by_name = {partition.name: partition for partition in known}
    if wanted is None:
        default = [partition for partition in known if partition.is_default]
        if not default:
            raise SlurmError(f"--partition: this cluster has no default; give one of {', '.join(by_name)}")
        return default[:1]
    names = wanted.split(",")
    unknown = [name for name in names if name not in by_name]
    if unknown:
        raise SlurmError(f"--partition: got {unknown[0]!r}; {nearest(unknown[0], list(by_name))}")
    return [by_name[name] for name in names]


def _lacking(asked: Resources, partition: Partition) -> list[str]:
    """What is asked for and not there, one text each."""
    nodes, each = asked.nodes or 1, asked.gpus_per_node or 1
    problems = []
    if nodes > partition.nodes:
        problems.append(f"--nodes: got {nodes}, but partition {partition.name!r} has {partition.nodes}")
    if asked.device == "gpu" and not partition.gpus:
        problems.append(f"--device gpu: the nodes of partition {partition.name!r} have no GPUs; give --device cpu")
    elif asked.device != "cpu" and partition.gpus and each > partition.gpus:
        problems.append(f"--gpus-per-node: got {each}, but nodes of partition {partition.name!r} have {partition.gpus}")
    if (asked.device == "cpu" or not partition.gpus) and each * (asked.cpus_per_task or 1) > partition.cpus:
        problems.append(
            f"--gpus-per-node {each} with {asked.cpus_per_task or 1} cores each: nodes of partition "
            f"{partition.name!r} have {partition.cpus} cores"
        )
    return problems


def job_states() -> dict[str, JobState]:
    """All jobs in the queue or running, by id; array elements as `17_3`.

    Raises:
        SlurmError: squeue fails.
    """
    found = {}
    for line in _output("squeue", "--noheader", "--all", "--array", "--format", "%i|%T|%r|%N").splitlines():
        job_id, state, reason, nodes = line.strip().split("|", 3)
        found[job_id] = JobState(state=state, reason=reason, nodes=nodes)
    return found


def state_of(job_id: str) -> str:
    """State of one job (`17`, or `17_3` of an array) by scontrol, TIMEOUT while it is ended at its limit; an empty text
    for an unknown one. A controller that is away is waited for."""
    lines = _insistently("scontrol", "--oneliner", "show", "job", job_id).stdout.splitlines()
    shown = lines[0] if lines else ""
    if re.search(r"\bReason=TimeLimit\b", shown):
        return "TIMEOUT"
    match = re.search(r"\bJobState=(\S+)", shown)
    return match[1] if match else ""


def requeue(job_id: str) -> str:
    """Put a running job back into the queue; returns what went wrong, or an empty text.

    An element of an array has to be named as such (`17_3`): the number that SLURM gives to one of them (SLURM_JOB_ID)
    is that of the whole array too, and would requeue all of it. A controller that is away is waited for; one whose
    answer alone was lost has the job pending by then.
    """
    done = _insistently("scontrol", "requeue", job_id)
    if done.returncode == 0 or "Job is pending execution" in done.stderr:
        return ""
    return done.stderr.strip() or f"scontrol ended with {done.returncode}"


def cancel(job_id: str) -> str:
    """Take a job out of the queue; returns what went wrong, or an empty text."""
    done = _run("scancel", job_id)
    return "" if done.returncode == 0 else (done.stderr.strip() or f"scancel ended with {done.returncode}")


def exclude(job_id: str, node: str, needed: int) -> str:
    """Keep a job off one more node; returns what went wrong, or an empty text.

    Args:
        needed: nodes of the job; one that would have fewer left would wait for ever.
    """
    shown = _run("scontrol", "--oneliner", "show", "job", job_id).stdout
    kept_off = re.search(r"\bExcNodeList=(\S+)", shown)
    partition = re.search(r"\bPartition=([^\s,]+)", shown)
    former = [kept_off[1]] if kept_off and kept_off[1] != "(null)" else []
    wanted = ",".join([*former, node])
    if partition:
        off = set(_run("scontrol", "show", "hostnames", wanted).stdout.split())
        there = set(
            _run("sinfo", "--noheader", "--all", "--Node", "--partition", partition[1], "--format", "%N").stdout.split()
        )
        if len(there - off) < needed:
            return f"partition {partition[1]!r} would have too few nodes for it without {wanted}"
    done = _run("scontrol", "update", f"JobId={job_id}", f"ExcNodeList={wanted}")
    return "" if done.returncode == 0 else (done.stderr.strip() or f"scontrol ended with {done.returncode}")


def _output(*command: str) -> str:
    done = _run(*command)
    if done.returncode != 0:
        raise SlurmError(f"{command[0]}: {done.stderr.strip() or f'ended with {done.returncode}'}")
    return done.stdout


def _insistently(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a program again as long as it finds no controller, as while that is started anew."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        done = _run(*command)
        if done.returncode == 0 or not _AWAY.search(done.stderr) or time.monotonic() > deadline:
            return done
        time.sleep(PAUSE_S)


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=COMMAND_TIMEOUT_S)
    except FileNotFoundError as error:
        raise SlurmError(f"{command[0]}: not found; this needs SLURM's client programs") from error
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", f"no answer within {COMMAND_TIMEOUT_S} s")
