"""Which held-out frames are answered, and how answers to driving and general questions are scored."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from data_shards.asked import question_order
from data_shards.index import DatasetIndex, load_index
from data_shards.read import read_frame
from data_shards.schema import Question
from data_shards.write import write_shards
from tests.helpers.stages import TILE, driving_frames, general_frames, write_recipe
from tests.helpers.tokenizer import tiny_tokenizer
from trainer.config import load_recipe
from trainer.evaluate.exact_match import same_answer
from trainer.recipe import ValidationSection
from trainer.typed_yaml import ConfigError
from trainer.validation_answers import EXACT, SCORES, Asked, _answer, _Answers, _score, asked_frames
from trainer.validator import _check_asked

TAGS = {"perception": (2,), "prediction": (0,), "planning": (1,), "behavior": (0,)}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> DatasetIndex:
    """Untagged, tagged and general frames, and one that asks both; in the order of their keys."""
    root = tmp_path_factory.mktemp("mixed") / "shards"
    untagged, tagged, both = driving_frames(3, 5)
    tagged = _tagged(tagged)
    more = Question(question="How many?", answer="Two.", kind="general")
    both = replace(_tagged(both), questions=(more, *_tagged(both).questions))
    write_shards([untagged, tagged, both, *general_frames(2, 6)], root, source="test", licence="none")
    return load_index(root)


def _tagged(frame):
    return replace(frame, questions=tuple(replace(q, tags=TAGS[q.kind]) for q in frame.questions))


def test_frames_that_ask_nothing_are_passed_over(mixed):
    frames, scores = asked_frames(mixed, 10)
    asking = [place for place in range(len(mixed)) if question_order(read_frame(mixed, place))]
    assert frames == tuple(asking)
    assert len(frames) == len(mixed) - 1
    assert scores == (*SCORES, EXACT)
    assert asked_frames(mixed, 1) == (tuple(asking[:1]), _scores_of(mixed, asking[0]))


def _scores_of(index: DatasetIndex, place: int) -> tuple[str, ...]:
    tagged = any(q.tags for q in read_frame(index, place).questions)
    return SCORES if tagged else (EXACT,)


def test_right_answers_have_full_scores_and_general_ones_count_by_equality(mixed):
    frames, scores = asked_frames(mixed, 10)
    asked = Asked(name="mixed", index=mixed, frames=frames, scores=scores)
    right = [_Answers(frame=place, answers=_references(mixed, place)) for place in frames]
    values = _score(asked, right)
    assert values[EXACT] == values["accuracy"] == 1.0
    assert values["rouge_l"] == pytest.approx(1.0)
    alone = next(own for own in right if _scores_of(mixed, own.frame) == (EXACT,))
    spoilt = [replace(own, answers=("other",)) if own is alone else own for own in right]
    assert _score(asked, spoilt)[EXACT] == pytest.approx(2 / 3)
    assert _score(asked, spoilt)["accuracy"] == 1.0


def test_scores_that_no_answered_frame_asks_for_are_none(mixed):
    frames, scores = asked_frames(mixed, 10)
    asked = Asked(name="mixed", index=mixed, frames=frames, scores=scores)
    general = next(place for place in frames if _scores_of(mixed, place) == (EXACT,))
    values = _score(asked, [_Answers(frame=general, answers=_references(mixed, general))])
    assert values[EXACT] == 1.0
    assert values["accuracy"] == 0.0


def _references(index: DatasetIndex, place: int) -> tuple[str, ...]:
    frame = read_frame(index, place)
    return tuple(frame.questions[number].answer for number in question_order(frame))


def test_a_frame_whose_images_do_not_decode_ends_no_run(tmp_path):
    (frame,) = map(_tagged, driving_frames(1, 5))
    cut = replace(frame, images={name: jpeg[: len(jpeg) // 2] for name, jpeg in frame.images.items()})
    write_shards([cut], tmp_path / "shards", source="test", licence="none")
    recipe, _ = load_recipe(write_recipe(tmp_path, "align", tmp_path / "run"))
    tower = SimpleNamespace(config=SimpleNamespace(image_size=(TILE, TILE)))
    vlm = SimpleNamespace(model=SimpleNamespace(vision_tower=tower), config=SimpleNamespace(image_seq_length=4))
    stage = SimpleNamespace(recipe=recipe, tokenizer=tiny_tokenizer(tmp_path))
    assert _answer(stage, vlm, load_index(tmp_path / "shards"), 0) == []


def test_answers_are_the_same_but_for_case_spaces_and_a_full_stop():
    assert same_answer(" two ", "Two.")
    assert not same_answer("two dogs", "Two.")


def test_a_score_that_no_dataset_has_cannot_be_the_best(mixed):
    general = Asked(name="general", index=mixed, frames=(0,), scores=(EXACT,))
    _check_asked([general], ValidationSection(answers=1, best="exact"))
    with pytest.raises(ConfigError, match="validation.best: got 'accuracy'.*expected one of loss, exact"):
        _check_asked([general], ValidationSection(answers=1, best="accuracy"))
    with pytest.raises(ConfigError, match="has no tagged or general question"):
        _check_asked([replace(general, frames=())], ValidationSection(answers=1))
