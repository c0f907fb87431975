"""Objects read from answers, and agreement of two lists of them."""

import pytest

from trainer.evaluate.objects import class_and_colour, described_objects, is_object_question, object_f1

REFERENCE = (
    "There is a white sedan car to the front of the ego vehicle, a blue SUV to the front right of the ego vehicle, "
    "and a no entry to the back of the ego vehicle. The IDs of these objects are <c1,CAM_FRONT,767.5,513.3>, "
    "<c2,CAM_FRONT_RIGHT,420.0,540.0>, and <c3,CAM_BACK,1.0,2.0>."
)
OBJECTS = [("CAM_FRONT", "car"), ("CAM_FRONT_RIGHT", "suv"), ("CAM_BACK", "no entry")]


def test_each_description_goes_with_the_tag_of_its_place():
    assert described_objects(REFERENCE) == OBJECTS


@pytest.mark.parametrize(
    ("answer", "objects"),
    [
        ("There is a champagne-colored sedan to the back of the ego vehicle.", [("CAM_BACK", "sedan")]),
        ("a green light to the front left of the ego vehicle", [("CAM_FRONT_LEFT", "light")]),
        ("There is a traffic cone to the the back right of ego car. <c1,CAM_BACK", [("CAM_BACK", "traffic cone")]),
        ("There is a 2nd-hand bus to the front of the ego vehicle <c1, CAM_FRONT, 1, 2>", [("CAM_FRONT", "bus")]),
        ("The IDs of these objects are <c1,CAM_FRONT,1.0,2.0>.", []),
        (" to the front of the ego vehicle", [("CAM_FRONT", "")]),
        ("There are no important objects.", []),
        ("", []),
    ],
)
def test_unusual_answers_are_read_as_far_as_they_go(answer, objects):
    assert described_objects(answer) == objects


def test_micro_counts_objects_and_macro_frames():
    one_right = "a red car to the front of the ego vehicle, a red bus to the front of the ego vehicle"
    result = object_f1([(REFERENCE, REFERENCE), (one_right, "a car to the front of the ego vehicle")])
    assert result.micro == pytest.approx(2 * 4 / (6 + 3))
    assert result.macro == pytest.approx((1 + 2 / 3) / 2)
    assert result.frames == 2


def test_objects_are_counted_as_often_as_they_are_named():
    twice = "a car to the front of the ego vehicle, a car to the front of the ego vehicle"
    assert object_f1([(twice, "a car to the front of the ego vehicle")]).micro == pytest.approx(2 / 3)


def test_frames_without_objects_agree_and_no_frames_give_zero():
    assert object_f1([("None.", "There are no important objects.")]).macro == 1.0
    assert object_f1([]).micro == object_f1([]).macro == 0.0


def test_only_the_question_for_important_objects_counts():
    assert is_object_question("What are the important objects in the current scene? Those objects will be considered.")
    assert not is_object_question("What is the moving status of object <c1,CAM_FRONT,1.0,2.0>?")


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [
        ("a champagne-colored sedan", ("sedan", "champagne")),
        ("a red and white traffic cone", ("traffic cone", "white")),
        ("a van", ("van", "")),
        ("a grey-coloured van", ("van", "gray")),
        ("a gray van", ("van", "gray")),
        ("", ("", "")),
    ],
)
def test_class_and_colour_are_read_from_a_phrase(phrase, expected):
    assert class_and_colour(phrase.split()) == expected
