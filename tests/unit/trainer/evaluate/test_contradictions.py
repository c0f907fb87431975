"""Each rule on a frame that keeps it and one that breaks it; references as their own measure."""

import pytest

from tests.unit.trainer.evaluate.test_failures_tags import graded
from trainer.evaluate.contradictions import contradictions, motion_of
from trainer.evaluate.objects import OBJECT_QUESTION

TAG, OTHER = "<c1,CAM_FRONT,800.0,450.0>", "<c2,CAM_BACK,10.0,20.0>"
LIST = (OBJECT_QUESTION, f"There is a red car to the front of the ego vehicle. The ID of this object is {TAG}.", ())
NOTICE = ("What object should the ego vehicle notice first?", "Firstly, notice {}. The object is {}, so wait.", (3,))
STATUS = f"What is the moving status of object {TAG}? Select: A. Stopped. B. Turn left."
SIGN = f"Is {TAG} a traffic sign or a road barrier?"
BEHAVIOUR = "Predict the behavior of the ego vehicle. Select: A. It is steering to the left. B. It is going straight."
TARGET = "What is the target action of the ego vehicle?"
SAFE = "In this scenario, what are safe actions to take for the ego vehicle?"
COLLISION = f"What actions taken by the ego vehicle can lead to a collision with {TAG}?"


def notice(tag, state):
    return NOTICE[0], NOTICE[1].format(tag, state), NOTICE[2]


def checked(rule, *frame):
    rows = [graded(a, "", question=q, index=i, tags=tags) for i, (q, a, tags) in enumerate(frame)]
    row = contradictions(rows)[rule]
    return row["checked"], row["contradictory"], row["examples"]


@pytest.mark.parametrize(
    ("rule", "frame", "contradictory"),
    [
        ("same_question", [("Q?", "Yes.", ()), ("Q?", "Yes.", ())], 0),
        ("same_question", [("Q?", "Yes.", ()), ("Q?", "No.", ())], 1),
        ("listed_noticed", [LIST, notice(TAG, "stopped")], 0),
        ("listed_noticed", [LIST, notice(OTHER, "stopped")], 1),
        ("listed_noticed", [LIST, notice("<c1,CAM_FRONT,200.0,300.0>", "stopped")], 0),
        ("listed_noticed", [LIST, notice("<c3,CAM_FRONT,808.0,455.0>", "stopped")], 0),
        ("listed_noticed", [LIST, notice("<c3,CAM_FRONT,850.0,450.0>", "stopped")], 1),
        ("status_noticed", [notice("<c2,CAM_FRONT,795.0,445.0>", "turning left"), (STATUS, "A", ())], 1),
        ("status_noticed", [notice(TAG, "stationary"), (STATUS, "A", ())], 0),
        ("status_noticed", [notice(TAG, "turning left"), (STATUS, "A", ())], 1),
        ("sign_listed", [LIST, (SIGN, "No.", ())], 0),
        ("sign_listed", [LIST, (SIGN, "Yes.", ())], 1),
        ("behaviour_action", [(TARGET, "Turn left.", ()), (BEHAVIOUR, "A", ())], 0),
        ("behaviour_action", [(TARGET, "Turn right.", ()), (BEHAVIOUR, "A", ())], 1),
        ("safe_collision", [(SAFE, "Brake gently, keep going.", ()), (COLLISION, "Back up.", ())], 0),
        ("safe_collision", [(SAFE, "Back up and stop.", ()), (COLLISION, "Back up.", ())], 1),
    ],
)  # fmt: skip
def test_a_rule_tells_what_cannot_both_be_true(rule, frame, contradictory):
    assert checked(rule, *frame) == (1, contradictory, ["s_f_1"] * contradictory)


def test_what_says_nothing_of_the_same_is_not_checked():
    assert checked("status_noticed", notice(TAG, "a traffic sign"), (STATUS, "A", ())) == (0, 0, [])
    elsewhere = notice("<c1,CAM_FRONT,900.0,450.0>", "turning left")  # the model's number c1 is not the question's
    assert checked("status_noticed", elsewhere, (STATUS, "A", ())) == (0, 0, [])


def test_the_references_are_measured_too():
    rows = [graded("Yes.", answer, question="Q?", index=i) for i, answer in enumerate(("Yes.", "No."))]
    row = contradictions(rows)["same_question"]
    assert (row["share"], row["references"]) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("text", "motion"),
    [
        ("It is not moving.", "stopped"),
        ("Turn left.", "left"),
        ("Back up.", "back"),
        ("Going ahead.", "ahead"),
        ("?", ""),
    ],
)
def test_motions_are_read_from_words(text, motion):
    assert motion_of(text) == motion
