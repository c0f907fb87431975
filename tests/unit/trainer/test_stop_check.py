"""What a rank learns of another one's request to stop, with and without meeting it."""

import signal

import pytest
import torch.distributed as torch_dist

from trainer.dist import Flag
from trainer.state import StopRequest
from trainer.stop_check import BrokenOff, StopCheck


class _Ranks:
    """Stands for one of some ranks that share a store, and of which another one was asked or not."""

    def __init__(self, store: torch_dist.Store, *, other: bool = False) -> None:
        self._store, self._other = store, other

    def flag(self, name: str) -> Flag:
        return Flag(torch_dist.PrefixStore(name, self._store))

    def any(self, flag: bool) -> bool:
        return flag or self._other


def test_the_others_notice_what_one_rank_has_said():
    store = torch_dist.HashStore()
    asked, other = StopRequest(), StopCheck(StopRequest(), _Ranks(store))
    first = StopCheck(asked, _Ranks(store))
    assert not first.noticed()
    asked.set(signal.SIGUSR1)
    assert not other.noticed()
    assert first.noticed()
    assert other.noticed()
    assert first
    assert not other, "its own rank was not asked"


def test_all_break_off_where_one_was_asked():
    StopCheck(StopRequest(), _Ranks(torch_dist.HashStore())).together()
    with pytest.raises(BrokenOff):
        StopCheck(StopRequest(), _Ranks(torch_dist.HashStore(), other=True)).together()
    asked = StopRequest()
    asked.set(signal.SIGTERM)
    with pytest.raises(BrokenOff):
        StopCheck(asked, _Ranks(torch_dist.HashStore())).together()
