"""A recipe's held-out data in; at each look losses, scores of answers and pictures out, and the number that is best."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from data_shards.cost import CostModel
from data_shards.index import DatasetIndex
from data_shards.loader import TextSettings
from trainer.data import Data, make_data
from trainer.dist import Ranks
from trainer.engine import Engine
from trainer.loggers import Logger
from trainer.recipe import DatasetSection, Recipe, ValidationSection
from trainer.stages.base import Stage
from trainer.stages.vlm import VlmStage
from trainer.stop_check import StopCheck
from trainer.typed_yaml import ConfigError
from trainer.validation import HeldOut, held_out_losses, num_packs
from trainer.validation_answers import Asked, answer_scores, asked_frames


class Validator:
    """Looks at the same packs and the same frames each time; without datasets it has nothing to look at."""

    def __init__(self, recipe: Recipe, stage: Stage, ranks: Ranks | None) -> None:
        """Read indexes and plan.

        Args:
            ranks: None where this process is alone and only `notes` are wanted.

        Raises:
            ConfigError: answers are asked for, and a dataset asks nothing, or nothing that `best` is a score of.
            ShardError, BadSample, PlanError: as for the training data.
        """
        self._recipe, self._stage, self._ranks = recipe, stage, ranks
        settings = recipe.validation
        data = {section.name: _data(recipe, section, stage.text, ranks, stage.cost()) for section in settings.datasets}
        self._held_out = [
            HeldOut(source=own.sources[0], stream=own.stream, packs=num_packs(own.stream, settings.max_packs))
            for own in data.values()
        ]
        self._asked = []
        if settings.answers:
            self._asked = [_asked(name, own.sources[0].index, settings, ranks) for name, own in data.items()]
        _check_asked(self._asked, settings)

    def notes(self) -> list[str]:
        """Lines that say what will be looked at."""
        lines = [
            f"validation: {held.source.name}: {held.packs} packs of {len(held.source.index)} frames"
            for held in self._held_out
        ]
        return lines + [f"validation: {asked.name}: answers to {len(asked.frames)} frames" for asked in self._asked]

    def is_due(self, step: int) -> bool:
        """Whether to look after a step."""
        every = self._recipe.validation.every
        return bool(self._held_out) and (step == self._recipe.steps or (every > 0 and step % every == 0))

    def look(
        self, engine: Engine, step: int, logger: Logger, beat: Callable[[str], None], stop: StopCheck
    ) -> dict[str, float]:
        """Metrics by name; to be called on all ranks.

        Args:
            engine: whose model is judged.
            logger: gets the pictures.
            beat: takes what is being done.
            stop: asked again and again.

        Raises:
            BrokenOff: on all ranks, where one was asked to stop.
        """
        assert self._ranks is not None, "made for its notes alone"
        values = held_out_losses(self._held_out, self._stage, engine, self._ranks, engine.device, beat, stop)
        if self._asked:
            assert isinstance(self._stage, VlmStage), "load_recipe checks which stages answer"
            scores, pictures = answer_scores(self._asked, self._stage, engine, self._ranks, beat, stop)
            values |= scores
            for picture in pictures:
                logger.picture(step, picture.name, picture.image, picture.caption)
        return values

    def score(self, values: dict[str, float]) -> float | None:
        """The number that is highest at the best checkpoint, of what `look` gave; None where it was not measured, or is
        none."""
        best = self._recipe.validation.best
        value = values.get(f"validation/{best}", math.nan)
        if not math.isfinite(value):
            return None
        return -value if best == "loss" else value


def _check_asked(datasets: Sequence[Asked], settings: ValidationSection) -> None:
    for asked in datasets:
        if not asked.frames:
            raise ConfigError(
                f"validation.answers: got {settings.answers} frames of {asked.name!r}, which has no tagged or general "
                "question, expected DriveLM's test form; write the shards with `--form test` or `--form both`"
            )
    scores = ["loss", *dict.fromkeys(name for asked in datasets for name in asked.scores)]
    if datasets and settings.best not in scores:
        raise ConfigError(
            f"validation.best: got {settings.best!r}, which no dataset has questions for, expected one of "
            f"{', '.join(scores)}"
        )


def _asked(name: str, index: DatasetIndex, settings: ValidationSection, ranks: Ranks | None) -> Asked:
    act = partial(asked_frames, index, settings.answers)
    frames, scores = act() if ranks is None else ranks.on_main(act)
    return Asked(name=name, index=index, frames=frames, scores=scores)


def _data(
    recipe: Recipe, section: DatasetSection, text: TextSettings | None, ranks: Ranks | None, cost: CostModel
) -> Data:
    """One dataset, in an order that no setting of training but the limits decides."""
    data = replace(recipe.data, datasets=(replace(section, weight=1.0),))
    return make_data(replace(recipe, seed=0, data=data), text, ranks, cost)
