"""Starts one stage: `deepspeed --num_gpus N trainer/run.py --ds_config X.json --recipe Y.yaml [a.b=value ...]`.

Exit status: 0 done, 1 failure, 2 wrong usage or configuration, 75 stopped on a signal with a checkpoint.
"""

import os
import signal
import sys
from pathlib import Path

if __package__ in (None, ""):
    # What comes while the rest is imported waits for `stop_on_signals`; Ctrl-C ends the program at once until then.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2))
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    _ranks_here = int(os.environ.get("LOCAL_SIZE") or os.environ.get("LOCAL_WORLD_SIZE") or "1")
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // _ranks_here)))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import argparse
import traceback
import warnings
from collections.abc import Sequence
from types import TracebackType
from typing import NoReturn

from transformers.utils import logging as transformers_logging

from data_shards.loader import LoaderError
from data_shards.read import BadSample
from data_shards.storage import Unreachable
from trainer import dist
from trainer.engine import EngineError
from trainer.guards import OutOfMemory
from trainer.job import Job, Outcome, describe, run_job
from trainer.loggers import announce, report_failure
from trainer.state import STOP_SIGNALS, stop_on_signals

STATUS = {Outcome.DONE: 0, Outcome.STOPPED: 75}
FAILURE, USAGE = 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one stage and return its exit status."""
    options = _options(arguments)
    if not dist.num_gpus():
        os.environ["DS_ACCELERATOR"] = "cpu"
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    transformers_logging.disable_progress_bar()
    failed = True
    try:
        job = Job(
            ds_config=options.ds_config,
            recipe=options.recipe,
            overrides=options.overrides,
            resume=options.resume,
            world_size=options.world_size,
            gpu_gib=options.gpu_memory,
        )
        if options.dry_run:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
            announce(describe(job))
            outcome = Outcome.DONE
        else:
            with stop_on_signals() as stop:
                outcome = run_job(job, stop)
                dist.teardown()  # a signal that comes again while the group is left must not end what was saved
        failed = False
        return STATUS[outcome]
    except dist.MainRankError as error:
        report_failure(str(error), on_all_ranks=True)
        return FAILURE
    except (dist.DistError, EngineError, LoaderError, OutOfMemory, Unreachable) as error:
        report_failure(str(error), on_all_ranks=False)
        return FAILURE
    except ValueError as error:
        if not is_ours(error):
            raise
        report_failure(str(error), on_all_ranks=not isinstance(error, BadSample))
        return USAGE
    finally:
        dist.teardown(others_wait=failed)


def is_ours(error: ValueError) -> bool:
    """Whether an error is of this project's own classes, whose messages are made for users."""
    return type(error).__module__.partition(".")[0] in ("trainer", "models", "data_shards")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    options = parser.parse_args(arguments)
    asked = {"--world-size": options.world_size, "--gpu-memory": options.gpu_memory}
    for name, value in asked.items():
        if value is not None and not options.dry_run:
            parser.error(f"{name}: only a dry run asks about other machines; add --dry-run")
        if value is not None and value <= 0:
            parser.error(f"{name}: got {value}, expected more than 0")
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="trainer/run.py", description="Train one stage under DeepSpeed.")
    parser.add_argument("--ds_config", type=Path, required=True, help="DeepSpeed JSON: ZeRO stage, precision, offload")
    parser.add_argument("--recipe", type=Path, required=True, help="YAML recipe: data, batch, learning rates, steps")
    parser.add_argument(
        "--resume",
        default="auto",
        help="auto (default): newest whole checkpoint of the run directory; never: start anew; or a checkpoint's path",
    )
    parser.add_argument("--dry-run", action="store_true", help="print recipe, plan, steps and memory, and stop")
    parser.add_argument("--world-size", type=int, help="with --dry-run: ranks to ask about, whatever this machine has")
    parser.add_argument("--gpu-memory", type=float, metavar="GIB", help="with --dry-run: card that packs are to fit")
    parser.add_argument("--local_rank", type=int, help="set by the deepspeed launcher; LOCAL_RANK is what counts")
    parser.add_argument("overrides", nargs="*", metavar="section.field=value", help="laid over the recipe")
    return parser


def leave(status: int) -> NoReturn:
    """Exit at once: torch's communication threads can abort a process whose interpreter is torn down."""
    for stream in (sys.stdout, sys.stderr, sys.__stderr__):
        if stream is not None:
            stream.flush()
    os._exit(status)


def leave_after(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an error that nothing expected and exit at once, so that no other rank waits for this one."""
    # torch.distributed calls this hook with sys.stderr caught, to be printed after it.
    traceback.print_exception(kind, error, trace, file=sys.__stderr__)
    leave(FAILURE)


if __name__ == "__main__":
    sys.excepthook = leave_after
    leave(main())
