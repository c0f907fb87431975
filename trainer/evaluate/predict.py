"""A model and frames in, answers out: greedy or sampled, batched over frames and their questions.

The questions of a frame share its images: see `models.decoding`. Points are asked for in the coordinates that the model
was trained with, and answers are turned back to DriveLM's pixels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from transformers import InternVLForConditionalGeneration, PreTrainedTokenizerFast

from data_shards.chat import STOP, ChatTemplate, TokenSegments, tokenize_prompts
from data_shards.collate import to_tensors
from data_shards.coords import drivelm_text
from data_shards.decode import ImageError, decode_jpeg
from data_shards.pack import PackPart, PartMeta, build_pack
from data_shards.schema import CAMERAS, RawFrame
from data_shards.tiling import tile_images, tile_jpegs
from data_shards.view_layout import LayoutError, ViewLayout, tiles_per_image
from models.decoding import Choose, greedy_answers, most_likely
from models.vision import normalise_tiles
from models.vlm import tile_side
from trainer.evaluate.perturb import Perturbation, perturb
from trainer.evaluate.sampling import SampledChoice, Sampling

BLACK = Perturbation(kind="black")


class PredictError(ValueError):
    """A model and data that do not go together; the message names field, got, expected and fix."""


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How frames are shown and answers are written.

    Attributes:
        template, layout: as in training.
        max_new_tokens: longest answer in tokens.
        perturbation: what is done to the views; nothing where None.
        sampling: how tokens are drawn; greedy where None.
        batch_rows: questions answered at once; a frame with more has its images computed again for each batch.
        batch_tokens: prefixes and questions read at once; a single frame may exceed it.
    """

    template: ChatTemplate
    layout: ViewLayout
    max_new_tokens: int
    perturbation: Perturbation | None = None
    sampling: Sampling | None = None
    batch_rows: int = 256
    batch_tokens: int = 65536


@dataclass(frozen=True, kw_only=True)
class Answered:
    """Questions of one frame with their answers: the frame's place among those asked, and question indices.

    `is_cut` is whether an answer reached the longest length without an end.
    """

    frame: int
    question_ids: tuple[int, ...]
    answers: tuple[str, ...]
    is_cut: tuple[bool, ...]


@dataclass(frozen=True, kw_only=True)
class _Unit:
    """Some questions of one frame, which are answered in one batch."""

    frame: int
    question_ids: tuple[int, ...]
    tokens: TokenSegments
    tiles: np.ndarray

    @property
    def num_tokens(self) -> int:
        return len(self.tokens.prefix) + sum(map(len, self.tokens.segments))


def answer_frames(
    model: InternVLForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    frames: Sequence[RawFrame],
    *,
    template: ChatTemplate,
    layout: ViewLayout,
    question_ids: Sequence[Sequence[int]] | None = None,
    max_new_tokens: int,
    black: bool = False,
    perturbation: Perturbation | None = None,
    sampling: Sampling | None = None,
    batch_rows: int = 256,
    batch_tokens: int = 65536,
) -> list[list[str]]:
    """Answer questions; each greedy answer is what stock generation gives for its question alone.

    Args:
        question_ids: which questions of each frame, by index; all where None.
        black: the perturbation `black`.
        template, layout, max_new_tokens, perturbation, sampling, batch_rows, batch_tokens: see `Asking`.

    Returns:
        For each frame the answers, in the order asked.

    Raises:
        PredictError: tiles of another size than the model's.
        ImageError, ChatError, LayoutError, PerturbError: a frame that cannot be shown.
    """
    asking = Asking(
        template=template,
        layout=layout,
        max_new_tokens=max_new_tokens,
        perturbation=BLACK if black else perturbation,
        sampling=sampling,
        batch_rows=batch_rows,
        batch_tokens=batch_tokens,
    )
    asked = question_ids if question_ids is not None else [range(len(frame.questions)) for frame in frames]
    answers: list[list[str]] = [[] for _ in frames]
    for batch in answer_in_batches(model, tokenizer, frames, asked, asking):
        for part in batch:
            answers[part.frame] += part.answers
    return answers


def answer_in_batches(
    model: InternVLForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    frames: Sequence[RawFrame],
    question_ids: Sequence[Sequence[int]],
    asking: Asking,
) -> Iterator[list[Answered]]:
    """As `answer_frames`, batch by batch as they are done; frames and their questions keep their order."""
    if asking.layout.tile_size != tile_side(model):
        raise PredictError(
            f"view layout: field 'tile_size': got {asking.layout.tile_size}, expected {tile_side(model)} as in the "
            "model's config.json; use the settings the model was trained with"
        )
    reader = _Reader(tokenizer=tokenizer, asking=asking, tokens_per_tile=model.config.image_seq_length)
    stop_ids = {tokenizer.convert_tokens_to_ids(STOP), tokenizer.eos_token_id}
    for batch in _batches(reader.units(frames, question_ids), asking.batch_rows, asking.batch_tokens):
        names = [f"{frames[unit.frame].key}/{number}" for unit in batch for number in unit.question_ids]
        choose = SampledChoice(asking.sampling, names) if asking.sampling else most_likely
        tokens = _answer_batch(model, batch, frames, stop_ids, asking.max_new_tokens, choose)
        texts = (str(tokenizer.decode(ids, skip_special_tokens=True)).strip() for ids in tokens)
        answers = [drivelm_text(text, asking.template.coordinates) for text in texts]
        is_cut = [len(ids) >= asking.max_new_tokens for ids in tokens]
        ends = list(accumulate(len(unit.question_ids) for unit in batch))
        yield [
            Answered(
                frame=unit.frame,
                question_ids=unit.question_ids,
                answers=tuple(answers[end - len(unit.question_ids) : end]),
                is_cut=tuple(is_cut[end - len(unit.question_ids) : end]),
            )
            for unit, end in zip(batch, ends, strict=True)
        ]


@dataclass(frozen=True, kw_only=True)
class _Reader:
    """Decodes and tokenises frames, one at a time as batches need them."""

    tokenizer: PreTrainedTokenizerFast
    asking: Asking
    tokens_per_tile: int

    def units(self, frames: Sequence[RawFrame], asked: Sequence[Sequence[int]]) -> Iterator[_Unit]:
        """At most `batch_rows` questions of a frame in each unit; frames without any are left out."""
        for number, (frame, ids) in enumerate(zip(frames, asked, strict=True)):
            if not ids:
                continue
            try:
                counts, tiles = self._tiles(frame)
            except (ImageError, LayoutError) as error:
                raise type(error)(f"{frame.key}: {error}") from error
            for first in range(0, len(ids), self.asking.batch_rows):
                some = tuple(ids[first : first + self.asking.batch_rows])
                tokens = tokenize_prompts(frame, counts, self.tokenizer, self.asking.template, some)
                yield _Unit(frame=number, question_ids=some, tokens=tokens, tiles=tiles)

    def _tiles(self, frame: RawFrame) -> tuple[list[int], np.ndarray]:
        """Image tokens of each image, and tiles. A canvas is stitched in the order of `CAMERAS`, whatever the frame's.

        Black is black tiles: a canvas shows no camera names either.
        """
        layout, perturbation = self.asking.layout, self.asking.perturbation
        if perturbation and perturbation != BLACK:
            is_canvas = layout.mode == "canvas" and set(frame.images) == set(CAMERAS)
            names = CAMERAS if is_canvas else tuple(frame.images)
            named = {name: decode_jpeg(frame.images[name], exact=layout.exact) for name in names}
            images = list(perturb(named, perturbation, key=frame.key).values())
            sizes = [(image.shape[1], image.shape[0]) for image in images]
            tiles, per_image = tile_images(images, layout, names), tiles_per_image(sizes, layout, names)
        else:
            tiles, per_image = tile_jpegs(frame.images, layout)
        counts = [number * self.tokens_per_tile for number in per_image]
        return counts, np.zeros_like(tiles) if perturbation == BLACK else tiles


def _batches(units: Iterator[_Unit], max_rows: int, max_tokens: int) -> Iterator[list[_Unit]]:
    batch: list[_Unit] = []
    rows = tokens = 0
    for unit in units:
        too_many = rows + len(unit.question_ids) > max_rows or tokens + unit.num_tokens > max_tokens
        if batch and too_many:
            yield batch
            batch, rows, tokens = [], 0, 0
        batch.append(unit)
        rows += len(unit.question_ids)
        tokens += unit.num_tokens
    if batch:
        yield batch


def _answer_batch(
    model: InternVLForConditionalGeneration,
    batch: Sequence[_Unit],
    frames: Sequence[RawFrame],
    stop_ids: set[int],
    max_new_tokens: int,
    choose: Choose,
) -> list[list[int]]:
    parts = [
        PackPart(tokens=unit.tokens, tiles=unit.tiles, meta=PartMeta(key=frames[unit.frame].key, dataset=""))
        for unit in batch
    ]
    pack = to_tensors(build_pack(parts))
    device = model.device
    return greedy_answers(
        model,
        input_ids=pack.input_ids.to(device),
        position_ids=pack.position_ids.to(device),
        segment_ids=pack.segment_ids,
        groups=pack.groups,
        pixel_values=normalise_tiles(pack.tiles.to(device)),
        dummy_tile=pack.dummy_tile,
        stop_ids=stop_ids,
        max_new_tokens=max_new_tokens,
        choose=choose,
    )
