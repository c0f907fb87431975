"""The file of samples left out, and the rule by which there are too many."""

import json

import pytest

from data_shards.quarantine import BadRecord, Quarantine, Tally
from data_shards.read import BadSample


def record(number, dataset="d"):
    bad = BadSample(f"reason {number} ü", shard="s.tar", offset=512 * number, key=f"a_{number}")
    return BadRecord.of(bad, dataset)


def tally(known=(), **changes):
    return Tally(known, **{"max_fraction": 0.001, **changes})


def test_the_file_holds_one_line_a_sample_and_reads_back(tmp_path):
    path = tmp_path / "run" / "quarantine.jsonl"
    assert Quarantine(path).read() == []
    Quarantine(path).append([record(1), record(2)])
    Quarantine(path).append([record(3)])
    assert Quarantine(path).read() == [record(1), record(2), record(3)]
    assert json.loads(path.read_text().splitlines()[0]) == {
        "dataset": "d", "shard": "s.tar", "offset": 512, "key": "a_1", "reason": "reason 1 ü",
    }  # fmt: skip


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_line_that_a_kill_cut_off_is_removed(tmp_path, cut):
    path = tmp_path / "quarantine.jsonl"
    Quarantine(path).append([record(1), record(2)])
    path.write_bytes(path.read_bytes()[:-cut])
    kept = Quarantine(path).read()
    assert kept == ([record(1), record(2)] if cut == 1 else [record(1)])
    Quarantine(path).append([record(3)])
    assert Quarantine(path).read() == [*kept, record(3)]


def test_no_character_of_a_name_breaks_a_line(tmp_path):
    path = tmp_path / "quarantine.jsonl"
    names = ["a\u2028b", "a\x85b", "a\nb", "caf\udce9", "日本"]  # the fourth as tarfile reads a name in Latin-1
    found = [BadRecord(dataset="d", shard="s.tar", offset=0, key=name, reason=name) for name in names]
    Quarantine(path).append(found)
    assert Quarantine(path).read() == found
    assert len(path.read_bytes().splitlines()) == len(names)
    assert [str(record).encode().decode() for record in found][3].endswith(r"frame caf\udce9: caf\udce9")


def test_a_kill_within_a_character_is_a_line_cut_off(tmp_path):
    path = tmp_path / "quarantine.jsonl"
    Quarantine(path).append([record(1), record(2)])
    content = path.read_bytes()
    path.write_bytes(content[: content.rindex("ü".encode()) + 1])
    assert Quarantine(path).read() == [record(1)]


def test_a_sample_counts_once_whatever_it_was_found_with():
    known = tally([record(1)])
    assert known.unknown([record(1), record(2), record(2), record(1, "other")]) == [record(2), record(1, "other")]
    assert known.add([record(2), record(1), record(2)]) == [record(2)]
    assert known.add([record(2)]) == []
    assert known.count == 2
    assert known.first(1) == [record(1)]


@pytest.mark.parametrize(
    ("fraction", "seen", "total", "allowed"),
    [
        (0.001, 0, 100, 1),  # one sample never stops a run
        (0.001, 100, 100, 1),
        (0.25, 40, 40, 10),
        (0.25, 8, 12, 3),  # a small dataset is judged as a whole
        (0.001, 50, 10**6, 10),  # a large one once ten would be allowed
        (0.001, 10**6, 10**6, 1000),
        (0.001, 5000, 0, 5),
        (0.0, 10**6, 10**6, 0),
        (1.0, 3, 3, 3),
    ],
)
def test_bad_samples_allowed_follow_from_those_seen(fraction, seen, total, allowed):
    made = tally(max_fraction=fraction, seen=seen, total=total)
    assert made.allowed == pytest.approx(allowed)
    for number in range(allowed):
        made.add([record(number)])
    assert not made.too_many
    made.add([record(allowed)])
    assert made.too_many
