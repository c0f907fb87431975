"""Shards behind a server that drops a fifth of its connections: every sample arrives, in the same order."""

from itertools import islice

import torch

from data_shards.chat import internlm2_chat
from data_shards.loader import FrameSource, PackLoader, TextSettings
from data_shards.mixture import PackLimits
from data_shards.remote import CacheSettings, open_dataset
from data_shards.retry import Retry
from data_shards.view_layout import ViewLayout
from tests.helpers.frames import camera_frames, write_dataset
from tests.helpers.shaky_server import shaky_server
from tests.helpers.streams import pack_stream
from tests.helpers.tokenizer import tiny_tokenizer

LAYOUT = ViewLayout(tile_size=28, max_tiles=2)
RETRY = Retry(attempts=15, first_wait=0.001, longest_wait=0.01)


def test_all_samples_arrive_though_a_fifth_of_the_connections_drops(tmp_path):
    frames = camera_frames(num_scenes=10, frames_per_scene=4)
    local = write_dataset(tmp_path / "data", frames, samples_per_shard=8)
    text = TextSettings(tokenizer=tiny_tokenizer(tmp_path), template=internlm2_chat(), tokens_per_tile=4)

    def epoch(index, workers):
        sources = [FrameSource(name="d", index=index)]
        limits = PackLimits(max_tokens=900, max_tiles=40)
        stream = pack_stream(sources, text=text, layout=LAYOUT, limits=limits, questions_per_visit=2, seed=1)
        made = iter(PackLoader(sources, stream, layout=LAYOUT, text=text, workers=workers, max_tiles=40))
        batches = [batch for (batch,) in islice(made, stream.packs_an_epoch())]
        made.close()
        return batches

    with shaky_server(tmp_path / "data", drop=0.2, seed=3) as server:
        cache = CacheSettings(directory=tmp_path / "cache", retry=RETRY)
        found = epoch(open_dataset(server.url, cache), workers=2)
        assert server.dropped >= 5
    expected = epoch(local, workers=0)
    assert not [record for batch in found for record in batch.meta.bad]
    assert {key for batch in found for key in batch.meta.keys} == {frame.key for frame in frames}
    assert [batch.meta for batch in found] == [batch.meta for batch in expected]
    assert all(torch.equal(a.tiles, b.tiles) for a, b in zip(found, expected, strict=True))


def test_lengths_counted_before_the_upload_are_not_counted_again(tmp_path):
    local = write_dataset(tmp_path / "data", camera_frames(num_scenes=3, frames_per_scene=4), samples_per_shard=4)
    text = TextSettings(tokenizer=tiny_tokenizer(tmp_path), template=internlm2_chat(), tokens_per_tile=4)
    limits = PackLimits(max_tokens=900, max_tiles=40)

    def plan(index):
        sources = [FrameSource(name="d", index=index)]
        return pack_stream(sources, text=text, layout=LAYOUT, limits=limits, questions_per_visit=2, seed=1)

    expected = plan(local)
    with shaky_server(tmp_path / "data", drop=0.0) as server:
        found = plan(open_dataset(server.url, CacheSettings(directory=tmp_path / "cache", retry=RETRY)))
        assert [path for path in server.requests if path.endswith(".tar")] == []
    assert [found.pack(i) for i in range(5)] == [expected.pack(i) for i in range(5)]


def test_neighbouring_frames_come_in_few_requests(tmp_path):
    frames = camera_frames(num_scenes=10, frames_per_scene=4)
    local = write_dataset(tmp_path / "data", frames, samples_per_shard=8)
    text = TextSettings(tokenizer=tiny_tokenizer(tmp_path), template=internlm2_chat(), tokens_per_tile=4)
    with shaky_server(tmp_path / "data", drop=0.0, seed=3) as server:
        cache = CacheSettings(directory=tmp_path / "cache", retry=RETRY)
        index = open_dataset(server.url, cache)
        sources = [FrameSource(name="d", index=index)]
        limits = PackLimits(max_tokens=900, max_tiles=40)
        stream = pack_stream(sources, text=text, layout=LAYOUT, limits=limits, questions_per_visit=2, seed=1)
        server.requests.clear()
        made = iter(PackLoader(sources, stream, layout=LAYOUT, text=text, max_tiles=40))
        keys = {key for (batch,) in islice(made, stream.packs_an_epoch()) for key in batch.meta.keys}
    assert keys == {entry.key for entry in local.samples}
    assert len(server.requests) == len(local.samples.parts) == 5
