"""Sizes of a stage and of a cluster in; the step time on 1 to 512 GPUs, predicted, beside what was measured, out.

`python -m benchmarks.scaling` predicts. `python -m benchmarks.scaling --run 1 2 4 8 [--hostfile FILE]` measures on
those numbers of GPUs first, by the deepspeed launcher; results under `--out` are shown in the column of measured steps.

    computing      FLOPs that the packs' loss needs / (MFU x peak): the MFU of one GPU is measured or assumed
    communication  2 bytes x P x c x (N - 1) / N / bandwidth, with P parameters and, by ZeRO (arXiv 1910.02054), c = 2
                   for stages 1 and 2 (gradients are reduced and scattered, parameters gathered) and 3 for stage 3
                   (parameters are gathered for the forward and for the backward pass, gradients reduced and scattered)
    bandwidth      of a GPU to those of its node, or beyond 8 GPUs to those of other nodes
    step           computing x imbalance + communication without overlap; the larger of both with full overlap
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from trainer.bench.checks import scaling_problems, unwritable
from trainer.bench.packs import random_batches
from trainer.bench.parts import useful_flops
from trainer.bench.settings import PRESETS, ROOT, BenchSettings, bench_recipe, pack_settings
from trainer.dist import free_port
from trainer.loggers import report_failure
from trainer.stages import make_stage

COUNTS = (1, 8, 16, 32, 64, 128, 256, 512)
CONFIGS = {"zero1": 2, "zero2": 2, "zero3": 3}
"""How often each parameter crosses the network in a step."""

IMBALANCE = ((1, 1.0), (8, 1.014), (64, 1.015), (512, 1.017))
"""Dearest rank over the mean, from `python -m benchmarks.pack_plan` (driving), by number of ranks up to this."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What is assumed of GPUs and of the network.

    Attributes:
        peak_tflops: dense bfloat16.
        mfu: useful, of one GPU.
        inside, between: GB/s that a GPU sends to others of its node, and to other nodes, at once.
        efficiency: share of these that collectives reach.
        node: GPUs of a node.
    """

    peak_tflops: float = 989.4
    mfu: float = 0.5
    inside: float = 450.0
    between: float = 50.0
    efficiency: float = 0.8
    node: int = 8


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a rank does in a step: FLOPs, questions and tiles of a mean pack, and parameters of the model."""

    flops: float
    questions: float
    tiles: float
    parameters: int

    @property
    def counted(self) -> tuple[float, str]:
        """What a rate is given of: questions, or tiles in stages that ask none."""
        return (self.questions, "questions") if self.questions else (self.tiles, "tiles")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure where asked to, and print the table."""
    options = _parser().parse_args(arguments)
    problems = scaling_problems(options, node=Cluster.node) + unwritable(options.out, directory=True)
    if problems:
        report_failure("\n".join(problems), on_all_ranks=True)
        return 2
    failed = [name for count in options.run for name in CONFIGS if not measured_run(options, name, count)]
    found = measured(options.out)
    alone = next((figures for (_, count), figures in found.items() if count == 1), None)
    mfu = options.mfu or (alone["useful_mfu"] if alone and alone["useful_mfu"] else Cluster.mfu)
    cluster = Cluster(peak_tflops=options.peak_tflops, mfu=mfu, inside=options.inside, between=options.between)
    print(table(work_of(options), cluster, found))
    if failed:
        print(f"failed: {', '.join(failed)}; see above", file=sys.stderr)
    return 1 if failed else 0


def work_of(options: argparse.Namespace) -> Work:
    """Of packs of driving frames; no weight is made."""
    settings = BenchSettings(
        preset=options.preset, stage=options.stage, ds_config=Path("any"), tokens=options.tokens, tiles=options.tiles
    )
    stage = make_stage(bench_recipe(settings, Path("any")), torch.bfloat16, loaded=False)
    batches = random_batches(pack_settings(stage, settings), stage.cost(), 32)
    return Work(
        flops=mean(useful_flops(stage, batch) for batch in batches),
        questions=mean(batch.meta.num_questions for batch in batches),
        tiles=mean(batch.meta.num_tiles for batch in batches),
        parameters=sum(parameter.numel() for parameter in stage.model.parameters()),
    )


def predicted(work: Work, cluster: Cluster, crossings: int, gpus: int) -> dict[str, float]:
    """Seconds of computing, of communication, and of a step without and with overlap; efficiency of both."""
    computing = work.flops / (cluster.mfu * cluster.peak_tflops * 1e12)
    slowest = cluster.inside if gpus <= cluster.node else cluster.between
    volume = 2 * work.parameters * crossings * (gpus - 1) / gpus
    communication = volume / (slowest * 1e9 * cluster.efficiency)
    busy = computing * next(factor for ranks, factor in IMBALANCE if gpus <= ranks)
    apart, beside = busy + communication, max(busy, communication)
    return {
        "computing": computing,
        "communication": communication,
        "apart": apart,
        "beside": beside,
        "efficiency_apart": computing / apart,
        "efficiency_beside": computing / beside,
    }


def table(work: Work, cluster: Cluster, found: Mapping[tuple[str, int], Mapping[str, Any]]) -> str:
    """Markdown: predicted and, where there is a measurement, measured steps."""
    amount, unit = work.counted
    head = (
        "",
        "GPUs",
        "communication, s",
        "step, s: no overlap",
        "full overlap",
        "efficiency",
        f"{unit}/s",
        "measured, s",
    )
    lines = [
        f"{work.flops / 1e12:.1f} TFLOP and {amount:.0f} {unit} a pack, {work.parameters:,} parameters; "
        f"assumed: MFU {cluster.mfu:.2f} of {cluster.peak_tflops:g} TFLOP/s on one GPU, {cluster.inside:g} GB/s within "
        f"a node of {cluster.node}, {cluster.between:g} GB/s beyond, {cluster.efficiency:.0%} of them reached",
        "",
        "| " + " | ".join(head) + " |",
        "|" + " --- |" * len(head),
    ]
    for name, crossings in CONFIGS.items():
        for gpus in sorted({*COUNTS, *(count for config, count in found if config == name)}):
            times = predicted(work, cluster, crossings, gpus)
            rates = [f"{gpus * amount / times[step]:.0f}" for step in ("apart", "beside")]
            efficiency = [f"{times[f'efficiency_{step}']:.1%}" for step in ("apart", "beside")]
            own = found.get((name, gpus))
            cells = [
                name,
                str(gpus),
                f"{times['communication']:.3f}",
                f"{times['apart']:.3f}",
                f"{times['beside']:.3f}",
            ]
            cells += [" to ".join(efficiency), " to ".join(rates)]
            cells.append("-" if own is None else f"{own['median_step_seconds']:.3f}")
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def measured(directory: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """Figures of `trainer.bench` by DeepSpeed configuration and number of GPUs."""
    every = [json.loads(path.read_text()) for path in sorted(directory.glob("*.json"))]
    return {(Path(one["settings"]["ds_config"]).stem, one["world_size"]): one for one in every}


def measured_run(options: argparse.Namespace, name: str, gpus: int) -> bool:
    """Run the benchmark on so many GPUs; whether it came to its end."""
    hosts = (
        ["--hostfile", str(options.hostfile), "--num_nodes", str(-(-gpus // Cluster.node))] if options.hostfile else []
    )
    command = [str(Path(sys.executable).with_name("deepspeed")), *hosts]
    command += [
        "--num_gpus",
        str(min(gpus, Cluster.node)),
        "--master_port",
        str(free_port()),
        "--module",
        "trainer.bench",
    ]
    command += ["--preset", options.preset, "--stage", options.stage, "--tokens", str(options.tokens)]
    command += ["--tiles", str(options.tiles), "--ds_config", str(ROOT / "ds_configs" / f"{name}.json")]
    command += ["--gpu-memory", str(options.gpu_memory)] if options.gpu_memory else []
    command += ["--out", str((options.out / f"{name}-{gpus}.json").absolute())]
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", choices=sorted(PRESETS), default="drivlm-2b")
    parser.add_argument("--stage", choices=("distill", "align", "finetune"), default="finetune")
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--tiles", type=int, default=48)
    parser.add_argument("--run", type=int, nargs="+", default=[], metavar="GPUS", help="measure on these numbers first")
    parser.add_argument("--hostfile", type=Path, help="DeepSpeed's, for more than one node")
    parser.add_argument("--gpu-memory", type=float, metavar="GIB", help="default: each GPU's own")
    parser.add_argument("--mfu", type=float, help="of one GPU; default: as measured there, else 0.5")
    parser.add_argument("--peak-tflops", type=float, default=Cluster.peak_tflops)
    parser.add_argument("--inside", type=float, default=Cluster.inside, help="GB/s of a GPU within its node")
    parser.add_argument("--between", type=float, default=Cluster.between, help="GB/s of a GPU to other nodes")
    parser.add_argument("--out", type=Path, default=Path("runs/scaling"), help="of the measurements")
    return parser


if __name__ == "__main__":
    sys.exit(main())
