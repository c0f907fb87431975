"""When to look, at how many packs, and which score is best."""

import math
from types import SimpleNamespace

import pytest

from trainer.recipe import DataSection, DatasetSection, Recipe, ValidationSection
from trainer.validation import num_packs
from trainer.validator import Validator


def stream(*sections):
    return SimpleNamespace(sections=len(sections), section=lambda number: range(sections[number]))


def test_all_packs_of_an_epoch_unless_fewer_are_asked_for():
    assert num_packs(stream(5, 7, 2), 0) == 14
    assert num_packs(stream(5, 7, 2), 9) == 9
    assert num_packs(stream(5, 7, 2), 99) == 14


def validator(tmp_path, **settings) -> Validator:
    recipe = Recipe(
        stage="align",
        run_dir=tmp_path,
        steps=10,
        data=DataSection(datasets=(DatasetSection(path=tmp_path),)),
        validation=ValidationSection(**settings),
    )
    return Validator(recipe, SimpleNamespace(text=None, cost=None), None)


def test_without_datasets_there_is_nothing_to_look_at(tmp_path):
    idle = validator(tmp_path)
    assert not any(idle.is_due(step) for step in range(1, 11))
    assert idle.notes() == []


@pytest.mark.parametrize(("every", "expected"), [(0, [10]), (4, [4, 8, 10])])
def test_the_last_step_is_always_looked_at(tmp_path, every, expected):
    busy = validator(tmp_path, every=every)
    busy._held_out = [object()]
    assert [step for step in range(1, 11) if busy.is_due(step)] == expected


def test_a_lower_loss_and_a_higher_score_are_better(tmp_path):
    values = {"validation/loss": 1.5, "validation/accuracy": 0.7}
    assert validator(tmp_path).score(values) == -1.5
    assert validator(tmp_path, best="accuracy").score(values) == 0.7
    assert validator(tmp_path, best="cider").score(values) is None


def test_a_loss_that_is_no_number_is_never_the_best(tmp_path):
    for loss in (math.nan, math.inf):
        assert validator(tmp_path).score({"validation/loss": loss}) is None
