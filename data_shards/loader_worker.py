"""What a loader's worker process does before its first batch: signals, threads and memory."""

import ctypes
import os
import signal

_GRACE_S = 25
"""Seconds a worker outlives a SIGTERM; launchers kill after 30."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Of glibc's malloc.h."""

_REUSED_BYTES = 32 << 20
"""Larger pieces are given back when they are freed; glibc takes no larger bound."""


def start_worker(_: int) -> None:
    """Set up a new worker process; called in it by torch, with its number."""
    # Who stops a job signals every process of it. The step at hand still needs this one's batch: it ignores Ctrl-C, and
    # leaves only some time after a SIGTERM; when its rank ends it ends in any case.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE_S))
    # A forked copy of the tokenizer's thread pool has no threads; without this it warns, or waits for them.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Let glibc use freed memory again instead of giving it back: a decoded view costs a thousand page faults then,
    once, and not each time."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # other C libraries have none
        mallopt(_M_MMAP_THRESHOLD, _REUSED_BYTES)
        mallopt(_M_TRIM_THRESHOLD, 8 * _REUSED_BYTES)
