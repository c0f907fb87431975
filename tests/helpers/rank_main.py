"""Preloaded once by a fork server: all that a rank imports. Then `run`, in a process forked from it, is a rank."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

os.environ["DS_ACCELERATOR"] = "cpu"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import deepspeed  # noqa: E402, F401
from transformers.models.internvl import modeling_internvl  # noqa: E402, F401
from transformers.models.llama import modeling_llama  # noqa: E402, F401

from trainer.run import leave, main  # noqa: E402


def run(environment: Mapping[str, str], arguments: Sequence[str], log: Path) -> None:
    """`trainer/run.py` with these arguments; ends the process."""
    os.environ.update(environment)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, sys.stdout.fileno())
    os.dup2(descriptor, sys.stderr.fileno())
    leave(main(arguments))
