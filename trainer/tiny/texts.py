"""The synthetic world in words: seeded scenes in, frames whose views are bags of words out, and packs of them.

A view in words has one bag a language-model image token, so that a language model learns to read pictures before it
has seen a pixel: at an image token it gets the sum of its own embeddings of the words in that cell.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from data_shards.chat import ChatTemplate, encode, tokenize_frame
from data_shards.collate import Batch, to_tensors
from data_shards.pack import PackPart, PartMeta, build_pack
from data_shards.schema import CAMERAS, RawFrame
from data_shards.sources.multiple_choice import LETTERS
from data_shards.sources.synthetic.describe import scene_cells
from data_shards.sources.synthetic.general import make_picture, picture_cells, picture_questions
from data_shards.sources.synthetic.questions import scene_questions
from data_shards.sources.synthetic.world import make_scene

GRID = 4
"""Image tokens on each side of a tile of the tiny models."""

LISTING_LENGTH = 100
"""Answers of more characters list the objects of a scene."""


@dataclass(frozen=True, kw_only=True)
class WordedFrame:
    """A frame whose images are empty, and the words of every image token in the order of the views."""

    frame: RawFrame
    words: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, kw_only=True)
class WordedPack:
    """A pack without tiles, and the words of its image tokens: I image tokens, W words in all.

    Attributes:
        batch: tokens and labels.
        bags: int64 [W], token ids of the words, image token by image token.
        bag_starts: int64 [I], where each image token's words begin, as `embedding_bag` takes them.
    """

    batch: Batch
    bags: torch.Tensor
    bag_starts: torch.Tensor


def worded_frames(seed: int, *, general_share: float) -> Iterator[WordedFrame]:
    """An endless stream of scenes, some of them pictures of the general family."""
    rng = np.random.default_rng(seed)
    general_images: tuple[str, ...] = ("IMAGE_0",)
    while True:
        if rng.random() < general_share:
            picture = make_picture(rng)
            cells, images = picture_cells(picture, GRID), general_images
            questions = picture_questions(picture, rng)
        else:
            scene = make_scene(rng)
            views = scene_cells(scene, GRID)
            cells, images = [cell for name in CAMERAS for cell in views[name]], CAMERAS
            questions = scene_questions(scene, rng)
        frame = RawFrame(
            key="words",
            scene="words",
            frame="words",
            source="words",
            images=dict.fromkeys(images, b""),
            questions=questions,
        )
        yield WordedFrame(frame=frame, words=tuple(cell.words for cell in cells))


def worded_pack(
    frames: Sequence[WordedFrame],
    tokenizer: PreTrainedTokenizerFast,
    template: ChatTemplate,
    rng: np.random.Generator,
    *,
    questions_per_frame: int,
    listing_odds: float,
) -> WordedPack:
    """Some questions of each frame as one shared-prefix pack; a word's ids are those it has inside a sentence.

    Yes, no and the letters of a choice are drawn more often than other answers, since to compare what is asked with
    what is shown is learnt late.

    Args:
        listing_odds: how often answers that list objects are drawn; other answers have odds of 1.
    """
    parts = []
    for worded in frames:
        odds = np.array([_odds(question.answer, listing_odds) for question in worded.frame.questions])
        size = min(questions_per_frame, len(odds))
        chosen = rng.choice(len(odds), size=size, replace=False, p=odds / odds.sum()).tolist()
        tokens_per_image = [GRID * GRID] * len(worded.frame.images)
        tokens = tokenize_frame(worded.frame, tokens_per_image, tokenizer, template, chosen)
        meta = PartMeta(key="words", dataset="words", question_ids=tuple(chosen), kinds=("words",) * len(chosen))
        parts.append(PackPart(tokens=tokens, tiles=np.zeros((0, 1, 1, 3), np.uint8), meta=meta))
    bags = [encode(tokenizer, "".join(f" {word}" for word in cell)) for worded in frames for cell in worded.words]
    return WordedPack(
        batch=to_tensors(build_pack(parts, loss_weight="square")),
        bags=torch.from_numpy(np.concatenate(bags)).long(),
        bag_starts=torch.from_numpy(np.cumsum([0, *map(len, bags)])[:-1]),
    )


def _odds(answer: str, listing_odds: float) -> float:
    if answer in ("Yes.", "No."):
        return 2.0
    if answer in LETTERS:
        return 4.0
    return listing_odds if len(answer) > LISTING_LENGTH else 1.0
