"""A number of tiles in, memory for them out: the tiles of a pack, frame by frame, in one row of shared memory."""

import numpy as np
from torch.utils.data import get_worker_info

from data_shards.slots import TileSlots


class TileRoom:
    """Memory for the tiles of one pack: a slot of this worker where one is free and large enough, else fresh memory.

    What was given out and not kept is given out again.

    Attributes:
        slot: where the tiles lie; None in fresh memory.
    """

    def __init__(self, slots: TileSlots | None, side: int) -> None:
        """Take a slot where there are any; `side` is that of a tile in pixels."""
        worker = get_worker_info()
        self._slots, self._shape, self._used = slots, (side, side, 3), 0
        self.slot = slots.take(worker.id) if slots is not None and worker is not None else None
        self._room: np.ndarray | None = None
        if slots is not None and self.slot is not None:
            self._room = slots.array(self.slot, (slots.slot_bytes // (3 * side * side), *self._shape))

    def allocate(self, count: int) -> np.ndarray:
        """Memory for the tiles of the next frame, uint8 [count, S, S, 3]; any content."""
        if self._room is None:
            return np.empty((count, *self._shape), np.uint8)
        if self._used + count > len(self._room):
            self._room = None
            return self.allocate(count)
        return self._room[self._used : self._used + count]

    def keep(self, count: int) -> None:
        """The tiles given out last are of use."""
        self._used += count

    def row(self) -> np.ndarray | None:
        """All tiles kept, where there are any and they lie in the slot; else None."""
        if self._room is not None and self._used:
            return self._room[: self._used]
        return None

    def close(self) -> None:
        """Free a slot that is not handed on; what was kept there must have been copied."""
        if self._slots is not None and self.slot is not None:
            self._slots.put_back(self.slot)
            self.slot = None
