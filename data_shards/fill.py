"""Runs of questions in a shuffled order of turns come in; packs filled by tokens and tiles come out (pure, no I/O).

A run is one sample with the questions it has to be asked; a turn is a place in the order where the run is visited."""

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

WINDOW = 48
"""Turns looked at ahead of the order when a pack is filled: wide enough to fill, narrow enough to stay random."""

LEAST_SHARE = 0.6
"""Part of its questions that a visit keeps at least when room is made for one more."""

DELAY = 100
"""Packs after which a run comes again for questions that were cut off its last turn."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Runs:
    """Flat tables of R runs with Q questions in all, already in the order in which they are asked.

    Attributes:
        prefix: int64 [R], tokens of the shared prefix.
        tiles: int64 [R].
        first: int64 [R + 1], the run's questions are first[r] to first[r + 1].
        cumulative: int64 [Q + 1], tokens of all questions before each question.
    """

    prefix: np.ndarray
    tiles: np.ndarray
    first: np.ndarray
    cumulative: np.ndarray


@dataclass(kw_only=True)
class _OpenPack:
    """The pack that is being filled.

    Attributes:
        tokens_left, tiles_left: room.
        visits: [run, first question, the one behind the last], each changed in place while the pack is open.
        members: runs that it visits.
    """

    tokens_left: int
    tiles_left: int
    visits: list[list[int]] = field(default_factory=list)
    members: set[int] = field(default_factory=set)


class Filler:
    """Fills packs one after the other; each starts with the oldest waiting turn, so none waits for ever.

    Attributes:
        target, most: questions of a visit, as wanted and at most.
        next, end: of each run, its first question not yet asked and the one behind its last.
        turns: of each run, visits that are still to come; 0 once all is asked.
        waiting: runs of the turns in the order given.
        late: (number of packs after which, run) of turns added for questions that were cut off.
        window: runs of the turns that are looked at for the pack at hand.
    """

    def __init__(self, runs: Runs, *, max_tokens: int, max_tiles: int, questions_per_visit: int) -> None:
        self.max_tokens, self.max_tiles = max_tokens, max_tiles
        self.target, self.most = questions_per_visit, 2 * questions_per_visit - 1
        self.prefix, self.tiles = runs.prefix.tolist(), runs.tiles.tolist()
        self.next, self.end = runs.first[:-1].tolist(), runs.first[1:].tolist()
        self.cumulative = np.ascontiguousarray(runs.cumulative).data
        self.least_prefix, self.least_tiles = min(self.prefix, default=0), min(self.tiles, default=0)
        self.turns = num_turns(runs, questions_per_visit).tolist()
        self.waiting: deque[int] = deque()
        self.late: deque[tuple[int, int]] = deque()
        self.window: list[int] = []
        self.num_packs = 0

    def fill(self, order: Iterable[int]) -> list[list[list[int]]]:
        """Packs as lists of visits [run, first, end] that hold every question of every run exactly once.

        Args:
            order: run of each turn; a run stands in it as often as `num_turns` says.
        """
        self.waiting = deque(order)
        packs = []
        while self.waiting or self.late or self.window:
            pack = _OpenPack(tokens_left=self.max_tokens, tiles_left=self.max_tiles)
            self._add_whole(pack)
            if self.target > 1 and pack.visits:
                self._squeeze(pack)
                self._extend(pack)
            if pack.visits:
                packs.append(pack.visits)
                self.num_packs += 1
            self._close(pack)
        return packs

    def _refill(self) -> None:
        while len(self.window) < WINDOW and (self.waiting or self.late):
            if self.late and (not self.waiting or self.late[0][0] <= self.num_packs):
                run = self.late.popleft()[1]
            else:
                run = self.waiting.popleft()
            if self.turns[run]:
                self.window.append(run)

    def _add_whole(self, pack: _OpenPack) -> None:
        self._refill()
        i = 0
        while i < len(self.window) and self._has_room(pack):
            run = self.window[i]
            if not self.turns[run]:
                self.window.pop(i)
            elif self._fits(run, pack) and self._place(run, pack):
                self.window.pop(i)
                self._refill()
            else:
                i += 1

    def _squeeze(self, pack: _OpenPack) -> None:
        """Let in turns that do not fit whole, where visits with fewer questions each make room for them."""
        i = 0
        while i < len(self.window) and self._has_room(pack):
            run = self.window[i]
            ends = self._squeezed(run, pack) if self.turns[run] and self._fits(run, pack) else None
            if ends is None:
                i += 1
                continue
            self.window.pop(i)
            self.turns[run] -= 1
            pack.visits.append([run, self.next[run], self.next[run]])
            pack.members.add(run)
            pack.tiles_left -= self.tiles[run]
            pack.tokens_left -= self.prefix[run]
            for visit, end in zip(pack.visits, ends, strict=True):
                self._set_end(visit, end, pack)

    def _squeezed(self, run: int, pack: _OpenPack) -> list[int] | None:
        """Ends of all visits of the pack and of one more, smaller but full enough; None where it does not work."""
        wanted = [*((r, first, end) for r, first, end in pack.visits), self._share(run)]
        sizes = [self.cumulative[end] - self.cumulative[first] for _, first, end in wanted]
        room = self.max_tokens - self.prefix[run] - sum(self.prefix[r] for r, _, _ in pack.visits)
        movable = [end - first > 1 for _, first, end in wanted]
        # Frames that come again give way before those that would have to come again only for what is cut off here.
        again = [m and self.turns[r] > (r == run) for m, (r, _, _) in zip(movable, wanted, strict=True)]
        for gives in (again, movable):
            fixed = sum(size for size, give in zip(sizes, gives, strict=True) if not give)
            share = (room - fixed) / max(sum(sizes) - fixed, 1)
            if not (LEAST_SHARE <= share < 1.0 and any(gives)):
                continue
            ends = [
                first + max(1, self._count(first, end, int(size * share))) if give else end
                for (_, first, end), size, give in zip(wanted, sizes, gives, strict=True)
            ]
            # one question may be longer than its visit's part
            if sum(self.cumulative[e] - self.cumulative[v[1]] for e, v in zip(ends, wanted, strict=True)) <= room:
                return ends
        return None

    def _share(self, run: int) -> tuple[int, int, int]:
        first, left = self.next[run], self.end[run] - self.next[run]
        return run, first, first - (-left // self.turns[run])

    def _set_end(self, visit: list[int], end: int, pack: _OpenPack) -> None:
        run, _, old = visit
        pack.tokens_left -= self.cumulative[end] - self.cumulative[old]
        visit[2] = self.next[run] = end

    def _has_room(self, pack: _OpenPack) -> bool:
        return pack.tiles_left >= self.least_tiles and pack.tokens_left >= self.least_prefix

    def _fits(self, run: int, pack: _OpenPack) -> bool:
        if self.tiles[run] > pack.tiles_left or self.prefix[run] > pack.tokens_left:
            return False
        return self.target == 1 or run not in pack.members

    def _place(self, run: int, pack: _OpenPack) -> bool:
        """Visit the run with its share of the questions left, if they fit."""
        _, first, end = self._share(run)
        room = pack.tokens_left - self.prefix[run]
        fitting = self._count(first, end, room)
        # In an empty pack a visit that is too long for any pack is cut: the rest of its questions come later.
        if fitting < end - first and pack.visits:
            return False
        visit = [run, first, first]
        pack.tokens_left = room
        pack.tiles_left -= self.tiles[run]
        pack.visits.append(visit)
        pack.members.add(run)
        self.turns[run] -= 1
        self._set_end(visit, first + fitting, pack)
        return True

    def _count(self, first: int, end: int, room: int) -> int:
        """How many of the questions first..end, from the first on, have at most `room` tokens together."""
        return bisect_right(self.cumulative, self.cumulative[first] + room, first, end + 1) - 1 - first

    def _extend(self, pack: _OpenPack) -> None:
        """Spend the tokens left on further questions of the pack's frames: first evenly, then whatever fits."""
        for room in (pack.tokens_left // len(pack.visits), self.max_tokens):
            for visit in pack.visits:
                self._extend_visit(visit, pack, min(room, pack.tokens_left))

    def _extend_visit(self, visit: list[int], pack: _OpenPack, room: int) -> None:
        run, first, end = visit
        last = min(self.end[run], first + self.most)
        if last <= end or self.next[run] != end:
            return
        self._set_end(visit, end + self._count(end, last, room), pack)

    def _close(self, pack: _OpenPack) -> None:
        for run, _, _ in pack.visits:
            if self.next[run] == self.end[run]:
                self.turns[run] = 0
            elif self.turns[run] == 0:
                self.turns[run] = 1
                self.late.append((self.num_packs + DELAY, run))


def num_turns(runs: Runs, questions_per_visit: int) -> np.ndarray:
    """Visits planned for each run, int64 [R]: its questions over the target, rounded, at least one."""
    return np.maximum(1, np.rint(np.diff(runs.first) / questions_per_visit)).astype(np.int64)
