"""Measures a stage: `python -m trainer.bench --preset drivlm-2b --stage finetune --tokens 16384 --tiles 48 --out FILE`.

On several GPUs: `deepspeed --module trainer.bench ...`. Prints a table and writes JSON, both of the main rank.
"""

import os
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_shards.atomic import write_json
from trainer import dist
from trainer.bench.checks import bench_problems, unwritable
from trainer.bench.collectives import COMMUNICATION
from trainer.bench.frames import make_shards
from trainer.bench.measure import measure
from trainer.bench.options import bench_parser, settings_of
from trainer.dist import is_main_process
from trainer.engine import EngineError
from trainer.guards import OutOfMemory
from trainer.loggers import announce, report_failure
from trainer.memory import GIB
from trainer.run import is_ours, leave


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; returns the exit status."""
    options = bench_parser(__doc__).parse_args(arguments)
    problems = bench_problems(options, gpus=dist.num_gpus())
    problems += unwritable(options.out) if is_main_process() else []
    if problems:
        report_failure("\n".join(problems), on_all_ranks=True)
        return 2
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    if not dist.num_gpus():
        os.environ["DS_ACCELERATOR"] = "cpu"
    settings = settings_of(options, gpus=dist.num_gpus())
    failed = True
    try:
        ranks = dist.init()
        with tempfile.TemporaryDirectory() as own:
            shared = Path(ranks.gather(own)[0])
            if options.make_frames:
                made = ranks.on_main(lambda: str(make_shards(shared / "frames", options.make_frames)))
                settings = replace(settings, data=Path(made))
            figures = measure(settings, ranks, shared)
            ranks.barrier()
        announce(_table(figures))
        ranks.on_main(lambda: write_json(options.out, figures))
        failed = False
        return 0
    except (dist.DistError, EngineError, OutOfMemory) as error:
        report_failure(str(error), on_all_ranks=False)
        return 1
    except ValueError as error:
        if not is_ours(error):
            raise
        report_failure(str(error), on_all_ranks=True)
        return 2
    finally:
        dist.teardown(others_wait=failed)


def _table(figures: dict[str, Any]) -> str:
    lines = [
        *figures["choices"],
        figures["optimiser"],
        figures["checkpointed"],
        figures["data"],
        f"{'part':<22}{'median s':>10}{'p10':>10}{'p90':>10}",
    ]
    lines += [
        f"{name:<22}{values['median']:>10.4f}{values['p10']:>10.4f}{values['p90']:>10.4f}"
        for name, values in figures["seconds"].items()
    ]
    rates = ("tokens_per_s", "tiles_per_s", "questions_per_s", "useful_tflops")
    lines.append(", ".join(f"{name} {figures[name]:.4g}" for name in rates))
    shown = ("data wait", COMMUNICATION)
    lines.append(", ".join(f"{name} {figures['shares'].get(name, 0.0):.1%} of the time" for name in shown))
    if figures["useful_mfu"] is not None:
        lines.append(f"useful MFU {figures['useful_mfu']:.3f} of {figures['peak_tflops']:g} TFLOP/s (dense)")
    divided = ", ".join(f"{name} {share:.1%}" for name, share in figures["flop_shares"].items())
    lines += [f"useful FLOPs: {divided}"] if divided else []
    lines.append(_memory(figures["memory"]))
    return "\n".join(lines)


def _memory(memory: dict[str, Any]) -> str:
    said = f"memory: {memory['estimated']['peak'] / GIB:.2f} GiB estimated, "
    if memory["measured_peak"] is None:
        return said + "not measured on a CPU"
    peak, torchs, outside = (memory[f"measured_{part}"] / GIB for part in ("peak", "by_torch", "outside"))
    return said + f"{peak:.2f} at the peak: {torchs:.2f} of torch's allocator, {outside:.2f} taken beside it"


if __name__ == "__main__":
    leave(main())
