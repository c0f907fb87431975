"""What SLURM says about itself and its jobs: partitions, GPUs, job states; each function is one command."""

import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

from slurm.resources import Resources
from slurm.typed import SlurmError, nearest

COMMAND_TIMEOUT_S = 60


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
    for line in _output("sinfo", "--noheader", "--format", "%P|%D|%G|%c").splitlines():
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
    """The partition a job will run in, and what it asks that the partition does not have.

    Raises:
        SlurmError: there is no such partition.
    """
    known = list(known)
    names = [partition.name for partition in known]
    chosen = [p for p in known if (p.name == asked.partition if asked.partition else p.is_default)]
    if not chosen and asked.partition:
        raise SlurmError(f"--partition: got {asked.partition!r}; {nearest(asked.partition, names)}")
    if not chosen:
        raise SlurmError(f"--partition: this cluster has no default partition; expected one of {', '.join(names)}")
    partition = chosen[0]
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
    return partition, problems


def job_states() -> dict[str, JobState]:
    """All jobs in the queue or running, by id; array elements as `17_3`.

    Raises:
        SlurmError: squeue fails.
    """
    found = {}
    for line in _output("squeue", "--noheader", "--array", "--format", "%i|%T|%r|%N").splitlines():
        job_id, state, reason, nodes = line.strip().split("|", 3)
        found[job_id] = JobState(state=state, reason=reason, nodes=nodes)
    return found


def state_of(job_id: str) -> str:
    """State of one job by scontrol, TIMEOUT while it is ended at its limit; an empty text for an unknown one."""
    shown = _run("scontrol", "--oneliner", "show", "job", job_id)
    if re.search(r"\bReason=TimeLimit\b", shown.stdout):
        return "TIMEOUT"
    match = re.search(r"\bJobState=(\S+)", shown.stdout)
    return match[1] if match else ""


def requeue(job_id: str) -> str:
    """Put a running job back into the queue; returns what went wrong, or an empty text."""
    done = _run("scontrol", "requeue", job_id)
    return "" if done.returncode == 0 else (done.stderr.strip() or f"scontrol ended with {done.returncode}")


def cancel(job_id: str) -> str:
    """Take a job out of the queue; returns what went wrong, or an empty text."""
    done = _run("scancel", job_id)
    return "" if done.returncode == 0 else (done.stderr.strip() or f"scancel ended with {done.returncode}")


def exclude(job_id: str, nodes: Iterable[str]) -> str:
    """Keep a job off further nodes; returns what went wrong, or an empty text."""
    match = re.search(r"\bExcNodeList=(\S+)", _run("scontrol", "--oneliner", "show", "job", job_id).stdout)
    former = [match[1]] if match and match[1] != "(null)" else []
    done = _run("scontrol", "update", f"JobId={job_id}", f"ExcNodeList={','.join([*former, *nodes])}")
    return "" if done.returncode == 0 else (done.stderr.strip() or f"scontrol ended with {done.returncode}")


def _output(*command: str) -> str:
    done = _run(*command)
    if done.returncode != 0:
        raise SlurmError(f"{command[0]}: {done.stderr.strip() or f'ended with {done.returncode}'}")
    return done.stdout


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=COMMAND_TIMEOUT_S)
    except FileNotFoundError as error:
        raise SlurmError(f"{command[0]}: not found; this needs SLURM's client programs") from error
    except subprocess.TimeoutExpired as error:
        raise SlurmError(f"{command[0]}: no answer within {COMMAND_TIMEOUT_S} s") from error
