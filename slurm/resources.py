"""Site file, pipeline file and command line in, one `Resources` out: what a job asks of the cluster."""

import argparse
import dataclasses
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from slurm.typed import SlurmError, load_yaml

SITE_VARIABLE = "DRIVLM_SITE"
DEVICES = ("auto", "gpu", "cpu")


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a job asks for; None where nothing was said.

    Attributes:
        nodes, gpus_per_node: one task for each GPU; on CPU partitions `gpus_per_node` counts tasks.
        gpu_type: of the GPUs, where a cluster has several (`a100`).
        device: `gpu`, `cpu`, or `auto`: GPUs where the partition has some.
        partition, account, qos, constraint, exclude: as sbatch takes them; several partitions as `a,b`.
        time: limit of one start, `days-hours:minutes:seconds` or any shorter form sbatch takes.
        cpus_per_task: cores of a rank, its data workers included.
        mem_gb: memory of a node, GB.
        container: image; a `.sif` file runs under apptainer, anything else under pyxis.
        container_mounts: `HOST[:INSIDE],...` that a container sees beside the working directory, the job and its runs.
        container_python: Python inside the image.
        setup: shell file read before the job starts (modules, interface names).
        environment: variables of the job.
        signal_lead_s: seconds between the signal to save and the time limit.
        max_crashes: crashes after which a job is not requeued.
        max_stalls: starts in a row that end without a newer checkpoint, after which a job is not requeued.
        hang_minutes: without a logged step for this long a job counts as crashed; 0 waits for ever.
        exclude_failed_nodes: keep off the node on which a crash began.
        sbatch: further options, name: value; `true` for one without a value.
    """

    nodes: int | None = None
    gpus_per_node: int | None = None
    gpu_type: str | None = None
    device: str | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    time: str | None = None
    cpus_per_task: int | None = None
    mem_gb: float | None = None
    container: str | None = None
    container_mounts: str | None = None
    container_python: str | None = None
    setup: Path | None = None
    environment: Mapping[str, str] | None = None
    signal_lead_s: int | None = None
    max_crashes: int | None = None
    max_stalls: int | None = None
    hang_minutes: float | None = None
    exclude_failed_nodes: bool | None = None
    sbatch: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        problems = []
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and not least <= value < math.inf:
                problems.append(f"{name}: got {value}, expected {least} or more")
        if self.device is not None and self.device not in DEVICES:
            problems.append(f"device: got {self.device!r}, expected one of {', '.join(DEVICES)}")
        if self.time is not None:
            try:
                minutes(self.time)
            except ValueError as error:
                problems.append(str(error))
        problems += [
            f"environment: got the name {name!r}, expected letters, digits and underscores"
            for name in self.environment or ()
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name)
        ]
        problems += [
            f"environment: {name}: got {value!r}, which stays as it is; write it out, or export it in the setup file"
            for name, value in (self.environment or {}).items()
            if re.search(r"\$\{?[A-Za-z_]", value)
        ]
        problems += [
            f"sbatch: got {name!r}, expected an option by its long name without dashes, and none that is set anyway "
            f"({', '.join(_SET_ANYWAY)}) or has a field of its own"
            for name in self.sbatch or ()
            if name in _SET_ANYWAY or name.replace("-", "_") in _FIELDS or not re.fullmatch(r"[a-z][a-z0-9-]+", name)
        ]
        if problems:
            raise SlurmError("\n".join(problems))

    def over(self, below: "Resources") -> "Resources":
        """These over others: what is not said here is taken from `below`; mappings are joined."""
        fields: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            own, other = getattr(self, field.name), getattr(below, field.name)
            if isinstance(own, Mapping) and isinstance(other, Mapping):
                fields[field.name] = {**other, **own}
            else:
                fields[field.name] = other if own is None else own
        return Resources(**fields)


_FIELDS = tuple(field.name for field in dataclasses.fields(Resources))
_SET_ANYWAY = (
    *("array", "chdir", "dependency", "error", "job-name", "kill-on-invalid-dep", "no-requeue", "ntasks"),
    *("ntasks-per-node", "open-mode", "output", "requeue", "signal", "wait"),
)

_LEAST: dict[str, float] = {
    "nodes": 1,
    "gpus_per_node": 1,
    "cpus_per_task": 1,
    "mem_gb": 0,
    "signal_lead_s": 0,
    "max_crashes": 0,
    "max_stalls": 1,
    "hang_minutes": 0,
}


def load_site(path: Path | None) -> Resources:
    """Site defaults over the built-in ones: the given file, else that named by $DRIVLM_SITE, else none.

    Raises:
        SlurmError: the file cannot be used.
    """
    named = os.environ.get(SITE_VARIABLE)
    path = path or (Path(named) if named else None)
    if path is None:
        return DEFAULTS
    site = load_yaml(Resources, path, "site file")
    if site.setup is not None:
        site = dataclasses.replace(site, setup=path.resolve().parent / site.setup.expanduser())
    return site.over(DEFAULTS)


def minutes(time: str) -> int:
    """A sbatch time (minutes, minutes:seconds, hours:minutes:seconds, days-hours[:minutes[:seconds]]) in minutes, up.

    Raises:
        SlurmError: another form.
    """
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", time)
    if match is None:
        raise SlurmError(f"time: got {time!r}, expected minutes, hours:minutes:seconds or days-hours:minutes:seconds")
    days, first, second, third = (None if part is None else int(part) for part in match.groups())
    if days is not None:
        seconds = ((days * 24 + (first or 0)) * 60 + (second or 0)) * 60 + (third or 0)
    elif third is not None:
        seconds = ((first or 0) * 60 + (second or 0)) * 60 + third
    else:
        seconds = (first or 0) * 60 + (second or 0)
    if seconds == 0:
        raise SlurmError(f"time: got {time!r}, expected more than 0")
    return -(-seconds // 60)


DEFAULTS = Resources(
    nodes=1,
    gpus_per_node=1,
    device="auto",
    time="01:00:00",
    container_python="python3",
    environment={},
    signal_lead_s=120,
    max_crashes=3,
    max_stalls=3,
    hang_minutes=60.0,
    exclude_failed_nodes=False,
    sbatch={},
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """One option for each field of `Resources`."""
    group = parser.add_argument_group("what the job asks for (site file: the same names with underscores)")
    kinds = get_type_hints(Resources)
    for field in dataclasses.fields(Resources):
        option = "--" + field.name.replace("_", "-")
        if field.name in ("environment", "sbatch"):
            group.add_argument(option, action="append", default=[], metavar="NAME=VALUE", help=_HELP[field.name])
        elif field.name == "exclude_failed_nodes":
            group.add_argument(option, action="store_true", default=None, help=_HELP[field.name])
        else:
            kind, _ = get_args(kinds[field.name])  # X | None
            group.add_argument(option, type=kind, default=None, help=_HELP[field.name])


def from_options(options: argparse.Namespace) -> Resources:
    """What the command line says.

    Raises:
        SlurmError: values out of range, or NAME=VALUE without its equals sign.
    """
    fields = {field.name: getattr(options, field.name) for field in dataclasses.fields(Resources)}
    for name in ("environment", "sbatch"):
        wrong = [item for item in fields[name] if "=" not in item]
        if wrong:
            raise SlurmError(f"--{name}: got {wrong[0]!r}, expected NAME=VALUE")
        fields[name] = dict(item.split("=", 1) for item in fields[name]) or None
    if fields["setup"] is not None:
        fields["setup"] = fields["setup"].expanduser().resolve()
    return Resources(**fields)


_HELP = {
    "nodes": "nodes of the job",
    "gpus_per_node": "GPUs of each node, one task for each; on CPU partitions tasks of each node",
    "gpu_type": "kind of GPU, such as a100, where a cluster has several",
    "device": "auto (default: GPUs where the partition has some), gpu or cpu",
    "partition": "as sbatch takes it; several as a,b",
    "account": "as sbatch takes it",
    "qos": "as sbatch takes it",
    "constraint": "as sbatch takes it",
    "exclude": "nodes to keep off",
    "time": "limit of one start (default 01:00:00); a longer job is requeued and goes on",
    "cpus_per_task": "cores of one rank with its data workers",
    "mem_gb": "memory of a node, GB",
    "container": "image: a .sif file for apptainer, anything else for pyxis",
    "container_mounts": "HOST[:INSIDE],... that the container sees too",
    "container_python": "Python inside the image (default python3)",
    "setup": "shell file read before the job starts",
    "environment": "a variable of the job; may be repeated",
    "signal_lead_s": "seconds between the signal to save and the time limit (default 120)",
    "max_crashes": "crashes after which the job is not requeued (default 3)",
    "max_stalls": "starts in a row without a newer checkpoint after which it is not requeued (default 3)",
    "hang_minutes": "no logged step for this long counts as a crash (default 60; 0 waits for ever)",
    "exclude_failed_nodes": "after a crash, keep off the node on which it began",
    "sbatch": "a further option of sbatch, such as mail-type=END or exclusive=true; may be repeated",
}
