"""Weights from fractions, against the tokens and tiles of the packs they lead to."""

import pytest

from data_shards.mixture import MixtureEntry, PackLimits, PlanError, SampleSize, SizeTable
from data_shards.plan import PackStream
from data_shards.token_fractions import default_fractions, shares, with_fractions
from tests.unit.data_shards.test_plan import FULL_SIZE, driving, general


def stream_of(*tables, limits=FULL_SIZE, k=4):
    return PackStream([MixtureEntry(sizes=table) for table in tables], limits, k, 3)


def _tokens_of(packs, mixture):
    """Tokens that packs show of each dataset, prefixes each time they are shown."""
    total = [0] * len(mixture)
    for pack in packs:
        for visit in pack.visits:
            size = mixture[visit.dataset].sizes[visit.sample]
            total[visit.dataset] += size.prefix_tokens + sum(size.question_tokens[q] for q in visit.questions)
    return total


@pytest.mark.parametrize("k", [1, 4, 32])
def test_fractions_are_those_of_the_tokens_in_the_packs(k):
    tables = [general(300), driving(60)]
    mixture = [MixtureEntry(sizes=table) for table in tables]
    stream = with_fractions(stream_of(*tables, k=k), [1.0, 4.0])
    assert max(stream.weights) == 1.0
    assert min(stream.weights) < 0.9
    packs = [s[i] for s in map(stream.section, range(6 * stream.sections)) for i in range(len(s))]
    tokens = _tokens_of(packs, mixture)
    assert tokens[1] / tokens[0] == pytest.approx(4.0, rel=0.05)
    assert shares(stream) == pytest.approx([0.2, 0.8], abs=0.03)


@pytest.mark.parametrize("scarce", [1, 3])
def test_a_dataset_too_small_for_a_place_in_the_first_section_has_its_fraction_too(monkeypatch, scarce):
    monkeypatch.setattr("data_shards.sections.SECTION_VISITS", 64)
    stream = stream_of(general(400), driving(scarce), k=1)
    assert stream.section(0).samples[1] == 0
    stream = with_fractions(stream, [4.0, 1.0])
    general_tokens, driving_tokens = sum(stream.section(i).shown for i in range(8 * stream.sections))
    assert driving_tokens / general_tokens == pytest.approx(0.25, rel=0.1)


def test_a_dataset_of_which_little_is_wanted_is_not_refused():
    stream = with_fractions(stream_of(general(500), driving(1)), [1.0, 400.0])
    assert stream.weights[1] == 1.0
    assert 0 < stream.weights[0] < 1e-2


def test_fractions_of_images_alone_are_those_of_their_tiles():
    tables = [SizeTable.of([SampleSize(prefix_tokens=0, question_tokens=(), tiles=n)] * 200) for n in (1, 6)]
    stream = with_fractions(stream_of(*tables, limits=PackLimits(max_tokens=1, max_tiles=12), k=1), [1.0, 2.0])
    assert stream.weights == pytest.approx([1.0, 1 / 3], rel=0.02)


def test_by_default_a_fifth_of_the_tokens_is_general_and_datasets_of_a_kind_are_shown_alike():
    stream = stream_of(driving(30, seed=1), general(200, seed=2), driving(60, seed=3))
    fractions = default_fractions(stream, [False, True, False])
    assert fractions is not None
    assert sum(fractions) == pytest.approx(1.0)
    assert fractions[1] == pytest.approx(0.2)
    weights = with_fractions(stream, fractions).weights
    assert weights[0] == pytest.approx(weights[2], rel=0.1)
    assert default_fractions(stream, [True] * 3) is default_fractions(stream, [False] * 3) is None


def test_the_same_fractions_give_the_same_plan_and_leave_the_stream_alone():
    plain = stream_of(general(100), driving(20))
    before = plain.section(0).shown.tolist()
    one, other = (with_fractions(plain, [1.0, 4.0]) for _ in range(2))
    assert one.weights == other.weights != plain.weights == (1.0, 1.0)
    assert [one.pack(i) for i in range(5)] == [other.pack(i) for i in range(5)]
    assert plain.section(0).shown.tolist() == before


def test_a_fraction_that_cannot_be_is_named():
    stream = stream_of(general(10), driving(2))
    with pytest.raises(PlanError, match="fraction of dataset 1: got 0"):
        with_fractions(stream, [1.0, 0.0])
    nothing = SizeTable.of([SampleSize(prefix_tokens=5, question_tokens=(), tiles=1)])
    with pytest.raises(PlanError, match="dataset 1: got nothing that can be shown"):
        with_fractions(stream_of(general(10), nothing), [1.0, 1.0])
