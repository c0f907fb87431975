"""`trainer/run.py` with a rank on which steps go wrong: `spoilt_rank.py RANK STEP=WHAT,... ARGUMENTS`.

WHAT is `nan` (its loss), `memory` (torch's error), or a number of seconds to sleep. Step 0 is before the first one,
where it can only sleep.
"""

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from trainer import loop, run
from trainer.stages.distill import DistillStage


def _spoil(faults: dict[int, str]) -> None:
    whole, steps = loop.train_step, 0

    def train_step(stage, engine, batches, **settings):
        nonlocal steps
        steps += 1
        own = stage.loss
        stage.loss = lambda *arguments: _wrong(own(*arguments), faults.get(steps, ""))
        try:
            return whole(stage, engine, batches, **settings)
        finally:
            stage.loss = own

    loop.train_step = train_step
    prepare = DistillStage.prepare

    def prepare_late(stage, preparation):
        time.sleep(float(faults.get(0, 0)))
        prepare(stage, preparation)

    DistillStage.prepare = prepare_late


def _wrong(out, what: str):
    if what == "memory":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 7.00 GiB")
    if what == "nan":
        return type(out)(**{**vars(out), "total": out.total * float("nan")})
    if what:
        time.sleep(float(what))
    return out


if __name__ == "__main__":
    rank, faults, *arguments = sys.argv[1:]
    if os.environ["RANK"] == rank:
        _spoil({int(step): what for step, _, what in (fault.partition("=") for fault in faults.split(","))})
    sys.excepthook = run.leave_after
    run.leave(run.main(arguments))
