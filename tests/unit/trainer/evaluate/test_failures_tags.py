"""Camera confusion, invented, left out and copied tags on small answers."""

from tests.unit.trainer.evaluate.test_failures_syntax import TAG
from trainer.evaluate.drivelm import GradedQuestion
from trainer.evaluate.failures_tags import camera_confusion, copied_tags, invented_and_left_out
from trainer.evaluate.submission import ReferenceQuestion


def graded(answer, reference, question="What?", index=0, tags=()):
    asked = ReferenceQuestion(
        id=f"s_f_{index}", scene="s", frame="f", index=index, kind="perception", question=question, answer=reference,
        tags=tags,
    )  # fmt: skip
    return GradedQuestion(question=asked, answer=answer, eligible=True)


def test_the_matrix_has_the_references_camera_in_its_row():
    answer = "<c1,CAM_BACK,801.0,450.0> <c2,CAM_BACK,10.0,10.0>"
    result = camera_confusion([graded(answer, f"{TAG} <c2,CAM_BACK,10.0,10.0>")])
    front, back = result["cameras"].index("CAM_FRONT"), result["cameras"].index("CAM_BACK")
    assert result["matrix"][front][back] == result["matrix"][back][back] == 1
    assert sum(map(sum, result["matrix"])) == result["matched"] == 2
    assert (result["wrong_camera"], result["share"], result["examples"]) == (1, 0.5, ["s_f_0"])


def test_unmatched_tags_are_invented_or_left_out():
    result = invented_and_left_out([graded("<c1,CAM_BACK,800.0,450.0> <c2,CAM_BACK,9.0,9.0>", TAG)])
    assert (result["predicted"], result["reference"]) == (2, 1)
    assert result["hallucination"]["anywhere"]["share"] == 0.5
    assert result["hallucination"]["strictly"]["share"] == 1.0
    assert result["omission"]["anywhere"]["count"] == 0
    assert result["omission"]["strictly"] == {"count": 1, "share": 1.0, "examples": ["s_f_0"]}


def test_only_answers_that_name_objects_on_their_own_count():
    others = [graded(TAG, TAG, index=1), graded(TAG, TAG, index=2, tags=(3,))]
    assert invented_and_left_out(others)["predicted"] == 1


def test_a_copy_is_a_tag_of_the_question():
    other = "<c2,CAM_BACK,1.0,2.0>"
    result = copied_tags([graded(f"{TAG} {other}", other, question=f"What of {TAG}?"), graded(TAG, TAG, index=1)])
    assert (result["predicted"], result["copied"], result["copied_wrong"]) == (3, 1, 1)
    assert result["examples"] == ["s_f_0"]
    assert result["references"] == 0.0
