"""Which questions are asked, under which number, and their references as rows."""

from dataclasses import replace

import pytest

from data_shards.asked import question_order, reference_rows
from data_shards.schema import Question
from data_shards.sources.drivelm_select import SelectionError
from tests.helpers.frames import camera_frame


def frame(*questions):
    asked = tuple(Question(question=f"{kind}?", answer="Yes.", kind=kind, tags=tags) for kind, tags in questions)
    return replace(camera_frame("scene0", "frame0"), questions=asked)


def test_tagged_questions_come_in_drivelms_order_and_general_ones_behind():
    mixed = frame(("general", ()), ("planning", (1,)), ("perception", ()), ("perception", (0,)), ("general", ()))
    assert question_order(mixed) == [3, 1, 0, 4]


def test_rows_bear_the_ids_of_predictions_and_general_ones_their_source():
    rows = reference_rows([frame(("general", ()), ("planning", (1,)))])
    assert rows == [
        {"id": "scene0_frame0_0", "question": "planning?", "answer": "Yes.", "type": "planning", "scene": "scene0"},
        {"id": "scene0_frame0_1", "question": "general?", "answer": "Yes.", "type": "test", "scene": "scene0"},
    ]


def test_frames_that_ask_nothing_are_refused():
    with pytest.raises(SelectionError, match="expected at least one"):
        reference_rows([frame(("perception", ()))])
