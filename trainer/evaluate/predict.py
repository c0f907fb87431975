"""A model and frames in, greedy answers out; from the command line a DriveLM submission's rows as JSON."""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import InternVLForConditionalGeneration, PreTrainedTokenizerFast

from data_shards.atomic import write_atomically
from data_shards.chat import STOP, ChatTemplate, TokenSegments, tokenize_prompts
from data_shards.collate import to_tensors
from data_shards.decode import decode_jpeg
from data_shards.index import DatasetIndex, load_index
from data_shards.pack import PartMeta, build_pack
from data_shards.read import read_frame
from data_shards.schema import CAMERAS, RawFrame
from data_shards.sources.drivelm_select import KINDS
from data_shards.tiling import ViewLayout, tile_images, tiles_per_image
from models.decoding import greedy_answers
from models.vision import normalise_tiles
from models.vlm import load_vlm, tile_side
from trainer.preprocessing import read_preprocessing

_FRAMES_AT_ONCE = 64
"""Frames the command line holds in memory; answers are batched within them."""


class PredictError(ValueError):
    """A model and data that do not go together; the message names field, got, expected and fix."""


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
    batch_rows: int = 256,
    batch_tokens: int = 65536,
) -> list[list[str]]:
    """Answer questions greedily; each answer is what stock generation gives for its question alone.

    Args:
        template, layout: as in training.
        question_ids: which questions of each frame, by index; all where None.
        max_new_tokens: longest answer in tokens.
        black: show black images of the same sizes instead.
        batch_rows: questions answered at once; a frame with more has its images computed again for each batch.
        batch_tokens: prefixes and questions read at once; a single frame may exceed it.

    Returns:
        For each frame the answers, in the order asked.

    Raises:
        PredictError: tiles of another size than the model's.
        ImageError, ChatError, LayoutError: a frame that cannot be shown.
    """
    if layout.tile_size != tile_side(model):
        raise PredictError(
            f"view layout: field 'tile_size': got {layout.tile_size}, expected {tile_side(model)} as in the model's "
            "config.json; "
            "use the settings the model was trained with"
        )
    asked = question_ids if question_ids is not None else [range(len(frame.questions)) for frame in frames]
    answers: list[list[str]] = [[] for _ in frames]
    stop_ids = {tokenizer.convert_tokens_to_ids(STOP), tokenizer.eos_token_id}
    reader = _Reader(
        tokenizer=tokenizer,
        template=template,
        layout=layout,
        tokens_per_tile=model.config.image_seq_length,
        black=black,
    )
    for batch in _batches(reader.units(frames, asked, batch_rows), batch_rows, batch_tokens):
        tokens = iter(_answer_batch(model, batch, frames, stop_ids, max_new_tokens))
        for unit in batch:
            for _ in unit.question_ids:
                answer = str(tokenizer.decode(next(tokens), skip_special_tokens=True))
                answers[unit.frame].append(answer.strip())
    return answers


@dataclass(frozen=True, kw_only=True)
class _Reader:
    """Decodes and tokenises frames, one at a time as batches need them."""

    tokenizer: PreTrainedTokenizerFast
    template: ChatTemplate
    layout: ViewLayout
    tokens_per_tile: int
    black: bool

    def units(self, frames: Sequence[RawFrame], asked: Sequence[Sequence[int]], batch_rows: int) -> Iterator[_Unit]:
        """At most `batch_rows` questions of a frame in each unit; frames without any are left out."""
        for number, (frame, ids) in enumerate(zip(frames, asked, strict=True)):
            if not ids:
                continue
            images = self._images(frame)
            sizes = [(image.shape[1], image.shape[0]) for image in images]
            counts = [tiles * self.tokens_per_tile for tiles in tiles_per_image(sizes, self.layout)]
            tiles = tile_images(images, self.layout)
            shown = np.zeros_like(tiles) if self.black else tiles
            for first in range(0, len(ids), batch_rows):
                some = tuple(ids[first : first + batch_rows])
                tokens = tokenize_prompts(frame, counts, self.tokenizer, self.template, some)
                yield _Unit(frame=number, question_ids=some, tokens=tokens, tiles=shown)

    def _images(self, frame: RawFrame) -> list[np.ndarray]:
        """A canvas is stitched in the order of `CAMERAS`, whatever the frame's own."""
        is_canvas = self.layout.mode == "canvas" and set(frame.images) == set(CAMERAS)
        return [decode_jpeg(frame.images[name]) for name in (CAMERAS if is_canvas else frame.images)]


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
) -> list[list[int]]:
    parts = [(unit.tokens, unit.tiles, PartMeta(key=frames[unit.frame].key, dataset="")) for unit in batch]
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
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m trainer.evaluate predict`."""
    parser.add_argument("--model", type=Path, required=True, help="an export, or RUN_DIR/model")
    parser.add_argument(
        "--data", type=Path, required=True, help="directory of shards with tagged (test form) questions"
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON file of rows {id, question, answer} to write")
    parser.add_argument("--black", action="store_true", help="show black images, to measure what is known without them")
    parser.add_argument("--recipe", type=Path, help="take view, template and system message from this recipe")
    parser.add_argument("--max-new-tokens", type=int, default=110, help="longest answer (default %(default)s)")
    parser.add_argument("--batch-rows", type=int, default=256, help="questions answered at once (default %(default)s)")
    parser.add_argument("--max-frames", type=int, help="answer only the first frames")


def run(args: argparse.Namespace) -> int:
    """Answer every tagged question of a dataset; exit status 0, or 2 with a message where model or data do not fit."""
    try:
        rows = _predict(args)
    except ValueError as error:
        print(f"predict: {error}", file=sys.stderr)
        return 2
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(args.out, json.dumps(rows, ensure_ascii=False, indent=1).encode())
    print(f"{args.out}: {len(rows)} answers")
    return 0


def _predict(args: argparse.Namespace) -> list[dict[str, str]]:
    settings = read_preprocessing(args.model, args.recipe)
    index = load_index(args.data)
    cuda = torch.cuda.is_available()
    model = load_vlm(args.model, torch.bfloat16 if cuda else torch.float32)
    model.to(torch.device("cuda" if cuda else "cpu"))  # type: ignore[arg-type]  # transformers wraps `to` untyped
    tokenizer = PreTrainedTokenizerFast.from_pretrained(args.model, local_files_only=True)
    rows: list[dict[str, str]] = []
    started = time.monotonic()
    total = min(len(index), args.max_frames or len(index))
    for first in range(0, total, _FRAMES_AT_ONCE):
        frames = _tagged_frames(index, range(first, min(first + _FRAMES_AT_ONCE, total)))
        ids = [question_order(frame) for frame in frames]
        answers = answer_frames(
            model,
            tokenizer,
            frames,
            template=settings.chat(),
            layout=settings.view,
            question_ids=ids,
            max_new_tokens=args.max_new_tokens,
            black=args.black,
            batch_rows=args.batch_rows,
        )
        for frame, asked, given in zip(frames, ids, answers, strict=True):
            rows += submission_rows(frame, asked, given)
        rate = len(rows) / (time.monotonic() - started)
        print(f"frames {min(first + _FRAMES_AT_ONCE, total)}/{total}, {rate:.1f} answers/s", file=sys.stderr)
    if not rows:
        raise PredictError(
            f"{args.data}: got frames without tagged questions, expected DriveLM's test form; write the shards with "
            "--form test or --form both"
        )
    return rows


def question_order(frame: RawFrame) -> list[int]:
    """Indices of a frame's tagged questions in the order of DriveLM's ids, which is that of `KINDS`."""
    return [i for kind in KINDS for i, q in enumerate(frame.questions) if q.kind == kind and q.tags]


def submission_rows(frame: RawFrame, asked: Sequence[int], answers: Sequence[str]) -> list[dict[str, str]]:
    """Rows `{id, question, answer}` of one frame, the id being `<scene>_<frame>_<i>`."""
    return [
        {"id": f"{frame.scene}_{frame.frame}_{i}", "question": frame.questions[number].question, "answer": answer}
        for i, (number, answer) in enumerate(zip(asked, answers, strict=True))
    ]


def _tagged_frames(index: DatasetIndex, positions: Sequence[int]) -> list[RawFrame]:
    """Frames that have something to ask; the images of others are not read."""
    wanted = [i for i in positions if question_order(read_frame(index, i, with_images=False))]
    return [read_frame(index, i) for i in wanted]
