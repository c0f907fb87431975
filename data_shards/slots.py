"""Shared memory that the workers of a loader write tiles into and their parent reads, in slots that are used again.

Fresh shared memory costs a page fault for each 4 KiB, which takes longer than the copy itself; a slot pays it once."""

import mmap
import weakref
from typing import Any

import numpy as np
import torch


class TileSlots:
    """Some slots for each worker, inherited by forked workers.

    A worker takes a slot of its own and fills it; the parent makes a tensor of it. Once that tensor and every view of
    it is gone, the slot is free. So no slot is written while someone can read it, and no lock is needed: a flag is set
    by one worker only, and cleared by the parent only.
    """

    def __init__(self, *, workers: int, per_worker: int, slot_bytes: int) -> None:
        """Reserve the memory; a page is taken when it is first written."""
        pages = -(-slot_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        self._per_worker = per_worker
        self._slots = np.frombuffer(mmap.mmap(-1, workers * per_worker * pages), np.uint8).reshape(-1, pages)
        self._taken = np.frombuffer(mmap.mmap(-1, workers * per_worker), np.uint8)

    def take(self, worker: int) -> int | None:
        """A free slot of a worker, which is then taken; None where all are in use."""
        own = range(worker * self._per_worker, (worker + 1) * self._per_worker)
        slot = next((slot for slot in own if not self._taken[slot]), None)
        if slot is not None:
            self._taken[slot] = 1
        return slot

    def put_back(self, slot: int) -> None:
        """Free a slot again that its worker took and hands to no one."""
        self._taken[slot] = 0

    @property
    def slot_bytes(self) -> int:
        """Room of a slot."""
        return self._slots.shape[1]

    def array(self, slot: int, shape: tuple[int, ...]) -> np.ndarray:
        """A slot's memory as uint8 of a shape."""
        return self._slots[slot, : int(np.prod(shape))].reshape(shape)

    def tensor(self, slot: int, shape: tuple[int, ...]) -> torch.Tensor:
        """The same as a tensor; the slot is free once nothing refers to its memory any more."""
        lease = _Lease(self.array(slot, shape))
        weakref.finalize(lease, self._taken.__setitem__, slot, 0).atexit = False
        return torch.from_numpy(np.asarray(lease))


class _Lease:
    """Memory that numpy and torch refer to for as long as they use it."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return self._array.__array_interface__
