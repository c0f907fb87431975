"""Objects that answers name, by camera and by distance, against answers worked out by hand."""

from tests.unit.trainer.evaluate.test_centre_points import graded
from trainer.evaluate.named_objects import named_objects

REFERENCE = (
    "There is a red car to the front of the ego vehicle, a blue car to the front of the ego vehicle and a black bus to "
    "the back of the ego vehicle. The IDs of these objects are <c1,CAM_FRONT,100.0,100.0>, "
    "<c2,CAM_FRONT,500.0,100.0> and <c3,CAM_BACK,800.0,400.0>."
)
TAGS = ("<c1,CAM_FRONT,100.0,100.0>", "<c2,CAM_FRONT,500.0,100.0>", "<c3,CAM_BACK,800.0,400.0>")


def references(*distances):
    infos = {tag: {"Distance": metres} for tag, metres in zip(TAGS, distances, strict=False)}
    return {"s": {"key_frames": {"f": {"QA": {}, "key_object_infos": infos}}}}


def test_an_object_is_found_where_its_class_is_named_at_its_camera():
    answer = "There is a blue car to the front of the ego vehicle and a black bus to the front of the ego vehicle."
    result = named_objects([graded(answer, REFERENCE)], references(8.0, 12.0, 30.0))
    assert result["all"] == {"objects": 3, "found": 1 / 3, "with_colour": 1 / 3}
    assert result["by_camera"]["CAM_FRONT"] == {"objects": 2, "found": 0.5, "with_colour": 0.5}
    assert result["by_camera"]["CAM_BACK"] == {"objects": 1, "found": 0.0, "with_colour": 0.0}
    assert result["by_camera"]["CAM_BACK_LEFT"] == {"objects": 0, "found": None, "with_colour": None}
    assert {group: row["objects"] for group, row in result["by_distance"].items()} == {
        "0-10 m": 1,
        "10-15 m": 1,
        "30 m and more": 1,
    }
    assert result["by_distance"]["0-10 m"] == {"objects": 1, "found": 1.0, "with_colour": 0.0}
    assert result["by_distance"]["10-15 m"] == {"objects": 1, "found": 0.0, "with_colour": 1.0}


def test_the_reference_itself_names_everything_and_an_empty_answer_nothing():
    whole = named_objects([graded(REFERENCE, REFERENCE)], references(8.0, 12.0))
    assert whole["all"] == {"objects": 3, "found": 1.0, "with_colour": 1.0}
    assert set(whole["by_distance"]) == {"0-10 m", "10-15 m", "unknown"}
    assert named_objects([graded("", REFERENCE)], references())["all"]["found"] == 0.0


def test_other_questions_do_not_count():
    other = graded(REFERENCE, REFERENCE, index=3, tags=(3,))
    asked = type(other.question)(**{**vars(other.question), "question": "What objects should be noticed?"})
    result = named_objects([type(other)(question=asked, answer=other.answer, eligible=True)], references(8.0))
    assert result["all"] == {"objects": 0, "found": None, "with_colour": None}
