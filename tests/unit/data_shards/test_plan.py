import time
from collections import Counter

import numpy as np
import pytest

from data_shards import sections
from data_shards.cost import CostModel
from data_shards.fill import Filler
from data_shards.mixture import MixtureEntry, PackLimits, PlanError, SampleSize, SizeTable, oversized
from data_shards.plan import PackStream, plan_epoch

FULL_SIZE = PackLimits(max_tokens=16384, max_tiles=48)
SMALL = PackLimits(max_tokens=300, max_tiles=10)


def driving(count, seed=0):
    """Frames as long as real ones at full size: 13 tiles, 80 to 99 questions of some 77 tokens."""
    rng = np.random.default_rng(seed)
    return SizeTable.of(
        SampleSize(
            prefix_tokens=3380,
            question_tokens=tuple((40 + rng.gamma(1.5, 25, size=rng.integers(80, 100))).astype(int).tolist()),
            tiles=13,
        )
        for _ in range(count)
    )


def general(count, seed=1):
    rng = np.random.default_rng(seed)
    tiles = rng.integers(0, 14, size=count).tolist()
    return SizeTable.of(
        SampleSize(prefix_tokens=30 + 256 * n, question_tokens=(int(60 + rng.gamma(1.5, 200)),), tiles=n) for n in tiles
    )


def small(count, seed=2):
    rng = np.random.default_rng(seed)
    return SizeTable.of(
        SampleSize(
            prefix_tokens=int(rng.integers(10, 60)),
            question_tokens=tuple(rng.integers(5, 40, size=rng.integers(1, 12)).tolist()),
            tiles=int(rng.integers(0, 5)),
        )
        for _ in range(count)
    )


def plan(mixture, *, limits=SMALL, k=4, seed=3, epoch=0):
    return plan_epoch(mixture, limits=limits, questions_per_visit=k, seed=seed, epoch=epoch)


def asked(packs):
    return Counter((v.dataset, v.sample, q) for pack in packs for v in pack.visits for q in v.questions)


def load(pack, mixture):
    """Tokens and tiles of a pack, counted anew."""
    sizes = [(mixture[v.dataset].sizes[v.sample], v.questions) for v in pack.visits]
    tokens = sum(size.prefix_tokens + sum(size.question_tokens[q] for q in questions) for size, questions in sizes)
    return tokens, sum(size.tiles for size, _ in sizes)


def every_question(mixture):
    return {
        (d, s, q)
        for d, entry in enumerate(mixture)
        for s, size in enumerate(entry.sizes)
        for q in range(len(size.question_tokens))
    }


@pytest.mark.parametrize("k", [1, 2, 5, 32])
@pytest.mark.parametrize("epoch", [0, 1])
def test_every_question_is_asked_exactly_once_an_epoch(k, epoch):
    mixture = [MixtureEntry(sizes=small(60)), MixtureEntry(sizes=small(25, seed=9))]
    packs = plan(mixture, k=k, epoch=epoch)
    assert asked(packs) == Counter(every_question(mixture))


@pytest.mark.parametrize("k", [1, 2, 3, 5, 32])
@pytest.mark.parametrize("seed", range(4))
def test_no_pack_exceeds_its_limits(k, seed):
    rng = np.random.default_rng(seed)
    uneven = [
        SampleSize(
            prefix_tokens=int(rng.integers(1, 80)),
            question_tokens=tuple((3 + rng.exponential(25, size=rng.integers(1, 9))).astype(int).tolist()),
            tiles=int(rng.integers(0, 4)),
        )
        for _ in range(150)
    ]
    mixture = [MixtureEntry(sizes=small(50)), MixtureEntry(sizes=SizeTable.of(uneven))]
    packs = plan(mixture, k=k)
    assert asked(packs) == Counter(every_question(mixture) - {(d, s, q) for d, s, q, _ in oversized(mixture, SMALL)})
    loads = [load(pack, mixture) for pack in packs]
    assert max(tokens for tokens, _ in loads) <= SMALL.max_tokens
    assert max(tiles for _, tiles in loads) <= SMALL.max_tiles


def test_a_plan_is_a_function_of_seed_and_epoch():
    mixture = [MixtureEntry(sizes=small(40))]
    assert plan(mixture) == plan(mixture)
    assert plan(mixture) != plan(mixture, epoch=1)
    assert plan(mixture) != plan(mixture, seed=4)


def test_frames_of_all_datasets_are_mixed_over_the_epoch():
    mixture = [MixtureEntry(sizes=small(300)), MixtureEntry(sizes=small(300, seed=9))]
    packs = plan(mixture)
    first_half = Counter(v.dataset for pack in packs[: len(packs) // 2] for v in pack.visits)
    assert 0.8 < first_half[0] / first_half[1] < 1.25


def test_classic_packing_asks_one_question_a_visit():
    packs = plan([MixtureEntry(sizes=small(50))], k=1)
    assert {len(v.questions) for pack in packs for v in pack.visits} == {1}


def test_questions_of_a_visit_vary_around_their_setting():
    packs = plan([MixtureEntry(sizes=driving(300))], limits=FULL_SIZE, k=32)
    counts = [len(v.questions) for pack in packs for v in pack.visits]
    assert 26 < np.mean(counts) < 38
    assert max(counts) <= 63


def test_a_frame_stands_in_a_pack_once_when_visits_are_shared():
    packs = plan([MixtureEntry(sizes=small(30))], k=3)
    assert all(len({v.sample for v in pack.visits}) == len(pack.visits) for pack in packs)


def test_packs_of_driving_frames_are_98_percent_full():
    mixture = [MixtureEntry(sizes=driving(2000))]
    loads = [load(pack, mixture)[0] for pack in plan(mixture, limits=FULL_SIZE, k=32)]
    assert sum(loads) / len(loads) / FULL_SIZE.max_tokens >= 0.98


def test_packs_of_a_mixture_are_95_percent_full():
    frames = driving(400)
    count = len(frames.tokens) // 4
    mixture = [MixtureEntry(sizes=frames), MixtureEntry(sizes=general(count))]
    loads = [load(pack, mixture)[0] for pack in plan(mixture, limits=FULL_SIZE, k=32)]
    assert sum(loads) / len(loads) / FULL_SIZE.max_tokens >= 0.95


def test_planning_a_hundred_thousand_visits_takes_seconds():
    frames = driving(50)
    mixture = [MixtureEntry(sizes=SizeTable.joined([frames] * 700))]
    begin = time.process_time()
    stream = PackStream(mixture, FULL_SIZE, 32, 0)
    assert stream.packs_an_epoch() * 3 > 100_000
    assert time.process_time() - begin < 20


def test_a_frame_longer_than_the_limit_is_split_between_questions():
    frame = SampleSize(prefix_tokens=100, question_tokens=(90,) * 7, tiles=3)
    packs = plan([MixtureEntry(sizes=SizeTable.of([frame]))], k=7)
    assert sorted(len(pack.visits[0].questions) for pack in packs) == [1, 2, 2, 2]
    assert asked(packs) == Counter({(0, 0, q): 1 for q in range(7)})


def test_what_no_pack_can_hold_is_listed_and_left_out():
    wide = SampleSize(prefix_tokens=10, question_tokens=(5,), tiles=11)
    long = SampleSize(prefix_tokens=100, question_tokens=(50, 201, 200), tiles=1)
    mixture = [MixtureEntry(sizes=small(5)), MixtureEntry(sizes=SizeTable.of([wide, long]))]
    assert oversized(mixture, SMALL) == [(1, 0, 0, 15), (1, 1, 1, 301)]
    seen = asked(plan(mixture))
    assert seen == Counter(every_question(mixture) - {(1, 0, 0), (1, 1, 1)})
    assert (1, 1, 2) in seen


@pytest.mark.parametrize("weight", [2.0, 3.0])
def test_a_whole_weight_repeats_the_dataset(weight):
    mixture = [MixtureEntry(sizes=small(20)), MixtureEntry(sizes=small(20, seed=9), weight=weight)]
    assert set(asked(plan(mixture)).values()) == {1, int(weight)}
    assert {n for (d, _, _), n in asked(plan(mixture)).items() if d == 1} == {int(weight)}


def test_a_fraction_of_a_weight_takes_another_part_each_epoch():
    mixture = [MixtureEntry(sizes=small(3)), MixtureEntry(sizes=small(20, seed=9), weight=0.25)]
    epochs = [plan(mixture, epoch=e) for e in range(4)]
    parts = [{s for d, s, _ in asked(packs) if d == 1} for packs in epochs]
    assert [len(part) for part in parts] == [5, 5, 5, 5]
    assert set.union(*parts) == set(range(20))


def test_weight_two_and_a_half_shows_half_of_the_samples_a_third_time():
    sizes = small(20)
    shown = asked(plan([MixtureEntry(sizes=sizes, weight=2.5)]))
    per_sample = {s: n for (_, s, _), n in shown.items()}
    assert Counter(per_sample.values()) == {2: 10, 3: 10}


def walk(stream, count, position=None):
    """Positions and packs, one after the other."""
    position = stream.start if position is None else position
    walked = []
    for _ in range(count):
        walked.append((position, stream.pack(position)))
        position = stream.advance(position, 1)
    return walked


def test_the_stream_runs_through_the_epochs_one_after_the_other():
    mixture = [MixtureEntry(sizes=small(30))]
    stream = PackStream(mixture, SMALL, 4, 3)
    expected = plan(mixture) + plan(mixture, epoch=1) + plan(mixture, epoch=2)
    assert [pack for _, pack in walk(stream, len(expected))] == expected
    assert stream.packs_an_epoch() == len(plan(mixture))
    assert stream.epoch_of(stream.advance(0, len(plan(mixture)))) == 1.0


def test_a_stream_opened_at_any_position_continues_the_sequence(several_sections):
    whole = walk(several_sections(), 1200)
    for start in (0, 1, 7, 600, 1199):
        rest = walk(several_sections(), 1200 - start, whole[start][0])
        assert rest == whole[start:]


def test_to_advance_by_many_is_to_advance_one_by_one(several_sections):
    positions = [position for position, _ in walk(several_sections(), 1000)]
    for ranks in (1, 2, 3, 7, 64, 999):
        stream, position = several_sections(), several_sections().start
        for expected in positions[::ranks]:
            assert position == expected
            position = stream.advance(position, ranks)


def test_to_resume_plans_one_section_only(several_sections, monkeypatch):
    position = several_sections().advance(0, 900)
    assert position >> 32 > 1
    planned = []
    monkeypatch.setattr(Filler, "fill", lambda self, order, fill=Filler.fill: planned.append(1) or fill(self, order))
    several_sections().pack(position)
    assert len(planned) == 1


@pytest.fixture
def several_sections(monkeypatch):
    """Makes streams whose epochs have more than one section."""
    monkeypatch.setattr(sections, "SECTION_VISITS", 100)
    mixture = [
        MixtureEntry(sizes=small(90), shards=np.arange(90) // 10),
        MixtureEntry(sizes=small(40, seed=9), weight=0.4),
    ]

    def make():
        stream = PackStream(mixture, SMALL, 4, 3)
        assert stream.sections > 1
        return stream

    return make


def test_sections_together_ask_every_question_once(several_sections, monkeypatch):
    monkeypatch.setattr(sections, "SECTION_VISITS", 40)
    mixture = [MixtureEntry(sizes=small(90), shards=np.arange(90) // 10), MixtureEntry(sizes=small(40, seed=9))]
    assert PackStream(mixture, SMALL, 4, 3).sections > 3
    assert asked(plan(mixture)) == Counter(every_question(mixture))


def test_a_section_reads_few_shards(monkeypatch):
    monkeypatch.setattr(sections, "SECTION_VISITS", 60)
    stream = PackStream([MixtureEntry(sizes=small(400), shards=np.arange(400) // 10)], SMALL, 4, 3)
    for number in range(stream.sections):
        plan_of = stream.section(number)
        samples = {v.sample for i in range(len(plan_of)) for v in plan_of[i].visits}
        assert len({sample // 10 for sample in samples}) <= len(samples) // 10 + 2


def test_a_stream_passes_over_epochs_that_small_weights_leave_empty():
    stream = PackStream([MixtureEntry(sizes=small(2), weight=0.2)], SMALL, 4, 0)
    counts = [len(stream.section(e)) for e in range(10)]
    assert 0 in counts
    assert sum(counts) > 1
    assert all(pack.visits for _, pack in walk(stream, sum(counts)))


def test_packs_side_by_side_cost_the_same():
    frames = driving(900)
    mixture = [MixtureEntry(sizes=frames), MixtureEntry(sizes=general(len(frames.tokens) // 4))]
    cost = CostModel(token=1e10, tile=1.8e12, pair=6e5)
    stream = PackStream(mixture, FULL_SIZE, 32, 0, cost=cost)
    costs = stream.section(0).costs
    expected = [_cost(pack, mixture, cost) for _, pack in walk(stream, 50)]
    assert np.allclose(costs[:50], expected, rtol=1e-9)
    for ranks in (8, 64, 512):
        steps = costs[: len(costs) // ranks * ranks].reshape(-1, ranks)
        assert np.mean(steps.max(1) / steps.mean(1)) <= 1.02


def _cost(pack, mixture, cost):
    total = 0.0
    for visit in pack.visits:
        size = mixture[visit.dataset].sizes[visit.sample]
        segments = [size.question_tokens[q] for q in visit.questions]
        pairs = size.prefix_tokens**2 / 2 + sum(size.prefix_tokens * n + n**2 / 2 for n in segments)
        total += cost.token * (size.prefix_tokens + sum(segments)) + cost.tile * size.tiles + cost.pair * pairs
    return total


def test_flops_of_a_full_size_model_fit_the_cost_of_a_visit():
    counts = [np.array([n], np.int32) for n in (3380, 2400, 190_000, 13)]
    flops = CostModel(token=9_670_000_000, tile=2_190_106_460_160, pair=589_824)
    expected = 9_670_000_000 * 5780 + 2_190_106_460_160 * 13 + 589_824 * (3380**2 / 2 + 3380 * 2400 + 95_000)
    assert flops.visits(*counts)[0] == pytest.approx(expected, rel=1e-12)


def test_a_vision_job_shows_each_sample_once_within_the_tile_limit():
    sizes = [SampleSize(prefix_tokens=0, question_tokens=(), tiles=n) for n in (3, 4, 10, 1, 11, 0, 2, 2, 5)]
    mixture = [MixtureEntry(sizes=SizeTable.of(sizes))]
    packs = plan_epoch(mixture, limits=PackLimits(max_tokens=1, max_tiles=10), questions_per_visit=1, seed=0, epoch=0)
    assert sorted(v.sample for pack in packs for v in pack.visits) == [0, 1, 2, 3, 6, 7, 8]
    assert max(load(pack, mixture)[1] for pack in packs) <= 10
    assert oversized(mixture, PackLimits(max_tokens=1, max_tiles=10)) == [(0, 4, -1, 0)]


def test_a_frame_without_question_is_left_out_beside_frames_with_some():
    silent = SampleSize(prefix_tokens=10, question_tokens=(), tiles=2)
    packs = plan([MixtureEntry(sizes=SizeTable.of([silent, *small(5), silent]))])
    assert {v.sample for pack in packs for v in pack.visits} == {1, 2, 3, 4, 5}


def test_wrong_settings_are_all_named_at_once():
    mixture = [MixtureEntry(sizes=small(2)), MixtureEntry(sizes=small(2), weight=-1.0)]
    with pytest.raises(PlanError, match=r"weight of dataset 1: got -1.0; max_tiles: got 0; questions_per_visit: got 0"):
        plan(mixture, limits=PackLimits(max_tokens=10, max_tiles=0), k=0)
    with pytest.raises(PlanError, match="got no dataset"):
        plan([])


def test_limits_that_hold_no_sample_at_all_are_refused():
    with pytest.raises(PlanError, match="got 5 samples, none of which fits 12 tokens and 10 tiles"):
        plan([MixtureEntry(sizes=small(5))], limits=PackLimits(max_tokens=12, max_tiles=10))
