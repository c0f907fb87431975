"""Steps and their packs in; steps that were skipped and losses that jumped out, by sample keys in files of the run, and
clear errors where they are too many or memory ran out."""

import json
import statistics
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from data_shards.collate import Batch
from trainer.dist import MainRankError, Ranks
from trainer.lines import PatientLines, json_number, keep_until
from trainer.recipe import DataSection
from trainer.state import HISTORY, TrainState

SKIPPED_FILE = "skipped.jsonl"
SPIKES_FILE = "spikes.jsonl"
_ENOUGH = 20
_SPREADS = 8.0
_SHOWN = 6
_HOST_MEMORY = "DefaultCPUAllocator: can't allocate memory"
"""What torch, which has no class for it, says where the host has none left."""


class TooManySkipped(MainRankError):  # noqa: N818
    """More steps in a row than the recipe allows had a loss or gradient that is not finite; raised on all ranks."""


class OutOfMemory(RuntimeError):  # noqa: N818
    """The device's memory did not hold a pack; the message names the pack and the limits to lower."""


def is_spike(loss: float, former: Sequence[float]) -> bool:
    """Whether a loss lies far above those before it.

    Far is 8 times their spread above their median; the spread is the median absolute deviation, scaled to a standard
    deviation, and at least a hundredth of the median. Fewer than 20 losses are too few to say.
    """
    if len(former) < _ENOUGH:
        return False
    middle = statistics.median(former)
    deviation = 1.4826 * statistics.median(abs(value - middle) for value in former)
    return loss > middle + _SPREADS * max(deviation, 0.01 * abs(middle))


@contextmanager
def explained_memory(limits: DataSection, batch: Batch) -> Iterator[None]:
    """Within this context running out of memory, of the device or of the host, names the pack.

    Raises:
        OutOfMemory: in the place of torch's error.
    """
    meta = batch.meta
    tokens = f"{meta.num_tokens} tokens (data.max_tokens {limits.max_tokens}), " if meta.num_tokens else ""
    with memory_for(
        f"a pack of {tokens}{meta.num_tiles} tiles (data.max_tiles {limits.max_tiles}) and {len(batch.label_targets)} "
        f"label tokens, frames {_shown(meta.keys)}",
        "have more layers checkpointed (model.checkpointing; this run then goes on), or lower "
        f"{'data.max_tokens or ' if meta.num_tokens else ''}data.max_tiles",
    ):
        yield


@contextmanager
def memory_for(what: str, advice: str) -> Iterator[None]:
    """Within this context running out of memory says at what, and what to do.

    Raises:
        OutOfMemory: in the place of torch's error.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and _HOST_MEMORY not in str(error):
            raise
        raise OutOfMemory(f"out of memory at {what}; {advice}: {_first_line(error)}") from error


class StepGuard:
    """Writes down which samples were in steps that went wrong; knows the same on all ranks, the main rank writes."""

    def __init__(
        self, ranks: Ranks, run_dir: Path, *, max_skipped: int, state: TrainState, say: Callable[[str], None]
    ) -> None:
        """Go on from what the run directory holds up to the state's step, and from the losses the state has read.

        Args:
            max_skipped: steps in a row that may be skipped.
            say: prints a line for the user.
        """
        self._ranks, self._run_dir, self._max_skipped, self._say = ranks, run_dir, max_skipped, say
        steps: list[int] = ranks.on_main(lambda: _read_steps(run_dir, state.step))
        self.count = len(steps)
        self._in_row = next((i for i in range(len(steps)) if state.step - i not in steps), len(steps))
        self._former: deque[float] = deque(state.last, maxlen=HISTORY)
        self._keys: dict[int, list[tuple[str, ...]]] = {}
        self._files = {name: PatientLines(run_dir / name, say) for name in (SKIPPED_FILE, SPIKES_FILE)}

    def applied(self, step: int, batches: Sequence[Batch]) -> None:
        """Remember a step's samples until its loss is read."""
        self._in_row = 0
        self._keys[step] = [batch.meta.keys for batch in batches]

    def skipped(self, step: int, batches: Sequence[Batch], losses: Sequence[torch.Tensor]) -> None:
        """Write down a step that was skipped on all ranks.

        Args:
            batches: micro batches of this rank.
            losses: of each, the sum over its labels.

        Raises:
            TooManySkipped: on all ranks, after `max_skipped` in a row.
        """
        self.count += 1
        self._in_row += 1
        own = [
            {"rank": self._ranks.rank, "loss": json_number(float(loss)), "keys": list(batch.meta.keys)}
            for batch, loss in zip(batches, losses, strict=True)
        ]
        packs: list[dict[str, Any]] = [pack for packs in self._ranks.gather(own) for pack in packs]
        self._write(SKIPPED_FILE, {"step": step, "packs": packs})
        guilty = [pack for pack in packs if pack["loss"] is None]
        frames = _shown([key for pack in guilty or packs for key in pack["keys"]])
        whose = f"the loss of rank {guilty[0]['rank']} is not finite" if guilty else "a gradient is not finite"
        self._say(f"step {step} skipped, {whose}: frames {frames}; all are in {self._run_dir / SKIPPED_FILE}")
        if self._in_row >= self._max_skipped:
            raise TooManySkipped(
                f"max_skipped: got {self._in_row} steps in a row whose loss or gradient is not finite, the last one "
                f"step {step}; their frames are in {self._run_dir / SKIPPED_FILE}. Raise max_skipped, and the run goes "
                "on from its last checkpoint; or lower optim.lr or optim.grad_clip in another run_dir, which begins at "
                "a checkpoint of this one with --resume CHECKPOINT; or mend the frames and begin anew"
            )

    def read_losses(self, losses: Mapping[int, float]) -> None:
        """Report losses that jumped; called on all ranks with the global losses of applied steps."""
        for step, loss in losses.items():
            if is_spike(loss, self._former):
                keys = [key for packs in self._ranks.gather(self._keys.get(step, [])) for pack in packs for key in pack]
                middle = statistics.median(self._former)
                self._write(SPIKES_FILE, {"step": step, "loss": loss, "median": middle, "keys": keys})
                self._say(f"loss {loss:.4g} at step {step} after a median of {middle:.4g}: frames {_shown(keys)}")
            self._former.append(loss)
        self._keys = {}

    def _write(self, name: str, record: Mapping[str, Any]) -> None:
        self._ranks.on_main(lambda: self._files[name].add(json.dumps(record)))


def _read_steps(run_dir: Path, step: int) -> list[int]:
    """Steps up to `step` that earlier starts skipped; what came later is done again, and its lines are dropped."""
    keep_until(run_dir / SPIKES_FILE, step)
    return [record["step"] for record in keep_until(run_dir / SKIPPED_FILE, step)]


def _first_line(error: BaseException) -> str:
    return (str(error) or repr(error)).splitlines()[0]


def _shown(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return ", ".join(keys[:_SHOWN]) + more
