"""Held-out frames and a model in training in; scores of its greedy answers, DriveLM's and those of general questions,
and pictures of them out.

Every rank answers its own frames with a whole model, so that no rank waits for another's longer answer: where ZeRO-3
has divided the parameters, they are gathered once into a copy, which costs the model's size in memory while answering.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from transformers import InternVLForConditionalGeneration

from data_shards.asked import question_order
from data_shards.chat import ChatError
from data_shards.decode import ImageError
from data_shards.index import DatasetIndex
from data_shards.read import BadSample, read_frame
from data_shards.schema import Question, RawFrame
from data_shards.sources.drivelm_select import references_json
from data_shards.tiling import tile_jpegs
from data_shards.view_layout import LayoutError
from models.blanks import drawn_vlm
from models.loading import give
from models.projector import LinearProjectorVLM
from trainer.dist import Ranks
from trainer.engine import Engine
from trainer.engine_partition import parameters_everywhere
from trainer.evaluate.drivelm import evaluate
from trainer.evaluate.exact_match import same_answer
from trainer.evaluate.judge import NoJudge
from trainer.evaluate.predict import answer_frames
from trainer.guards import memory_for
from trainer.preprocessing import chat_template
from trainer.stages.base import Picture
from trainer.stages.picture import captioned_tiles
from trainer.stages.vlm import VlmStage
from trainer.stop_check import StopCheck

SCORES = ("accuracy", "match_f1", "object_f1", "bleu_1", "bleu_4", "rouge_l", "cider")
"""Of tagged questions; more is better for all of them."""
EXACT = "exact"
"""Of general questions: the share of answers equal to the reference but for case, spaces and a final full stop."""
_SHOWN_QUESTIONS = 4
_ADVICE = "lower validation.max_new_tokens, or set validation.answers to 0; this run then goes on"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Frames of one dataset to be answered.

    Attributes:
        frames: their places in the index.
        scores: what the questions they ask are scored by, of `SCORES` and `EXACT`.
    """

    name: str
    index: DatasetIndex
    frames: tuple[int, ...]
    scores: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Answers:
    """A frame's answers, in the order of `question_order`."""

    frame: int
    answers: tuple[str, ...]


def asked_frames(index: DatasetIndex, count: int) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The first frames that ask something, tagged or general, at most `count`; and the scores: see `Asked`."""
    found: list[int] = []
    kinds: set[bool] = set()
    for place in range(len(index)):
        if len(found) == count:
            break
        asked = _asked(read_frame(index, place, with_images=False))
        if asked:
            found.append(place)
            kinds |= {bool(question.tags) for question in asked}
    scores = (*(SCORES if True in kinds else ()), *((EXACT,) if False in kinds else ()))
    return tuple(found), scores


def _asked(frame: RawFrame) -> list[Question]:
    return [frame.questions[number] for number in question_order(frame)]


def answer_scores(
    datasets: Sequence[Asked],
    stage: VlmStage,
    engine: Engine,
    ranks: Ranks,
    beat: Callable[[str], None],
    stop: StopCheck,
) -> tuple[dict[str, float], list[Picture]]:
    """Answer and score; to be called on all ranks.

    Args:
        beat: takes what is being done, once a frame.
        stop: asked once a frame.

    Returns:
        `validation/<dataset>/<score>` for each score of the dataset, without DriveLM's graph gate, and
        `validation/<score>`, the mean over the datasets that have it; a picture of each dataset's first frame, on the
        rank that answered it, the main one.

    Raises:
        BrokenOff: a rank was asked to stop; the model is left in evaluation mode.
    """
    values: dict[str, float] = {}
    pictures: list[Picture] = []
    with memory_for("the answers of validation", _ADVICE), _whole(stage, engine) as vlm:
        for asked in datasets:
            own: list[_Answers] = []
            for place in asked.frames[ranks.rank :: ranks.world_size]:
                if stop.noticed():
                    break
                beat(f"answering questions of {asked.name}, frame {place}")
                own += _answer(stage, vlm, asked.index, place)
            stop.together()
            everyone = [answers for each in ranks.gather(own) for answers in each]
            scores = ranks.on_main(partial(_score, asked, everyone))
            values |= {f"validation/{asked.name}/{name}": value for name, value in scores.items()}
            pictures += [_picture(stage, asked, answers) for answers in own if answers.frame == asked.frames[0]]
    stage.train_mode()
    for name in (*SCORES, EXACT):
        own_values = [values[f"validation/{asked.name}/{name}"] for asked in datasets if name in asked.scores]
        if own_values:
            values[f"validation/{name}"] = sum(own_values) / len(own_values)
    return values, pictures


@contextmanager
def _whole(stage: VlmStage, engine: Engine) -> Iterator[InternVLForConditionalGeneration]:
    """The model itself, or a whole copy of one that is divided; in evaluation mode."""
    if not engine.partitioned:
        yield stage.vlm
        return
    kind = "linear" if isinstance(stage.vlm, LinearProjectorVLM) else "mlp"
    config = copy.deepcopy(stage.vlm.config)
    vlm = drawn_vlm(config, torch.Generator().manual_seed(0), projector=kind).model
    for value, parameter in zip(parameters_everywhere(stage.vlm), vlm.parameters(), strict=True):
        give(parameter, value.clone())
    torch.nn.Module.to(vlm, engine.device)
    yield vlm.eval()


def _answer(stage: VlmStage, vlm: InternVLForConditionalGeneration, index: DatasetIndex, place: int) -> list[_Answers]:
    """Nothing for a frame that cannot be read or shown, as in training."""
    recipe = stage.recipe
    try:
        frame = read_frame(index, place)
        (answers,) = answer_frames(
            vlm,
            stage.tokenizer,
            [frame],
            question_ids=[question_order(frame)],
            template=chat_template(recipe),
            layout=recipe.data.view,
            max_new_tokens=recipe.validation.max_new_tokens,
            batch_tokens=recipe.data.max_tokens,
        )
    except (BadSample, ImageError, LayoutError, ChatError):
        return []
    return [_Answers(frame=place, answers=tuple(answers))]


def _score(asked: Asked, found: Sequence[_Answers]) -> dict[str, float]:
    """The scores of a dataset; 0 for those that no answered frame asks for, since it could not be read or shown."""
    frames = {answers.frame: read_frame(asked.index, answers.frame, with_images=False) for answers in found}
    answered = [
        (f"{frames[own.frame].key}_{number}", question, answer)
        for own in found
        for number, (question, answer) in enumerate(zip(_asked(frames[own.frame]), own.answers, strict=True))
    ]
    scores = dict.fromkeys(asked.scores, 0.0)
    if EXACT in asked.scores:
        right = [same_answer(answer, question.answer) for _, question, answer in answered if not question.tags]
        scores[EXACT] = sum(right) / max(1, len(right))
    rows = [{"id": name, "question": q.question, "answer": answer} for name, q, answer in answered if q.tags]
    if rows:
        scores |= _flat(evaluate(references_json(frames.values()), rows, NoJudge()).summary())
    return scores


def _flat(summary: Mapping[str, Any]) -> dict[str, float]:
    scores = {**summary["ungated"], **summary["ungated"]["language"], "object_f1": summary["object_f1"]["micro"]}
    return {name: float(scores[name]) for name in SCORES}


def _picture(stage: VlmStage, asked: Asked, answers: _Answers) -> Picture:
    """A frame with its first questions, the model's own answers and the references."""
    frame: RawFrame = read_frame(asked.index, answers.frame)
    tiles, _ = tile_jpegs(frame.images, stage.recipe.data.view)
    lines = [
        line
        for question, answer in list(zip(_asked(frame), answers.answers, strict=True))[:_SHOWN_QUESTIONS]
        for line in (
            f"question: {question.question}",
            f"greedy answer: {answer}",
            f"reference: {question.answer}",
        )
    ]
    caption = "\n\n".join([f"**frame**: {frame.key}", *lines])
    return Picture(name=f"validation/{asked.name}", image=captioned_tiles(tiles, lines), caption=caption)
