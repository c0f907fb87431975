"""The majority baseline: templates, options by text, and what unknown questions fall back to."""

import pytest

from trainer.evaluate.baselines import majority_answers, majority_predictions, offered_options

STATUS = "What is the moving status of object <c1,CAM_FRONT,{}.0,2.0>? Please select the correct answer: {}"


def test_options_are_read_from_the_question():
    question = STATUS.format(
        1, "A. Turn left. B. The ego vehicle is going straight. It is fast. C. Back up. D. Stopped."
    )
    assert offered_options(question) == {
        "A": "Turn left.", "B": "The ego vehicle is going straight. It is fast.", "C": "Back up.", "D": "Stopped.",
    }  # fmt: skip


@pytest.mark.parametrize("question", ["Is A. Smith there?", "What is it?", "Plan B. or C. ?", ""])
def test_other_questions_offer_nothing(question):
    assert offered_options(question) == {}


def test_the_most_frequent_option_text_is_looked_up_among_those_offered():
    train = [
        (STATUS.format(1, "A. Stopped. B. Turn left."), "A"),
        (STATUS.format(2, "A. Turn left. B. Stopped."), "B"),
        (STATUS.format(3, "A. Turn left. B. Stopped."), "A"),
    ]
    majority = majority_answers(train)
    assert majority.answer(STATUS.format(9, "A. Turn left. B. Back up. C. Stopped.")) == "C"
    assert majority.answer(STATUS.format(9, "A. Back up. B. Turn left.")) == "B"


def test_an_unseen_option_list_gets_the_first_letter():
    majority = majority_answers([(STATUS.format(1, "A. Stopped. B. Turn left."), "A")])
    assert majority.answer(STATUS.format(1, "A. Fly. B. Swim.")) == "A"


def test_tags_and_numbers_make_no_other_template():
    train = [
        ("Is <c1,CAM_FRONT,1.0,2.0> within 5 m?", "Yes."),
        ("Is <c2,CAM_BACK,3.0,4.0> within 9 m?", "Yes."),
        ("Is it?", "No."),
    ]
    assert majority_answers(train).answer("Is <c3,CAM_FRONT,7.0,8.0> within 20 m?") == "Yes."


def test_unknown_templates_fall_back_to_the_kind_and_then_to_all():
    train = [("Is it?", "No."), ("Is he?", "No."), ("What is it?", "A car."), *[("Where?", "There.")] * 5]
    majority = majority_answers(train)
    assert majority.answer("Is she?") == "No."
    assert majority.answer("Why?") == "There."


def test_of_equally_frequent_answers_the_first_met_wins():
    assert majority_answers([("Q?", "b"), ("Q?", "a")]).answer("Q?") == "b"


def test_without_training_questions_every_answer_is_empty():
    assert majority_answers([]).answer("Is it?") == ""


def test_predictions_answer_every_reference_question():
    entry = {"Q": "Is it?", "A": "?", "tag": [0]}
    references = {"s": {"key_frames": {"f": {"QA": {"perception": [entry], "behavior": [entry]}}}}}
    rows = majority_predictions([("Is it?", "No.")], references)
    assert rows == [{"id": f"s_f_{i}", "question": "Is it?", "answer": "No."} for i in range(2)]
