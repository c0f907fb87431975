from dataclasses import replace

import numpy as np
import pytest

from data_shards.chat import TokenSegments
from data_shards.pack import IGNORED, PackError, PackPart, PartMeta, build_pack, filler_pack

SIDE = 4


def part(rng, prefix, lengths, tiles, key="k", dataset="d"):
    """A frame of random token ids; each segment's answer starts at a random place."""
    segments = tuple(rng.integers(10, 1000, size=n).astype(np.int32) for n in lengths)
    tokens = TokenSegments(
        prefix=rng.integers(10, 1000, size=prefix).astype(np.int32),
        segments=segments,
        label_spans=tuple(((int(rng.integers(1, n)), n),) for n in lengths),
    )
    meta = PartMeta(
        key=key,
        dataset=dataset,
        question_ids=tuple(range(3, 3 + len(lengths))),
        kinds=tuple("planning" if i % 2 else "general" for i in range(len(lengths))),
    )
    drawn = rng.integers(0, 256, size=(tiles, SIDE, SIDE, 3), dtype=np.uint8)
    return PackPart(tokens=tokens, tiles=drawn, meta=meta)


@pytest.fixture
def parts():
    rng = np.random.default_rng(0)
    return [
        part(rng, 5, [4, 7, 2], 3, "a", "drive"),
        part(rng, 1, [6], 0, "b", "talk"),
        part(rng, 9, [3, 3], 1, "c", "drive"),
    ]


def brute_force(parts):
    """Every token of a pack as a record, written one by one."""
    rows = []
    for group, tokens in enumerate(part.tokens for part in parts):
        for place, token in enumerate(tokens.prefix):
            rows.append({"id": token, "group": group, "segment": 0, "position": place, "question": None})
        for number, segment in enumerate(tokens.segments):
            for place, token in enumerate(segment):
                learnt = place >= tokens.label_spans[number][0][0]
                rows.append({
                    "id": token, "group": group, "segment": number + 1, "position": len(tokens.prefix) + place,
                    "question": (group, number) if learnt else None,
                })  # fmt: skip
    return rows


def brute_force_mask(rows):
    """Row i may look at row j: same frame, not later, and j in the prefix or in i's own segment."""
    mask = np.zeros((len(rows), len(rows)), bool)
    for i, query in enumerate(rows):
        for j, other in enumerate(rows[: i + 1]):
            mask[i, j] = query["group"] == other["group"] and other["segment"] in (0, query["segment"])
    return mask


def mask_of(pack):
    """The mask that groups and segment numbers of a pack describe."""
    mask = np.zeros((len(pack.input_ids),) * 2, bool)
    for start, end in pack.groups:
        own = pack.segment_ids[start:end]
        seen = (own[None, :] == 0) | (own[None, :] == own[:, None])
        mask[start:end, start:end] = seen & np.tri(end - start, dtype=bool)
    return mask


def test_tokens_positions_and_segments_equal_a_token_by_token_construction(parts):
    pack, rows = build_pack(parts), brute_force(parts)
    assert pack.input_ids.tolist() == [row["id"] for row in rows]
    assert pack.position_ids.tolist() == [row["position"] for row in rows]
    assert pack.segment_ids.tolist() == [row["segment"] for row in rows]
    assert pack.labels.tolist() == [row["id"] if row["question"] else IGNORED for row in rows]
    assert pack.groups == ((0, 18), (18, 25), (25, 40))


def test_the_mask_equals_a_token_by_token_construction(parts):
    assert (mask_of(build_pack(parts)) == brute_force_mask(brute_force(parts))).all()


def test_what_a_question_sees_is_its_own_conversation(parts):
    pack = build_pack(parts)
    mask = mask_of(pack)
    at = 0
    for tokens in (part.tokens for part in parts):
        at += len(tokens.prefix)
        for segment in tokens.segments:
            at += len(segment)
            seen = np.flatnonzero(mask[at - 1])
            assert pack.input_ids[seen].tolist() == [*tokens.prefix, *segment]
            assert pack.position_ids[seen].tolist() == list(range(len(tokens.prefix) + len(segment)))


def test_each_label_is_predicted_by_the_token_before_it_in_its_segment(parts):
    pack, rows = build_pack(parts), brute_force(parts)
    labelled = [i for i, row in enumerate(rows) if row["question"]]
    assert pack.label_positions.tolist() == [i - 1 for i in labelled]
    assert pack.label_targets.tolist() == [rows[i]["id"] for i in labelled]
    assert (pack.segment_ids[pack.label_positions] == pack.segment_ids[labelled]).all()
    assert (pack.position_ids[pack.label_positions] + 1 == pack.position_ids[labelled]).all()


def test_label_questions_name_key_number_kind_and_dataset(parts):
    pack, rows = build_pack(parts), brute_force(parts)
    questions = [row["question"] for row in rows if row["question"]]
    order = [(g, n) for g, one in enumerate(parts) for n in range(len(one.tokens.segments))]
    assert [order[i] for i in pack.label_questions] == questions
    assert pack.question_refs == (("a", 3), ("a", 4), ("a", 5), ("b", 3), ("c", 3), ("c", 4))
    assert pack.kinds == ("general", "planning", "general", "general", "general", "planning")
    assert pack.datasets == ("drive", "drive", "drive", "talk", "drive", "drive")
    assert pack.keys == ("a", "b", "c")


@pytest.mark.parametrize(
    ("name", "weight"), [("token", lambda n: 1.0), ("sample", lambda n: 1 / n), ("square", lambda n: n**-0.5)]
)
def test_label_weights_depend_on_the_answer_length_as_named(parts, name, weight):
    pack = build_pack(parts, loss_weight=name)
    counts = np.bincount(pack.label_questions)
    assert len(set(counts)) > 1
    expected = [weight(counts[q]) for q in pack.label_questions]
    np.testing.assert_allclose(pack.label_weights, expected, rtol=1e-6)
    assert pack.label_weights.dtype == np.float32


def test_tokens_that_write_a_point_weigh_the_factor_more_and_no_others(parts):
    points = [
        (((1, 3),), ((5, 7),), ()),
        (((2, 5),),),
        (),
    ]  # of the segments of each part; none were looked for in the last
    parts = [
        replace(one, tokens=replace(one.tokens, point_spans=spans)) for one, spans in zip(parts, points, strict=True)
    ]
    plain, heavy = (build_pack(parts, loss_weight="square", coordinate_weight=w) for w in (1.0, 3.0))
    begins = {(0, 0): 5, (0, 1): 9, (1, 0): 19}  # part and segment, to the place of its first token in the pack
    places = {
        begins[p, s] + i
        for p, row in enumerate(points)
        for s, spans in enumerate(row)
        for a, b in spans
        for i in range(a, b)
    }
    factor = np.where(np.isin(plain.label_positions + 1, list(places)), 3.0, 1.0)
    assert 0 < (factor == 3).sum() < len(factor)
    np.testing.assert_allclose(heavy.label_weights, factor * plain.label_weights, rtol=1e-6)
    assert heavy.label_targets.tolist() == plain.label_targets.tolist()


def test_tiles_stand_in_the_order_of_the_frames(parts):
    pack = build_pack(parts)
    assert (pack.tiles == np.concatenate([parts[0].tiles, parts[2].tiles])).all()
    assert not pack.dummy_tile


def test_a_pack_without_images_brings_one_tile_of_zeros():
    pack = build_pack([part(np.random.default_rng(1), 2, [5], 0)])
    assert pack.dummy_tile
    assert pack.tiles.shape == (1, SIDE, SIDE, 3)
    assert pack.tiles.dtype == np.uint8
    assert not pack.tiles.any()


def test_dtypes_are_those_promised(parts):
    pack = build_pack(parts)
    kinds = {
        n: getattr(pack, n).dtype for n in ("input_ids", "labels", "position_ids", "label_positions", "label_targets")
    }
    assert set(kinds.values()) == {np.dtype(np.int64)}
    assert (pack.segment_ids.dtype, pack.label_questions.dtype) == (np.int32, np.int32)


def test_a_pack_of_images_alone_has_no_tokens():
    empty = TokenSegments(prefix=np.zeros(0, np.int32), segments=(), label_spans=())
    tiles = np.ones((2, SIDE, SIDE, 3), np.uint8)
    pack = build_pack([PackPart(tokens=empty, tiles=tiles, meta=PartMeta(key=key, dataset="d")) for key in "ab"])
    assert (len(pack.input_ids), len(pack.label_targets), len(pack.tiles)) == (0, 0, 4)
    assert pack.keys == ("a", "b")


def test_packs_that_cannot_be_built_are_refused(parts):
    with pytest.raises(PackError, match="loss_weight: got 'mean', expected one of token, sample, square"):
        build_pack(parts, loss_weight="mean")
    with pytest.raises(PackError, match="expected frames with equal tiles"):
        build_pack([])
    with pytest.raises(PackError, match="expected frames with equal tiles"):
        build_pack([*parts, replace(parts[0], tiles=np.zeros((1, 8, 8, 3), np.uint8))])


def test_tiles_that_lie_in_a_row_are_not_copied(parts):
    row = np.concatenate([one.tiles for one in parts])
    pack = build_pack(parts, tiles=row)
    assert pack.tiles is row
    np.testing.assert_array_equal(pack.tiles, build_pack(parts).tiles)


@pytest.mark.parametrize("token", [None, 5])
def test_a_filler_has_a_dummy_tile_and_nothing_to_learn(token):
    pack = filler_pack(SIDE, token)
    assert pack.input_ids.tolist() == ([] if token is None else [token])
    assert pack.dummy_tile
    assert pack.tiles.shape == (1, SIDE, SIDE, 3)
    assert not pack.tiles.any()
    assert len(pack.label_targets) == len(pack.label_weights) == len(pack.keys) == len(pack.question_refs) == 0
    assert pack.groups == ((0, len(pack.input_ids)),)
