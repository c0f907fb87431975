"""Weights from fractions, and samples that are left out of the mixture before the first step."""

import shutil
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace

import pytest
import torch

from data_shards import lengths
from data_shards.entries import ShardError
from data_shards.index import load_index
from data_shards.quarantine import BadRecord
from data_shards.read import read_frame
from data_shards.schema import Question
from data_shards.token_fractions import shares
from data_shards.write import write_shards
from tests.helpers.dist import on_ranks
from tests.helpers.stages import TILE, driving_frames, make_world, write_recipe
from trainer.config import load_recipe
from trainer.data import make_data
from trainer.mixture import check_same, make_mixture
from trainer.stages import make_stage


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"), frames=8)


def made(world, stage, datasets, **data):
    changes = {"data": {"datasets": datasets, "max_tokens": 2000, **data}}
    models = {"model": {"vision": "tiny-student"}} if stage == "align" else {}
    recipe, _ = load_recipe(write_recipe(world, stage, world / f"run-{stage}", **changes, **models))
    return recipe, make_stage(recipe, torch.float32, loaded=False).text


@pytest.mark.parametrize("stage", ["align", "distill"])
def test_fractions_of_a_recipe_are_those_of_the_batches(world, stage):
    datasets = [{"path": str(world / "driving"), "fraction": 4}, {"path": str(world / "general"), "fraction": 1}]
    recipe, text = made(world, stage, datasets)
    data = make_data(recipe, text, None)
    assert shares(data.stream) == pytest.approx([0.8, 0.2], abs=0.1)  # a frame more or less
    assert max(data.stream.weights) == 1.0
    kind = "tiles" if text is None else "tokens"
    assert any(f"% of the {kind}" in line for line in data.summary(1))
    count = 12 * data.stream.packs_an_epoch()
    amounts = {"driving": 0, "general": 0}
    for pack in islice(data.loader(_Alone(), 0), count):
        for key, (start, end) in zip(pack[0].meta.keys, pack[0].groups, strict=True):
            name = "driving" if key.startswith("s") else "general"
            amounts[name] += end - start if text else 6 * 2 + 1 if name == "driving" else 1
    assert amounts["driving"] / amounts["general"] == pytest.approx(4.0, rel=0.15)


def test_four_tokens_of_driving_for_each_general_one_are_the_default(world):
    paths = [{"path": str(world / "driving")}, {"path": str(world / "general")}]
    data = make_data(*made(world, "align", paths), None)
    assert shares(data.stream) == pytest.approx([0.8, 0.2], abs=0.1)
    assert any("80% driving and 20% general tokens, the default" in line for line in data.summary(1))
    for said in ([paths[0], paths[1] | {"weight": 1}], paths[:1], paths[1:]):
        data = make_data(*made(world, "align", said), None)
        assert data.stream.weights == (1.0,) * len(said)
        assert not any("default" in line for line in data.summary(1))
    assert make_data(*made(world, "distill", paths), None).stream.weights == (1.0, 1.0)


class _Alone:
    """Stands for `Ranks` of a world of one."""

    rank, world_size = 0, 1

    def device(self):
        return torch.device("cpu")


@pytest.fixture
def damaged(tmp_path):
    """Five frames: one with a broken record under a sound index, one with a question that is too long."""
    frames = driving_frames(5, seed=4)
    long = Question(question="yes no " * 400, answer="yes", kind="planning")
    frames[3] = replace(frames[3], questions=(*frames[3].questions, long))
    write_shards(frames, tmp_path / "data", source="test", licence="none")
    index = load_index(tmp_path / "data")
    tar = tmp_path / "data" / "shard-000000.tar"
    content = bytearray(tar.read_bytes())
    content[index.samples[1].members["json"].offset] ^= 1
    tar.write_bytes(content)
    return tmp_path / "data"


def test_what_cannot_be_shown_is_left_out_by_name_before_the_first_step(world, damaged):
    recipe, text = made(world, "align", [{"path": str(damaged), "name": "d"}], max_tokens=700)
    data = make_data(recipe, text, None)
    broken, oversized = data.mixture.bad
    assert (broken.dataset, broken.shard, broken.key) == ("d", "shard-000000.tar", "s001_1")
    assert "sha256" in broken.reason
    assert (oversized.dataset, oversized.key) == ("d", "s003_3")
    assert "expected at most 700 and 26; raise data.max_tokens" in oversized.reason
    long = load_index(damaged).samples[3].num_questions - 1
    assert oversized.reason.startswith(f"questions {long}: got")
    asked = set()
    for (batch,) in islice(data.loader(_Alone(), 0), data.stream.packs_an_epoch()):
        assert batch.meta.bad == ()
        asked |= set(batch.meta.question_refs)
    counts = {entry.key: entry.num_questions for entry in load_index(damaged).samples}
    expected = {(key, q) for key, count in counts.items() for q in range(count)}
    assert asked == {ref for ref in expected if ref[0] != "s001_1" and ref != ("s003_3", long)}


def test_a_frame_that_fits_no_pack_is_named_with_the_range_of_its_questions(world, damaged):
    recipe, text = made(world, "align", [{"path": str(damaged), "name": "d"}], max_tokens=20)
    reasons = {record.key: record.reason for record in make_mixture(recipe, text).bad}
    last = load_index(damaged).samples[0].num_questions - 1
    assert last > 1
    assert reasons["s000_0"].startswith(f"questions 0 to {last}: got up to ")


def test_ranks_count_a_share_of_the_shards_each(world, tmp_path, monkeypatch):
    write_shards(driving_frames(5, seed=4), tmp_path / "data", source="test", licence="none", samples_per_shard=2)
    recipe, text = made(world, "align", [{"path": str(tmp_path / "data")}])
    read = []

    def counted(index, position, **others):
        read.append(position)
        return read_frame(index, position, **others)

    monkeypatch.setattr(lengths, "read_frame", counted)
    at_last = SimpleNamespace(rank=1, world_size=2, main_first=lambda act: act())
    mixture = make_mixture(recipe, text, at_last)
    assert read == [2, 3, 0, 1, 4]  # its own share, and then what it does not find counted
    assert len(mixture.entries[0].sizes.tokens) > 5


def _two_ranks(ranks, path):
    recipe, _ = load_recipe(path)
    text = make_stage(recipe, torch.float32, loaded=False).text
    data = make_data(recipe, text, ranks)
    assert [record.key for record in data.mixture.bad] == ["s001_1", "s003_3"]
    records = ranks.gather(data.mixture.record())
    assert records[0]
    assert records[0] == records[1]
    other = make_mixture(replace(recipe, data=replace(recipe.data, max_tokens=10_000)), text)
    assert [record.key for record in other.bad] == ["s001_1"]
    sizes = other.entries[0].sizes
    changed = replace(sizes, tokens=sizes.tokens + ranks.rank)
    differs = replace(other, entries=[replace(other.entries[0], sizes=changed)])
    with pytest.raises(ShardError, match="ranks 1 read other samples or lengths than rank 0"):
        check_same(differs, ranks)


@pytest.mark.distributed
def test_ranks_leave_out_the_same_and_refuse_to_follow_different_plans(world, damaged, tmp_path):
    recipe = write_recipe(
        world, "align", tmp_path / "run", data={"datasets": [{"path": str(damaged)}]}, model={"vision": "tiny-student"}
    )
    on_ranks(_two_ranks, recipe)


def test_data_are_known_by_shards_and_lengths_wherever_they_lie(world, tmp_path):
    def recorded(path, **changes):
        recipe, text = made(world, "align", [{"path": str(path), "name": "d"}], **changes)
        (record,) = make_mixture(recipe, text).record().values()
        assert record["from"] == str(path)
        return record["sha256"]

    copy = shutil.copytree(world / "driving", tmp_path / "copy")
    write_shards(driving_frames(8, seed=2), tmp_path / "other", source="test", licence="none")
    known = recorded(world / "driving")
    assert recorded(copy) == known
    assert recorded(tmp_path / "other") != known
    view = {"tile_size": TILE, "mode": "views", "max_tiles": 1, "thumbnail": False}
    assert recorded(world / "driving", view=view) != known


def test_a_record_is_of_its_dataset(world, damaged):
    recipe, text = made(world, "align", [{"path": str(damaged), "name": "d"}])
    assert all(isinstance(record, BadRecord) and record.offset > 0 for record in make_mixture(recipe, text).bad)
