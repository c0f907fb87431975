"""Random packs: lengths like DriveLM's, filled up or not, reproducible."""

import pytest
import torch

from data_shards.cost import CostModel
from trainer.bench.packs import PackSettings, random_batches, useful_tokens


def batches(count=3, **changes):
    settings = {
        "max_tokens": 2048,
        "max_tiles": 39,
        "questions_per_visit": 8,
        "padded": False,
        "tile_size": 28,
        "tokens_per_tile": 4,
        "image_token": 90,
    }
    return random_batches(PackSettings(**settings | changes), CostModel(), count, seed=1)


def test_packs_keep_their_limits_and_hold_the_tokens_of_their_tiles():
    for batch in batches():
        assert 1024 < batch.meta.num_tokens <= 2048
        assert 0 < batch.meta.num_tiles <= 39
        assert int((batch.input_ids == 90).sum()) == 4 * batch.meta.num_tiles
        assert len(batch.label_targets) > batch.meta.num_questions
        assert useful_tokens(batch) == batch.meta.num_tokens
        assert torch.equal(batch.input_ids[batch.label_positions + 1], batch.label_targets)


def test_the_same_seed_gives_the_same_packs():
    for one, two in zip(batches(), batches(), strict=True):
        assert torch.equal(one.input_ids, two.input_ids)
        assert torch.equal(one.tiles, two.tiles)


def test_classic_packs_bring_the_images_of_every_question():
    for batch in batches(questions_per_visit=1):
        assert batch.meta.num_samples == batch.meta.num_questions > 0
        assert batch.meta.num_tiles == 13 * batch.meta.num_questions


def test_filled_up_conversations_are_equally_long_and_count_less():
    for batch in batches(questions_per_visit=1, padded=True):
        assert len({end - start for start, end in batch.groups}) == 1
        assert useful_tokens(batch) < batch.meta.num_tokens
        assert int((batch.label_targets == 0).sum()) == 0


def test_jobs_on_images_get_tiles_alone():
    for batch in batches(max_tokens=1, tokens_per_tile=0, questions_per_visit=1):
        assert batch.meta.num_tiles == 39
        assert batch.meta.num_tokens == len(batch.label_targets) == 0


def test_fewer_tiles_than_a_frame_are_possible():
    assert {batch.meta.num_tiles for batch in batches(max_tiles=5)} == {5}


def test_few_packs_ask_as_many_questions_as_the_plan_does_on_average():
    for general in (0.0, 0.25):
        few, many = (
            [batch.meta.num_questions for batch in batches(count, general=general, questions_per_visit=32)]
            for count in (8, 200)
        )
        assert sum(few) / 8 == pytest.approx(sum(many) / 200, rel=0.1)


def test_general_samples_come_beside_driving_frames():
    sizes = [end - start for batch in batches(12, general=0.5) for start, end in batch.groups]
    samples = [sample for batch in batches(12, general=0.5) for sample in batch.meta.keys]
    general = [key for key in samples if key.startswith("sample1_")]
    assert 0 < len(general) < len(samples)
    assert len(general) > len(samples) / 2, "one for two questions; a driving frame asks eight at a time"
    assert len(sizes) == len(samples)
    for batch in batches(12, general=0.5):
        assert int((batch.input_ids == 90).sum()) == 4 * batch.meta.num_tiles


def test_cached_targets_are_of_every_patch_of_every_tile():
    for batch in batches(max_tokens=1, tokens_per_tile=0, questions_per_visit=1, patches=4, entries=32, top_k=5):
        assert tuple(batch.targets.values.shape) == (39, 4, 6)
        assert tuple(batch.targets.indices.shape) == (39, 4, 5)
        indices = batch.targets.indices.long()
        assert int(indices.max()) < 32
        assert all(len(set(row)) == 5 for row in indices.flatten(0, 1).tolist())
        assert bool((batch.targets.values <= 0).all())


@pytest.mark.parametrize("count", [1, 5])
def test_as_many_packs_as_wanted(count):
    assert len(batches(count)) == count
