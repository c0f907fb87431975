"""DriveLM conversion against the published sample: questions, selection, options, references, splits."""

import json
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from data_shards.schema import CAMERAS, Question, RawFrame, SchemaError
from data_shards.sources.drivelm import (
    SelectionError,
    SourceError,
    drivelm_frames,
    multiple_choice,
    references_json,
    select_test_form,
    select_test_questions,
    split_by_scene,
    tagged_questions,
)
from data_shards.sources.multiple_choice import BEHAVIOURS, MOTIONS
from tests.helpers.frames import jpeg, noise
from tests.helpers.paths import DRIVELM_SAMPLE, needs_drivelm_sample

KINDS = ("perception", "prediction", "planning", "behavior")
OPTIONS = re.compile(
    r"^(.*) Please select the correct answer from the following options: A\. (.*) B\. (.*) C\. (.*) D\. (.*)$"
)


def sample_json(name):
    return json.loads((DRIVELM_SAMPLE / "annotations" / name).read_text())


def sample_frames(name="train_sample.json", **options):
    return list(drivelm_frames(DRIVELM_SAMPLE / "annotations" / name, DRIVELM_SAMPLE, **options))


def listed(published, frame):
    """The published questions of a frame as (kind, question, answer, tags), in file order."""
    questions = published[frame.scene]["key_frames"][frame.frame]["QA"]
    return [(kind, q["Q"], q["A"], tuple(q.get("tag", ()))) for kind in KINDS for q in questions[kind]]


def plain(questions):
    return [(q.kind, q.question, q.answer, q.tags) for q in questions]


def make_frame(*questions, objects=("<c1,CAM_BACK,1.0,2.0>",)):
    return RawFrame(
        key="s_f",
        scene="s",
        frame="f",
        source="test",
        images={},
        questions=tuple(Question(kind=kind, question=q, answer=a) for kind, q, a in questions),
        objects={tag: {"Visual_description": "White sedan."} for tag in objects},
    )


@needs_drivelm_sample
def test_raw_form_holds_every_published_question_and_image():
    published, rows = sample_json("train_sample.json"), json.loads((DRIVELM_SAMPLE / "frames.json").read_text())
    frames = sample_frames()
    assert len(frames) == 7
    assert sum(len(frame.questions) for frame in frames) == 619
    for frame, row in zip(frames, rows, strict=True):
        assert (frame.scene, frame.frame, frame.key) == (row["scene"], row["frame"], f"{row['scene']}_{row['frame']}")
        assert plain(frame.questions) == listed(published, frame)
        assert list(frame.images) == list(CAMERAS)
        for camera, data in frame.images.items():
            assert data == (DRIVELM_SAMPLE / row["images"][camera]).read_bytes()
        assert frame.objects == published[frame.scene]["key_frames"][frame.frame]["key_object_infos"]


@needs_drivelm_sample
def test_selection_is_that_of_the_published_test_file():
    published = sample_json("test.json")
    selected = {frame.key: select_test_questions(frame) for frame in sample_frames()}
    assert sum(map(len, selected.values())) == 51
    for frame in sample_frames():
        assert plain(selected[frame.key]) == listed(published, frame)


@needs_drivelm_sample
def test_multiple_choice_is_that_of_the_published_file_up_to_its_unseeded_draw():
    published = sample_json("test_eval.json")
    compared = Counter()
    for frame, raw in zip(sample_frames(form="test"), sample_frames(), strict=True):
        for ours, theirs, chosen in zip(
            plain(frame.questions), listed(published, frame), select_test_questions(raw), strict=True
        ):
            mine, other = OPTIONS.match(ours[1]), OPTIONS.match(theirs[1])
            assert (mine is None) == (other is None)
            compared[mine is not None] += 1
            if mine is None:
                assert ours == theirs
                continue
            assert (ours[0], ours[3], mine[1]) == (theirs[0], theirs[3], other[1])
            for match, answer in ((mine, ours[2]), (other, theirs[2])):
                assert match["ABCD".index(answer) + 2] == chosen.answer
                pool = BEHAVIOURS if chosen.kind == "behavior" else MOTIONS
                assert set(match.groups()[1:]) <= set(pool)
                assert len(set(match.groups()[1:])) == 4
    assert compared == {True: 13, False: 38}


@needs_drivelm_sample
def test_both_forms_together_hold_all_raw_questions_and_the_test_form():
    for both, raw, test in zip(
        sample_frames(form="both"), sample_frames(form="raw"), sample_frames(form="test"), strict=True
    ):
        assert tagged_questions(both) == test.questions
        untagged = Counter((q.kind, q.question, q.answer) for q in both.questions)
        assert not Counter((q.kind, q.question, q.answer) for q in raw.questions) - untagged
        options = sum(1 for q in test.questions if OPTIONS.match(q.question))
        assert len(both.questions) == len(raw.questions) + options


@needs_drivelm_sample
def test_options_depend_on_the_seed_and_the_frame_alone():
    def frames(**options):
        return {f.key: f.questions for f in sample_frames(form="test", **options)}

    whole = frames(seed=3)
    scene = next(iter(whole)).split("_")[0]
    part = frames(seed=3, scenes=[scene])
    assert 0 < len(part) < len(whole)
    assert part.items() <= whole.items()
    assert frames(seed=4) != whole


@needs_drivelm_sample
def test_the_published_test_form_is_read_with_its_own_tags_and_options():
    published = sample_json("test_eval.json")
    for form in ("raw", "test", "both"):
        for frame in sample_frames("test_eval.json", form=form):
            assert plain(frame.questions) == listed(published, frame)


@needs_drivelm_sample
def test_references_are_those_of_the_published_test_file():
    published = sample_json("test_eval.json")
    ours = references_json(sample_frames("test_eval.json", form="test"))
    assert list(ours) == list(published)
    for scene, record in ours.items():
        for frame, key_frame in record["key_frames"].items():
            theirs = published[scene]["key_frames"][frame]["QA"]
            assert key_frame["QA"] == {
                kind: [{name: q[name] for name in ("Q", "A", "tag")} for q in theirs[kind]] for kind in KINDS
            }
            assert key_frame["image_paths"]["CAM_FRONT"] == f"{scene}_{frame}.cam_front.jpg"


def test_references_of_frames_without_tags_are_refused():
    with pytest.raises(SelectionError, match="--form test"):
        references_json([make_frame(("perception", "Is it?", "Yes."))])


def test_the_first_answer_that_names_every_object_is_selected():
    frame = make_frame(
        ("perception", "Which?", "A black bus."),
        ("perception", "What?", "There is a WHITE sedan."),
        ("perception", "What again?", "There is a white sedan."),
    )
    assert [(q.question, q.tags) for q in select_test_questions(frame)] == [("What?", (2,))]


def test_no_matches_none_and_notice():
    frame = make_frame(("prediction", "Which?", "Maybe."), ("prediction", "What?", "None."), ("prediction", "?", "No."))
    assert [(q.question, q.tags) for q in select_test_questions(frame)] == [("What?", (0,))]


def test_a_prediction_right_for_two_tags_is_selected_once():
    frame = make_frame(("prediction", "First?", "Notice <c1,CAM_BACK,1.0,2.0>."), ("prediction", "Second?", "Yes."))
    assert [(q.question, q.tags) for q in select_test_questions(frame)] == [("First?", (3,)), ("Second?", (0,))]


def test_a_frame_without_key_objects_has_no_language_and_match_questions():
    frame = make_frame(("perception", "What?", "Nothing."), ("prediction", "Is it?", "Yes."), objects=())
    assert [q.tags for q in select_test_questions(frame)] == [(0,)]


def test_an_object_without_description_is_named():
    frame = replace(make_frame(), objects={"<c9,CAM_BACK,1.0,2.0>": {"Category": "Vehicle"}})
    with pytest.raises(SchemaError, match="<c9,CAM_BACK.*Visual_description"):
        select_test_questions(frame)


def test_selection_of_a_selected_frame_changes_nothing():
    frame = make_frame(
        ("perception", "What is the moving status of object <c1,CAM_BACK,1.0,2.0>?", "Stopped."),
        ("behavior", "Predict the behavior of the ego vehicle.", BEHAVIOURS[3]),
        ("general", "How many?", "Two."),
    )
    once = select_test_form(frame, np.random.default_rng(0))
    assert [q.tags for q in once.questions] == [(0,), (0,)]
    assert select_test_form(once, np.random.default_rng(1)) == once


def test_there_are_7_motions_and_21_behaviours():
    assert (len(set(MOTIONS)), len(set(BEHAVIOURS))) == (7, 21)


@pytest.mark.parametrize("pool", [MOTIONS, BEHAVIOURS])
def test_every_letter_and_every_distractor_is_drawn(pool):
    rng = np.random.default_rng(0)
    letters, distractors = Counter(), Counter()
    for _ in range(800):
        question, letter = multiple_choice("Q?", pool[1], rng)
        options = OPTIONS.match(question).groups()[1:]
        assert options["ABCD".index(letter)] == pool[1]
        assert len(set(options)) == 4
        letters[letter] += 1
        distractors.update(set(options) - {pool[1]})
    assert set(letters) == set("ABCD")
    assert min(letters.values()) > 150
    assert set(distractors) == set(pool) - {pool[1]}


def test_a_split_shares_no_scene_and_depends_on_the_seed():
    scenes = [f"scene{i}" for i in range(40)]
    train, val = split_by_scene(scenes, 0.25, seed=0)
    assert (len(train), len(val)) == (30, 10)
    assert sorted(train + val) == sorted(scenes)
    assert split_by_scene(scenes[::-1] * 3, 0.25, seed=0) == (train, val)
    assert split_by_scene(scenes, 0.25, seed=1) != (train, val)


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_a_split_leaves_no_side_empty(fraction):
    assert all(split_by_scene(["a", "b"], fraction, seed=0))


@pytest.mark.parametrize(("scenes", "fraction"), [(["a"], 0.5), (["a", "b"], 0.0), (["a", "b"], 1.0)])
def test_a_split_that_cannot_be_is_refused(scenes, fraction):
    with pytest.raises(SelectionError):
        split_by_scene(scenes, fraction, seed=0)


@pytest.fixture
def world(tmp_path):
    """Annotations of two one-frame scenes with images; returns the annotation file, the image root and the record."""
    record = {}
    for scene in ("s0", "s1"):
        paths = {}
        for i, camera in enumerate(sorted(CAMERAS)):
            path = tmp_path / "samples" / camera / f"{scene}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(jpeg(noise(np.random.default_rng(i), 32, 18)))
            paths[camera] = f"../nuscenes/samples/{camera}/{scene}.jpg"
        questions = {kind: [{"Q": "Is it?", "A": "Yes."}] for kind in KINDS}
        record[scene] = {"key_frames": {"f": {"QA": questions, "image_paths": paths, "key_object_infos": {}}}}
    annotations = tmp_path / "a.json"
    annotations.write_text(json.dumps(record))
    return annotations, tmp_path, record


def read(world, **options):
    annotations, root, record = world
    annotations.write_text(json.dumps(record))
    return list(drivelm_frames(annotations, root, **options))


def test_missing_images_are_listed_and_counted(world):
    root = world[1]
    for camera in ("CAM_BACK", "CAM_FRONT"):
        (root / "samples" / camera / "s1.jpg").unlink()
    with pytest.raises(SourceError, match=r"2 missing images in 1 of 2 frames.*--skip-missing(.|\n)*CAM_BACK/s1\.jpg"):
        read(world)
    assert [frame.scene for frame in read(world, skip_missing=True)] == ["s0"]


def test_frames_that_all_lack_images_are_refused_even_when_skipping(world):
    for path in (world[1] / "samples" / "CAM_BACK").iterdir():
        path.unlink()
    with pytest.raises(SourceError, match="correct --images"):
        read(world, skip_missing=True)


def test_a_file_that_is_no_jpeg_is_refused(world):
    (world[1] / "samples" / "CAM_BACK" / "s1.jpg").write_bytes(b"\x89PNG")
    with pytest.raises(SourceError, match=r"s1\.jpg.*expected a JPEG"):
        read(world)


@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd", "../nuscenes/../../x.jpg", 3])
def test_an_image_path_out_of_the_folder_is_refused(world, path):
    world[2]["s1"]["key_frames"]["f"]["image_paths"]["CAM_BACK"] = path
    with pytest.raises(SourceError, match=r"a\.json: s1: f: field 'image_paths'"):
        read(world)


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda frame: frame.pop("QA"), "'QA'"),
        (lambda frame: frame["QA"].pop("planning"), "'planning'"),
        (lambda frame: frame["QA"].update(planning={}), "'planning': got dict"),
        (lambda frame: frame["QA"]["planning"][0].pop("A"), "planning question 0: field 'A'"),
        (lambda frame: frame["QA"]["planning"][0].update(Q=None), "field 'Q': got None"),
        (lambda frame: frame["QA"]["planning"][0].update(tag="0"), "field 'tag'"),
        (lambda frame: frame["image_paths"].pop("CAM_BACK"), "'CAM_BACK'"),
        (lambda frame: frame.update(key_object_infos=[]), "key_object_infos"),
    ],
)
def test_malformed_annotations_are_named_by_scene_frame_and_field(world, spoil, text):
    spoil(world[2]["s1"]["key_frames"]["f"])
    with pytest.raises(SourceError, match=text) as caught:
        read(world)
    assert "s1: f" in str(caught.value)


def test_questions_without_answers_are_read_where_they_are_tagged(world):
    for scene in world[2].values():
        for questions in scene["key_frames"]["f"]["QA"].values():
            questions[0] = {"Q": "Is it?", "tag": [0]}
    assert {q.answer for frame in read(world, form="test") for q in frame.questions} == {""}


def test_an_unknown_scene_is_refused(world):
    with pytest.raises(SourceError, match=r"'s7'.*s0, s1"):
        read(world, scenes=["s0", "s7"])
