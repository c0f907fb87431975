import io
import json
import multiprocessing
import os
import signal
import time
from collections import Counter
from dataclasses import fields, replace
from itertools import islice

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from data_shards import frame_dataset
from data_shards.chat import internlm2_chat
from data_shards.collate import step_counts
from data_shards.frame_dataset import FrameDataset
from data_shards.index import load_index
from data_shards.lengths import sample_sizes
from data_shards.loader import FrameSource, LoaderError, PackLoader, TextSettings
from data_shards.mixture import PackLimits
from data_shards.plan import PackPlan, Visit
from data_shards.read import BadSample, read_frame
from data_shards.schema import CAMERAS, Question, RawFrame
from data_shards.storage import Unreachable
from data_shards.tiling import tile_images
from data_shards.view_layout import ViewLayout
from data_shards.write import write_shards
from tests.helpers.raw_tar import raw_dataset
from tests.helpers.streams import pack_stream, tile_stream
from tests.helpers.tokenizer import drivelm_sentences, tiny_tokenizer
from tests.helpers.waiting import wait_until

LAYOUT = ViewLayout(tile_size=28, max_tiles=2)
LIMITS = PackLimits(max_tokens=900, max_tiles=40)
TOKENS_PER_TILE = 4


def jpeg(rng, width, height):
    # compression blurs noise, but leaves each picture unlike the others
    pixels = rng.integers(0, 256, size=(height // 8, width // 8, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).resize((width, height)).save(out, "JPEG", quality=90)
    return out.getvalue()


def frames(count, *, images, seed, questions=9):
    rng = np.random.default_rng(seed)
    lines = drivelm_sentences()
    for i in range(count):
        picks = rng.integers(0, len(lines), size=(int(rng.integers(1, questions + 1)), 2)).tolist()
        yield RawFrame(
            key=f"scene{seed}_{i:03d}",
            scene=f"scene{seed}",
            frame=f"{i:03d}",
            source="test",
            images={name: jpeg(rng, 64, 36) for name in images},
            questions=tuple(Question(question=lines[q], answer=lines[a], kind="general") for q, a in picks),
        )


def source(folder, name, made):
    write_shards(made, folder / name, source=name, licence="none", samples_per_shard=4)
    return FrameSource(name=name, index=load_index(folder / name))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("loader")


@pytest.fixture(scope="module")
def text(folder):
    return TextSettings(
        tokenizer=tiny_tokenizer(folder),
        template=internlm2_chat(system="You drive."),
        tokens_per_tile=TOKENS_PER_TILE,
        loss_weight="square",
    )


@pytest.fixture(scope="module")
def sources(folder):
    return [
        source(folder, "driving", frames(10, images=CAMERAS, seed=1)),
        source(folder, "pictures", frames(6, images=("IMAGE_0",), seed=2, questions=2)),
        source(folder, "talk", frames(3, images=(), seed=3)),
    ]


@pytest.fixture(scope="module")
def stream(sources, text):
    return make_stream(sources, text)


def make_stream(sources, text, layout=LAYOUT):
    return pack_stream(sources, text=text, layout=layout, limits=LIMITS, questions_per_visit=4, seed=5)


def loader(sources, stream, text, **options):
    return PackLoader(sources, stream, **{"layout": LAYOUT, "text": text, **options})


def steps(made, count):
    iterator = iter(made)
    taken = list(islice(iterator, count))
    iterator.close()
    return taken


def content(batch):
    """All of a batch, bytes of its tensors included."""
    values = {f.name: getattr(batch, f.name) for f in fields(batch)}
    return {
        name: (value.dtype, value.shape, value.numpy().tobytes()) if isinstance(value, torch.Tensor) else value
        for name, value in values.items()
    }


def references(taken):
    return [batch.meta.question_refs for step in taken for batch in step]


def test_batches_are_identical_whatever_the_number_of_workers(sources, stream, text):
    several = [steps(loader(sources, stream, text, workers=n, accumulation=2), 6) for n in (0, 1, 2)]
    assert len({batch.meta.question_refs for step in several[0] for batch in step}) == 12
    expected = [[content(batch) for batch in step] for step in several[0]]
    for taken in several[1:]:
        assert [[content(batch) for batch in step] for step in taken] == expected


def test_a_step_has_as_many_batches_as_accumulation_says(sources, stream, text):
    assert [len(step) for step in steps(loader(sources, stream, text, accumulation=3), 4)] == [3, 3, 3, 3]


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_every_world_size_reads_the_same_global_sequence(sources, stream, text, world, accumulation):
    count = 24
    whole = references(steps(loader(sources, stream, text), count))
    ranks = [
        steps(
            loader(sources, stream, text, rank=r, world_size=world, accumulation=accumulation),
            count // world // accumulation,
        )
        for r in range(world)
    ]
    by_position = [
        ranks[r][s][a].meta.question_refs
        for s in range(count // world // accumulation)
        for a in range(accumulation)
        for r in range(world)
    ]
    assert by_position == whole


def test_resuming_with_other_world_sizes_gives_the_tail_of_the_uninterrupted_run(sources, stream, text):
    whole = references(steps(loader(sources, stream, text), 30))
    position, seen = 0, []
    for world, accumulation, count in ((1, 1, 3), (2, 2, 2), (3, 1, 2), (4, 1, 2)):
        made = [
            loader(sources, make_stream(sources, text), text, rank=r, world_size=world, accumulation=accumulation,
                   start_position=position)
            for r in range(world)
        ]  # fmt: skip
        ranks = [steps(one, count) for one in made]
        seen += [
            ranks[r][s][a].meta.question_refs for s in range(count) for a in range(accumulation) for r in range(world)
        ]
        assert len({one.position for one in made}) == 1
        position = made[0].position
    assert position == stream.advance(0, 25)
    assert len(seen) == 25
    assert seen == whole[:25]


def test_a_loader_iterated_again_goes_on_where_it_was(sources, stream, text):
    made = loader(sources, stream, text, workers=1)
    assert references(steps(made, 2) + steps(made, 3)) == references(steps(loader(sources, stream, text), 5))


def test_an_epoch_asks_every_question_of_every_dataset_once(sources, stream, text):
    count = stream.packs_an_epoch()
    asked = Counter(ref for batch in references(steps(loader(sources, stream, text), count)) for ref in batch)
    expected = {(entry.key, q) for one in sources for entry in one.index.samples for q in range(entry.num_questions)}
    assert asked == Counter(expected)


def test_a_batch_holds_the_planned_tokens_and_one_image_token_for_each_patch(sources, stream, text):
    image_token = text.tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")
    for step in steps(loader(sources, stream, text), stream.packs_an_epoch()):
        batch = step[0]
        assert batch.meta.num_tokens <= LIMITS.max_tokens
        assert batch.meta.num_tiles <= LIMITS.max_tiles
        assert (batch.input_ids == image_token).sum() == TOKENS_PER_TILE * batch.meta.num_tiles


def test_planned_sizes_are_those_of_the_batches(sources, stream, text):
    dataset = FrameDataset(sources, LAYOUT, text)
    entries = [
        sample_sizes(
            one.index,
            tokenizer=text.tokenizer,
            template=text.template,
            layout=LAYOUT,
            tokens_per_tile=TOKENS_PER_TILE,
        )
        for one in sources
    ]
    for i in range(stream.packs_an_epoch()):
        plan = stream.pack(i)
        sizes = [(entries[v.dataset][v.sample], v.questions) for v in plan.visits]
        meta = dataset[plan].meta
        assert meta.num_tokens == sum(s.prefix_tokens + sum(s.question_tokens[q] for q in qs) for s, qs in sizes)
        assert meta.num_tiles == sum(s.tiles for s, _ in sizes)


def test_tokens_of_a_batch_are_those_of_the_whole_conversations(sources, stream, text):
    checked = 0
    for (batch,) in steps(loader(sources, stream, text), 6):
        ref = iter(batch.meta.question_refs)
        for key, (start, end) in zip(batch.meta.keys, batch.groups, strict=True):
            frame = next(
                read_frame(one.index, i) for one in sources for i, e in enumerate(one.index.samples) if e.key == key
            )
            ids, numbers = batch.input_ids[start:end], batch.segment_ids[start:end]
            for number in range(1, int(numbers.max()) + 1):
                question = frame.questions[next(ref)[1]]
                # 64x36 pixels fill a 2x1 grid: two tiles and a thumbnail
                image = "<img>" + "<IMG_CONTEXT>" * 3 * TOKENS_PER_TILE + "</img>\n"
                views = "".join(f"{name}: {image}" if name in CAMERAS else image for name in frame.images)
                whole = (
                    "<s><|im_start|>system\nYou drive.<|im_end|><|im_start|>user\n"
                    f"{views}{question.question}<|im_end|><|im_start|>assistant\n{question.answer}<|im_end|>"
                )
                seen = ids[(numbers == 0) | (numbers == number)].tolist()
                assert seen == text.tokenizer(whole)["input_ids"]
                checked += 1
    assert checked > 10


def test_tiles_of_a_batch_are_those_of_its_frames_in_order(sources, stream, text):
    (batch,) = steps(loader(sources, stream, text), 1)[0]
    found = []
    for key in batch.meta.keys:
        frame = next(read_frame(s.index, i) for s in sources for i, e in enumerate(s.index.samples) if e.key == key)
        images = [np.asarray(Image.open(io.BytesIO(data))) for data in frame.images.values()]
        found.append(tile_images(images, LAYOUT))
    expected = np.concatenate(found)
    assert batch.tiles.shape == expected.shape
    assert np.abs(batch.tiles.numpy().astype(int) - expected).mean() < 2  # two JPEG decoders


def test_a_canvas_has_the_cameras_in_their_places_whatever_the_order_in_the_tar(folder, text):
    layout = replace(LAYOUT, mode="canvas", max_tiles=12, thumbnail=False, draw_camera_names=False)
    one = source(folder, "mixed-order", frames(1, images=CAMERAS[::-1], seed=7, questions=1))
    (batch,) = steps(loader([one], make_stream([one], text, layout), text, layout=layout), 1)[0]
    frame = read_frame(one.index, 0)
    front = np.asarray(Image.open(io.BytesIO(frame.images["CAM_FRONT"])).resize((56, 28)), dtype=int)
    assert batch.meta.num_tiles == 12
    seen = np.concatenate([batch.tiles[2].numpy(), batch.tiles[3].numpy()], axis=1)
    assert np.abs(seen - front).mean() < 3
    assert int((batch.input_ids == text.tokenizer.convert_tokens_to_ids("<img>")).sum()) == 1


def test_a_pack_of_text_alone_brings_one_dummy_tile(sources, text):
    talk = [sources[2]]
    for (batch,) in steps(loader(talk, make_stream(talk, text), text), 2):
        assert batch.dummy_tile
        assert tuple(batch.tiles.shape) == (1, 28, 28, 3)
        assert not batch.tiles.any()
        assert batch.meta.num_tiles == 0
        assert len(batch.label_targets) > 0


def test_a_step_knows_its_samples_questions_tokens_and_tiles(sources, stream, text):
    (step,) = steps(loader(sources, stream, text, accumulation=3), 1)
    counts = step_counts(step)
    assert counts.samples == sum(len(batch.groups) for batch in step)
    assert counts.questions == sum(len(batch.meta.kinds) for batch in step) > 3
    assert counts.tokens == sum(len(batch.input_ids) for batch in step)
    assert counts.tiles == sum(0 if batch.dummy_tile else len(batch.tiles) for batch in step) > 3
    assert {name for batch in step for name in batch.meta.datasets} <= {"driving", "pictures", "talk"}


def test_a_tile_loader_shows_each_frame_with_images_once_an_epoch(sources):
    stream = tile_stream(sources, layout=LAYOUT, max_tiles=40, seed=0)
    taken = steps(PackLoader(sources, stream, layout=LAYOUT, workers=2), stream.packs_an_epoch())
    keys = Counter(key for step in taken for batch in step for key in batch.meta.keys)
    assert keys == Counter(e.key for one in sources[:2] for e in one.index.samples)
    assert all(len(batch.tiles) <= 40 and len(batch.input_ids) == 0 for step in taken for batch in step)
    assert sum(batch.meta.num_tiles for step in taken for batch in step) == 10 * 18 + 6 * 3


@pytest.fixture
def damaged(tmp_path):
    """Two frames, the second with a JPEG cut in the middle."""
    good, bad = frames(2, images=CAMERAS, seed=11)
    images = dict(bad.images)
    images["CAM_BACK"] = images["CAM_BACK"][:-150]
    return source(tmp_path, "damaged", [good, replace(bad, images=images)])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_sample_is_left_out_and_named_and_its_pack_keeps_its_other_frames(damaged, text, workers):
    stream = make_stream([damaged], text)
    count = stream.packs_an_epoch()
    taken = [batch for step in steps(loader([damaged], stream, text, workers=workers), count) for batch in step]
    planned = Counter(damaged.index.samples[v.sample].key for i in range(count) for v in stream.pack(i).visits)
    assert Counter(key for batch in taken for key in batch.meta.keys) == Counter(scene11_000=planned["scene11_000"])
    bad = [record for batch in taken for record in batch.meta.bad]
    assert len(bad) == planned["scene11_001"] > 0
    for record in bad:
        assert (record.dataset, record.shard, record.key) == ("damaged", "shard-000000.tar", "scene11_001")
        assert "damaged or cut JPEG" in record.reason


def expected_without(sources, stream, text, keys, count):
    """Batches of the plan with the visits of some frames struck out, made in this process."""
    dataset = FrameDataset(sources, LAYOUT, text)
    for i in range(count):
        visits = tuple(v for v in stream.pack(i).visits if sources[v.dataset].index.samples[v.sample].key not in keys)
        yield dataset[PackPlan(visits=visits)]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_leaving_frames_out_changes_nothing_else(sources, stream, text, workers, monkeypatch):
    bad = {"scene1_003", "scene1_007", "scene2_001"}
    count = stream.packs_an_epoch()
    expected = [content(batch) for batch in expected_without(sources, stream, text, bad, count)]

    def read(index, position):
        entry = index.samples[position]
        if entry.key in bad:
            raise BadSample("made up", shard=entry.shard, offset=0, key=entry.key)
        return read_frame(index, position)

    monkeypatch.setattr(frame_dataset, "read_frame", read)
    taken = steps(loader(sources, stream, text, workers=workers, max_tiles=LIMITS.max_tiles), count)
    found = [content(replace(batch, meta=replace(batch.meta, bad=()))) for (batch,) in taken]
    assert found == expected
    assert {record.key for (batch,) in taken for record in batch.meta.bad} == bad


@pytest.mark.parametrize("with_text", [True, False])
def test_a_pack_that_loses_all_its_frames_becomes_a_filler(sources, text, with_text, monkeypatch):
    def read(index, position):
        raise BadSample("made up", shard="s.tar", offset=0, key=index.samples[position].key)

    monkeypatch.setattr(frame_dataset, "read_frame", read)
    stream = make_stream(sources, text) if with_text else tile_stream(sources, layout=LAYOUT, max_tiles=40, seed=0)
    ((batch,),) = steps(loader(sources, stream, text if with_text else None), 1)
    assert batch.dummy_tile
    assert tuple(batch.tiles.shape) == (1, 28, 28, 3)
    assert batch.meta.num_samples == batch.meta.num_tiles == len(batch.label_weights) == 0
    assert [record.key for record in batch.meta.bad] == [
        sources[v.dataset].index.samples[v.sample].key for v in stream.pack(0).visits
    ]
    if with_text:
        assert batch.input_ids.tolist() == [text.tokenizer.convert_tokens_to_ids("<s>")]


def one_bad(folder, text, members, layout=LAYOUT):
    """What the loader says of a frame with these members, which the index takes for good."""
    index = raw_dataset(folder, {"scene_0": members})
    dataset = FrameDataset([FrameSource(name="d", index=index)], layout, text)
    (record,) = dataset[PackPlan(visits=(Visit(dataset=0, sample=0, questions=(0,)),))].meta.bad
    return record.reason


def record_of(names):
    question = {"question": "a", "answer": "b", "type": "general", "tag": []}
    record = {"key": "scene_0", "scene": "scene", "frame": "0", "source": "t", "images": names, "key_object_infos": {}}
    return json.dumps({**record, "questions": [question]}).encode()


def test_every_kind_of_bad_sample_is_left_out_with_its_reason(tmp_path, text):
    rng = np.random.default_rng(0)
    good = jpeg(rng, 64, 36)
    bomb = good.replace(b"\xff\xc0\x00\x11\x08\x00\x24\x00\x40", b"\xff\xc0\x00\x11\x08\x4e\x20\x4e\x20")
    assert bomb != good
    six = [f"{name.lower()}.jpg" for name in CAMERAS]
    one = {"json": record_of(["IMAGE_0"])}
    cases = {
        "no JPEG header": {**one, "image_0.jpg": b"GIF89a"},
        "damaged or cut JPEG": {**one, "image_0.jpg": good[: len(good) // 2]},
        "20000x20000": {**one, "image_0.jpg": bomb},
        "field 'images'": {"json": record_of(list(CAMERAS)), **{suffix: good for suffix in six[:5]}},
        "got an unknown name": {**one, "image_0.jpg": good, "pyd": b"import os"},
        "does not parse": {"json": b"[" * 200_000},
    }
    for i, (expected, members) in enumerate(cases.items()):
        assert expected in one_bad(tmp_path / str(i), text, members)
    five = {"json": record_of(list(CAMERAS[:5])), **{suffix: good for suffix in six[:5]}}
    canvas = replace(LAYOUT, mode="canvas", max_tiles=12)
    assert "CAM_BACK_RIGHT missing" in one_bad(tmp_path / "five", text, five, canvas)


@pytest.mark.parametrize("max_tiles", [None, LIMITS.max_tiles, 3])
def test_tiles_are_the_same_whichever_memory_they_come_through(sources, stream, text, max_tiles):
    expected = [content(batch) for (batch,) in steps(loader(sources, stream, text), 8)]
    iterator = iter(loader(sources, stream, text, workers=2, prefetch=1, max_tiles=max_tiles))
    held = [next(iterator)[0] for _ in range(8)]  # more than there are slots: what is held is not written again
    assert [content(batch) for batch in held] == expected
    iterator.close()


def test_slots_are_used_again(sources, stream, text):
    places = set()
    for step, _ in zip(loader(sources, stream, text, workers=1, max_tiles=LIMITS.max_tiles), range(12), strict=False):
        places.add(step[0].tiles.data_ptr())
    assert len(places) <= 4


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_is_killed_is_named(sources, stream, text, workers, monkeypatch):
    parent = os.getpid()

    def killed(*arguments):
        assert os.getpid() != parent
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(frame_dataset, "read_frame", killed)
    keys = ", ".join(sources[v.dataset].index.samples[v.sample].key for v in stream.pack(9).visits)
    message = rf"rank 1: .*worker.*one of its {workers} data workers died.*pack 9 was awaited \(frames {keys}\).*memory"
    with pytest.raises(LoaderError, match=message):
        steps(loader(sources, stream, text, workers=workers, rank=1, world_size=2, start_position=8), 1)


def test_a_worker_killed_from_outside_is_named_where_its_batch_is_awaited(sources, stream, text):
    children = set(psutil.Process().children())
    iterator = iter(loader(sources, stream, text, workers=2, prefetch=1))
    next(iterator)
    handler = signal.getsignal(signal.SIGCHLD)
    workers = set(psutil.Process().children()) - children
    assert len(workers) == 2
    for worker in workers:
        worker.kill()
    while any(worker.status() != psutil.STATUS_ZOMBIE for worker in workers):
        time.sleep(0.01)  # not waited for: the loader does that
    assert not callable(handler) or "torch" not in handler.__module__  # nothing is raised but where a batch is awaited
    with pytest.raises(LoaderError, match=r"data workers died.*pack \d+ was awaited"):
        list(islice(iterator, 8))


def test_a_stuck_worker_is_named(sources, stream, text, monkeypatch):
    end = multiprocessing.get_context("fork").Event()
    monkeypatch.setattr(frame_dataset, "read_frame", lambda *arguments: end.wait())
    stuck = r"no batch for \d+\.\d seconds.*stuck while pack 0 was awaited"
    with pytest.raises(LoaderError, match=stuck) as caught:
        steps(loader(sources, stream, text, workers=1, timeout_s=0.3), 1)
    end.set()
    assert caught.value  # holds the loader until here: it waits for its workers to leave


@pytest.mark.parametrize("workers", [0, 1])
def test_a_store_that_does_not_answer_stops_the_loader_and_no_sample_is_to_blame(
    sources, stream, text, workers, monkeypatch
):
    def unreachable(*arguments):
        raise Unreachable("http://host/x.tar: connection refused; tried 9 times")

    monkeypatch.setattr(frame_dataset, "read_frame", unreachable)
    with pytest.raises(LoaderError, match=r"rank 0: pack 0: http://host/x\.tar: connection refused"):
        steps(loader(sources, stream, text, workers=workers), 1)


def test_workers_make_no_more_batches_ahead_than_they_are_told(sources, stream, text, tmp_path, monkeypatch):
    def counted(index, position):
        (tmp_path / f"{os.getpid()}-{time.monotonic_ns()}").touch()
        return read_frame(index, position)

    monkeypatch.setattr(frame_dataset, "read_frame", counted)
    iterator = iter(loader(sources, stream, text, workers=2, prefetch=2))
    next(iterator)
    made = sum(len(stream.pack(i).visits) for i in range(5))  # one taken, twice two made ahead
    wait_until(lambda: len(list(tmp_path.iterdir())) >= made)
    time.sleep(0.5)
    assert len(list(tmp_path.iterdir())) == made
    iterator.close()


def test_a_bug_in_a_worker_keeps_its_own_message(sources, stream, text, monkeypatch):
    def broken(*arguments):
        raise KeyError("own message")

    monkeypatch.setattr(frame_dataset, "read_frame", broken)
    with pytest.raises(KeyError, match="own message"):
        steps(loader(sources, stream, text, workers=1), 1)


def test_object_tags_that_do_not_parse_are_counted(folder, text):
    made = next(iter(frames(1, images=["IMAGE_0"], seed=91, questions=1)))
    wrong = Question(
        question="What of <c2,CAM_BACK,10.0>?",
        answer="As <c1,CAM_FRONT,800.0,450.0>.",
        kind="general",
        history=(("Is <c3,CAM_NONE,1.0,2.0> there?", "No, 3 < 4."),),
    )
    one = source(folder, "tags", [replace(made, questions=(wrong, *made.questions))])
    stream = make_stream([one], text)
    (batch,) = next(iter(loader([one], stream, text)))
    assert batch.meta.unparsed_tags == 2
    assert step_counts([batch, batch]).unparsed_tags == 4
