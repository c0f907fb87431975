"""The record of a frame: round trip, and refusal of everything else."""

import json
from dataclasses import replace

import pytest

from data_shards.schema import (
    CAMERAS,
    Question,
    SchemaError,
    check_frame,
    frame_from_json,
    frame_to_json,
    image_name,
    member_suffix,
)
from tests.helpers.frames import camera_frame


def test_a_frame_survives_the_round_trip():
    frame = camera_frame("scene0", "frame0")
    assert frame_from_json(frame_to_json(frame), frame.images) == frame


def test_earlier_turns_survive_the_round_trip_and_leave_plain_questions_as_they_were():
    frame = camera_frame("scene0", "frame0")
    later = replace(frame.questions[0], history=(("What?", "A größer car."), ("Why?", "")))
    talk = replace(frame, questions=(later, frame.questions[1]))
    assert frame_from_json(frame_to_json(talk), talk.images) == talk
    assert b"history" not in frame_to_json(frame)
    assert frame_to_json(talk).count(b"history") == 1


def test_image_order_is_that_of_the_record_not_of_the_members():
    frame = camera_frame("scene0", "frame0")
    shuffled = {name: frame.images[name] for name in sorted(frame.images)}
    assert list(shuffled) != list(CAMERAS)
    assert list(frame_from_json(frame_to_json(frame), shuffled).images) == list(CAMERAS)


@pytest.mark.parametrize("name", [*CAMERAS, "IMAGE_0", "IMAGE_17"])
def test_image_names_and_member_suffixes_are_inverse(name):
    assert image_name(member_suffix(name)) == name


@pytest.mark.parametrize(
    "suffix", ["json", "cam_front.png", "CAM_FRONT.jpg", "cam_front.jpg.jpg", "image_01.jpg", "pyd", ""]
)
def test_other_member_names_are_no_images(suffix):
    assert image_name(suffix) is None


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"images": ["CAM_FRONT"]}, "images"),
        ({"images": [1]}, "images"),
        ({"questions": [{"question": "?", "answer": "!", "type": "gossip", "tag": []}]}, "gossip"),
        ({"questions": [{"question": "?", "answer": None, "type": "general", "tag": []}]}, "answer"),
        ({"questions": [{"question": "?", "answer": "!", "type": "general", "tag": [True]}]}, "tag"),
        ({"questions": ["?"]}, "question 0"),
        *(
            ({"questions": [{"question": "?", "answer": "!", "type": "general", "tag": [], "history": h}]}, "history")
            for h in ("x", [["a"]], [["a", 1]], ["ab"], None)
        ),
        ({"questions": [{"question": "\ud83d", "answer": "!", "type": "general", "tag": []}]}, "surrogate"),
        (
            {
                "questions": [
                    {"question": "?", "answer": "!", "type": "general", "tag": [], "history": [["", "\ude97"]]}
                ]
            },
            "history",
        ),
        ({"scene": 3}, "scene"),
        ({"key_object_infos": {"<c1>": 1}}, "<c1>"),
    ],
)
def test_a_malformed_record_is_refused_by_field(change, text):
    frame = camera_frame("scene0", "frame0")
    record = {**json.loads(frame_to_json(frame)), **change}
    with pytest.raises(SchemaError, match=text):
        frame_from_json(json.dumps(record).encode(), frame.images)


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"\xff\xfe", b"null", b"[" * 100_000])
def test_text_that_is_no_record_is_refused(text):
    with pytest.raises(SchemaError):
        frame_from_json(text, {})


@pytest.mark.parametrize(
    "change",
    [
        {"key": "scene0_frame1"},
        {"key": "a.b_frame0", "scene": "a.b"},
        {"key": "../x_frame0", "scene": "../x"},
        {"key": f"{'s' * 80}_frame0", "scene": "s" * 80},
        {"images": {"CAM_TOP": b""}},
        {"images": {"cam_front": b""}},
        {"questions": (Question(question="?", answer="!", kind="gossip"),)},
        {"questions": (Question(question="?", answer="!", kind="behavior", tags=(4,)),)},
    ],
)
def test_a_frame_that_no_reader_would_accept_is_not_written(change):
    frame = camera_frame("scene0", "frame0")
    check_frame(frame)
    with pytest.raises(SchemaError):
        check_frame(replace(frame, **change))
