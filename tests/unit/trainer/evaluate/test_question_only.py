"""The question-only baseline: neighbours vote by template and place; without any, the majority answers."""

from trainer.evaluate.question_only import NEIGHBOURS, question_only_predictions

STATUS = "What is the moving status of object <c1,{},{}.0,2.0>? Select: {}"
IS_SIGN = "Is <c1,{},{}.0,2.0> a traffic sign?"


def answer(train, question):
    references = {"s": {"key_frames": {"f": {"QA": {"perception": [{"Q": question, "A": "", "tag": [0]}]}}}}}
    (row,) = question_only_predictions(train, references)
    assert row["id"] == "s_f_0"
    return row["answer"]


def test_the_nearest_questions_at_the_same_camera_vote():
    train = [(IS_SIGN.format("CAM_FRONT", x), "Yes.") for x in range(NEIGHBOURS)]
    train += [(IS_SIGN.format("CAM_BACK", x), "No.") for x in range(5 * NEIGHBOURS)]
    assert answer(train, IS_SIGN.format("CAM_FRONT", 1500)) == "Yes."
    assert answer(train, IS_SIGN.format("CAM_BACK", 3)) == "No."


def test_of_a_choice_the_offered_option_with_most_votes_counts():
    train = [(STATUS.format("CAM_FRONT", 1, "A. Stopped. B. Turn left."), "A")] * 3
    assert answer(train, STATUS.format("CAM_FRONT", 9, "A. Back up. B. Stopped.")) == "B"


def test_without_neighbours_the_majority_answers():
    train = [("Is it?", "No.")]
    assert answer(train, "Is it?") == answer(train, IS_SIGN.format("CAM_FRONT", 1)) == "No."
    assert answer([], IS_SIGN.format("CAM_FRONT", 1)) == ""
