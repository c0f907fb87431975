"""Teacher targets beside shards: what is written comes back, with the right frame, or the frame is left out."""

import json
from dataclasses import replace

import numpy as np
import pytest
import webdataset

from data_shards.dataset_file import read_dataset_file
from data_shards.entries import ShardError
from data_shards.frame_dataset import FrameDataset, FrameSource
from data_shards.index import load_index
from data_shards.plan import PackPlan, Visit
from data_shards.read import BadSample
from data_shards.remote import CacheSettings
from data_shards.retry import Retry
from data_shards.target_source import open_targets
from data_shards.teacher_targets import TargetsRecord, TileTargets
from data_shards.view_layout import ViewLayout
from data_shards.write_targets import TargetsJob, write_targets
from tests.helpers.frames import camera_frames, write_dataset
from tests.helpers.shaky_server import shaky_server

LAYOUT = ViewLayout(tile_size=28, max_tiles=1, thumbnail=False)
RECORD = TargetsRecord(
    teacher_sha256="t" * 64,
    codebook_sha256="c" * 64,
    preprocessing_sha256="p" * 64,
    temperature=1.0,
    codebook_temperature=0.1,
    entries=9,
    top_k=3,
    layers=2,
    patches=4,
    width=5,
    dtype="float32",
)


def teach(tiles: np.ndarray) -> TileTargets:
    """Targets that tell each tile from all others: its mean, in every place."""
    mean = tiles.reshape(len(tiles), -1).mean(axis=1)[:, None, None]
    return TileTargets(
        values=np.broadcast_to(mean, (len(tiles), 4, 4)).astype(np.float16),
        indices=np.broadcast_to(mean, (len(tiles), 4, 3)).astype(np.uint16),
        features=np.broadcast_to(mean[..., None], (len(tiles), 2, 5, 5)).astype(np.float16),
    )


def job(folder, part=(0, 1), record=RECORD) -> TargetsJob:
    data = load_index(folder / "data")
    return TargetsJob(index=data, out_dir=folder / "out", record=record, layout=LAYOUT, max_tiles=14, part=part)


def cache(tmp_path) -> CacheSettings:
    return CacheSettings(directory=tmp_path / "cache", retry=Retry(attempts=8, first_wait=0.001, longest_wait=0.002))


def sources(folder, tmp_path, location=None, *, features=True):
    data = load_index(folder / "data")
    return data, open_targets(location or folder / "out", cache(tmp_path), data, features=features)


def loaded(data, targets, sample: int):
    dataset = FrameDataset([FrameSource(name="d", index=data, targets=targets)], LAYOUT, None)
    return dataset[PackPlan(visits=(Visit(dataset=0, sample=sample, questions=()),))]


@pytest.fixture
def folder(tmp_path):
    write_dataset(tmp_path / "data", camera_frames(num_scenes=3, frames_per_scene=2), samples_per_shard=2)
    return tmp_path


def test_each_frame_of_a_batch_comes_with_its_own_targets(folder, tmp_path):
    assert write_targets(job(folder), teach, show_progress=False).missing == 0
    data, targets = sources(folder, tmp_path)
    dataset = FrameDataset([FrameSource(name="d", index=data, targets=targets)], LAYOUT, None)
    batch = dataset[PackPlan(visits=tuple(Visit(dataset=0, sample=i, questions=()) for i in (4, 0, 3)))]
    expected = teach(batch.tiles.numpy())
    assert len(batch.tiles) == 18
    assert len(np.unique(expected.values)) > 12
    assert np.array_equal(batch.targets.values.numpy(), expected.values)
    assert np.array_equal(batch.targets.indices.numpy(), expected.indices)
    assert np.array_equal(batch.targets.features.numpy(), expected.features)


def test_features_are_read_only_where_they_are_wanted(folder, tmp_path):
    write_targets(job(folder), teach, show_progress=False)
    assert loaded(*sources(folder, tmp_path, features=False), 0).targets.features is None
    thin = replace(job(folder, record=replace(RECORD, layers=0)), out_dir=folder / "thin")
    write_targets(thin, lambda tiles: replace(teach(tiles), features=None), show_progress=False)
    with pytest.raises(ShardError, match="holds no features"):
        sources(folder, tmp_path, folder / "thin")


def test_parts_in_any_order_and_after_a_stop_end_as_one_run_does(folder):
    write_targets(job(folder), teach, show_progress=False)
    whole = {path.name: path.read_bytes() for path in sorted((folder / "out").iterdir())}
    shown = []

    def stopping(tiles):
        shown.append(len(tiles))
        if len(shown) == 2:
            raise KeyboardInterrupt
        return teach(tiles)

    for path in (folder / "out").iterdir():
        path.unlink()
    with pytest.raises(KeyboardInterrupt):
        write_targets(job(folder), stopping, show_progress=False)
    assert read_dataset_file(folder / "out").complete is False
    with pytest.raises(ShardError, match="'complete'"):
        sources(folder, folder)
    for part, missing in ((1, 1), (0, 0)):
        assert write_targets(job(folder, (part, 2)), teach, show_progress=False).missing == missing
    assert {path.name: path.read_bytes() for path in sorted((folder / "out").iterdir())} == whole
    assert write_targets(job(folder), stopping, show_progress=False).num_frames == 0


def test_targets_made_otherwise_are_refused_with_both_values(folder):
    write_targets(job(folder), teach, show_progress=False)
    other = replace(RECORD, teacher_sha256="u" * 64, top_k=2)
    with pytest.raises(ShardError) as caught:
        write_targets(job(folder, record=other), teach, show_progress=False)
    assert f"teacher_sha256: got {'t' * 64}, expected {'u' * 64}; top_k: got 3, expected 2" in str(caught.value)


def test_a_directory_of_something_else_is_refused(folder, tmp_path):
    with pytest.raises(ShardError, match="not of teacher targets"):
        sources(folder, tmp_path, folder / "data")
    (folder / "out").mkdir()
    (folder / "out" / "letter.txt").write_text("dear")
    with pytest.raises(ShardError, match=r"holds 'letter\.txt'"):
        write_targets(job(folder), teach, show_progress=False)


def test_damage_costs_the_frames_it_touches_and_names_the_targets(folder, tmp_path):
    write_targets(job(folder), teach, show_progress=False)
    data, targets = sources(folder, tmp_path)
    span = targets.index.samples[2].members["values.npy"]
    tar = folder / "out" / "shard-000001.tar"
    content = bytearray(tar.read_bytes())
    content[span.offset + span.size - 1] ^= 4
    tar.write_bytes(content)
    batch = loaded(data, targets, 2)
    (bad,) = batch.meta.bad
    assert (bad.dataset, bad.key, bad.offset) == ("d", "scene1_frame0", span.offset)
    assert bad.reason.startswith("teacher targets: member 'values.npy': got sha256")
    assert batch.dummy_tile
    assert batch.targets.values.shape == (1, 4, 4)
    assert batch.targets.features.shape == (1, 2, 5, 5)
    assert not loaded(data, targets, 3).meta.bad


def test_targets_of_other_images_or_tiles_are_not_taken(folder, tmp_path):
    write_targets(job(folder), teach, show_progress=False)
    _, targets = sources(folder, tmp_path)
    frames = camera_frames(num_scenes=3, frames_per_scene=2)
    front = {**frames[1].images, "CAM_FRONT": frames[0].images["CAM_FRONT"]}
    data = write_dataset(tmp_path / "new", [frames[0], replace(frames[1], images=front), *frames[2:]])
    assert not loaded(data, targets, 0).meta.bad
    assert "made from other images" in loaded(data, targets, 1).meta.bad[0].reason
    with pytest.raises(BadSample, match="got targets of 6 tiles, expected 7"):
        targets.read(0, data.samples[0], 7)
    with pytest.raises(BadSample, match="got those of frame scene0_frame1"):
        targets.read(1, data.samples[0], 6)
    short = write_dataset(tmp_path / "short", frames[:4])
    with pytest.raises(ShardError, match=r"got targets of 6 frames in 3 shards, expected 4 in 2"):
        open_targets(folder / "out", cache(tmp_path), short, features=True)


def test_a_frame_that_cannot_be_shown_to_the_teacher_is_left_out_for_that_reason(folder, tmp_path):
    data = load_index(folder / "data")
    span = data.samples[0].members["cam_front.jpg"]
    tar = folder / "data" / "shard-000000.tar"
    content = tar.read_bytes()
    tar.write_bytes(content[: span.offset] + bytes(20) + content[span.offset + 20 :])
    done = write_targets(job(folder), teach, show_progress=False)
    assert len(done.reasons) == 1
    assert "frame scene0_frame0: member 'cam_front.jpg'" in done.reasons[0]
    tar.write_bytes(content)
    assert "teacher targets: there are none: when they were made, member" in str(
        loaded(*sources(folder, tmp_path), 0).meta.bad[0].reason
    )


def test_targets_are_read_over_http(folder, tmp_path):
    write_targets(job(folder), teach, show_progress=False)
    with shaky_server(folder / "out") as server:
        batch = loaded(*sources(folder, tmp_path, server.url), 5)
    assert np.array_equal(batch.targets.values.numpy(), teach(batch.tiles.numpy()).values)


def test_webdataset_reads_the_shards(folder):
    write_targets(job(folder), teach, show_progress=False)
    samples = list(webdataset.WebDataset(str(folder / "out" / "shard-000000.tar"), shardshuffle=False).decode())
    assert [sample["__key__"] for sample in samples] == ["scene0_frame0", "scene0_frame1"]
    assert samples[0]["values.npy"].shape == (6, 4, 4)
    assert samples[0]["json"]["tiles"] == 6


def test_the_record_says_what_the_shards_were_made_with(folder):
    write_targets(job(folder), teach, show_progress=False)
    build = json.loads((folder / "out" / "dataset.json").read_text())["build"]
    assert TargetsRecord.of_build(build) == RECORD
    assert TargetsRecord.of_build({"seed": 0}) is None
