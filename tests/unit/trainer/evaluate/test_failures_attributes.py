"""Class, colour and status of objects that were found, against the answer's words or the frame's object infos."""

from tests.unit.trainer.evaluate.test_failures_tags import graded
from trainer.evaluate.failures_attributes import attribute_errors
from trainer.evaluate.objects import OBJECT_QUESTION

ANSWER = (
    "There is a {} to the front of the ego vehicle, and a blue bus to the back of the ego vehicle. The IDs of these "
    "objects are <c1,CAM_FRONT,800.0,450.0>, and <c2,CAM_BACK,{}.0,20.0>."
)
STATUS = "What is the moving status of object <c1,CAM_FRONT,800.0,450.0>? Select: A. Stopped. B. Turn left."
NO_INFOS = {"s": {"key_frames": {"f": {}}}}


def errors(*rows, references=NO_INFOS):
    found = attribute_errors(rows, references)
    return {name: (row["checked"], row["wrong"]) for name, row in found.items()}


def test_class_and_colour_of_matched_objects_are_compared():
    row = graded(ANSWER.format("red truck", 10), ANSWER.format("black truck", 10), question=OBJECT_QUESTION)
    assert errors(row) == {"class": (2, 0), "colour": (2, 1), "status": (0, 0)}


def test_objects_that_were_not_found_have_no_attributes():
    row = graded(ANSWER.format("red truck", 900), ANSWER.format("red car", 10), question=OBJECT_QUESTION)
    assert errors(row) == {"class": (1, 1), "colour": (1, 0), "status": (0, 0)}


def test_object_infos_come_before_the_reference_answer():
    infos = {"<c1,CAM_FRONT,800.0,450.0>": {"Visual_description": "White-colored van."}}
    references = {"s": {"key_frames": {"f": {"key_object_infos": infos}}}}
    row = graded(ANSWER.format("white van", 10), ANSWER.format("red car", 10), question=OBJECT_QUESTION)
    assert errors(row, references=references) == {"class": (2, 0), "colour": (2, 0), "status": (0, 0)}


def test_a_status_is_compared_by_its_text():
    rows = [graded("A", "A", question=STATUS, index=1), graded("Turn left.", "A", question=STATUS, index=2)]
    assert errors(*rows)["status"] == (2, 1)
