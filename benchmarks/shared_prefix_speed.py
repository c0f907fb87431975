"""A tiny model in full-size proportions in; questions/s of shared prefixes, classic packs and padded batches out.

`python -m benchmarks.shared_prefix_speed [--frames 2] [--out runs/bench/shared_prefix_speed.json]`

A driving frame has 13 tiles and a prefix some 60 times as long as a question, as at full size; the tower costs about
two thirds of the language model's prefix. All rows train on the same questions, forward and backward, on one thread;
their summed losses are compared. Times are processor time, so that a busy machine does not matter.
"""

import argparse
import copy
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import InternVLForConditionalGeneration, InternVLVisionConfig, LlamaConfig

from data_shards.atomic import write_json
from data_shards.chat import TokenSegments
from data_shards.collate import Batch, to_tensors
from data_shards.mixture import MixtureEntry, PackLimits, SizeTable
from data_shards.pack import PackPart, PartMeta, build_pack
from data_shards.plan import PackStream
from models.attention import pack_layout
from models.packed_vlm import PackedVLM
from models.presets import vlm_config
from models.vision import normalise_tiles
from models.vlm import build_vlm

SIDE, TILE_TOKENS, TILES = 224, 64, 13
PREFIX = TILES * TILE_TOKENS + 16
QUESTION = 14
LIMITS = PackLimits(max_tokens=4096, max_tiles=48)
VOCAB, IMAGE_TOKEN = 512, 500
PADDED_ROWS = 4
VISITS = (8, 16, 32)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table and write JSON; exit status 1 where the rows did not train on the same."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shared_prefix_speed", description=__doc__)
    parser.add_argument("--frames", type=int, default=2, help="of 32 questions each (default: 2)")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/shared_prefix_speed.json"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    frames = driving(options.frames)
    mixtures = {"driving": [frames], "mixture": [frames, general(len(frames.tokens) // 4)]}
    model = tiny_model()
    results: dict[str, Any] = {name: measure(model, tables) for name, tables in mixtures.items()}
    write_json(options.out, results)
    for name, rows in results.items():
        for row, values in rows.items():
            print(f"{name:<10}{row:<12}" + ", ".join(f"{key} {value:.4g}" for key, value in values.items()))
    losses = [[values["loss"] for values in rows.values()] for rows in results.values()]
    return 0 if all(max(row) - min(row) < 1e-4 * max(row) for row in losses) else 1


def driving(count: int) -> SizeTable:
    """Frames of 32 questions."""
    rng = np.random.default_rng(0)
    return SizeTable(
        prefix=np.full(count, PREFIX, np.int32),
        tiles=np.full(count, TILES, np.int32),
        first=np.arange(count + 1) * 32,
        tokens=rng.integers(QUESTION - 4, QUESTION + 5, 32 * count).astype(np.int32),
    )


def general(count: int) -> SizeTable:
    """Samples of 0 to 13 tiles with one answer, five times as long as one about driving."""
    rng = np.random.default_rng(1)
    tiles = rng.permutation(np.arange(count) % (TILES + 1)).astype(np.int32)
    return SizeTable(
        prefix=8 + TILE_TOKENS * tiles,
        tiles=tiles,
        first=np.arange(count + 1),
        tokens=rng.integers(4 * QUESTION, 6 * QUESTION, count).astype(np.int32),
    )


def tiny_model() -> InternVLForConditionalGeneration:
    """A tower and a language model whose costs are to each other about as those of `drivlm-2b`."""
    vision = InternVLVisionConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=256, image_size=SIDE
    )
    text = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=8192,
    )
    return build_vlm(vlm_config(vision, text, IMAGE_TOKEN), torch.Generator().manual_seed(0))


def measure(model: InternVLForConditionalGeneration, tables: Sequence[SizeTable]) -> dict[str, dict[str, float]]:
    """Of each way: questions/s, gain over classic packing, and the sum of all losses."""
    packed, stock = PackedVLM(copy.deepcopy(model)), copy.deepcopy(model)
    questions = sum(len(table.tokens) for table in tables)
    ways: dict[str, Callable[[], float]] = {
        "classic": partial(packs_loss, packed, tables, 1),
        "padded": partial(padded_loss, stock, tables),
        **{f"shared {k}": partial(packs_loss, packed, tables, k) for k in VISITS},
    }
    pack_loss(packed, batches(tables, 32)[0])  # warm up
    rows: dict[str, dict[str, float]] = {}
    for name, way in ways.items():
        began = time.process_time()
        loss = way()
        rate = questions / (time.process_time() - began)
        classic = rows.get("classic", {"questions_per_s": rate})["questions_per_s"]
        rows[name] = {"questions_per_s": rate, "gain": rate / classic, "loss": loss}
    return rows


def batches(tables: Sequence[SizeTable], questions_per_visit: int) -> list[Batch]:
    """One epoch of packs, each question once."""
    stream = PackStream([MixtureEntry(sizes=table) for table in tables], LIMITS, questions_per_visit, 0)
    made = []
    for i in range(stream.packs_an_epoch()):
        parts = [drawn_part(tables, v.dataset, v.sample, v.questions) for v in stream.pack(i).visits]
        made.append(to_tensors(build_pack(parts)))
    return made


def drawn_part(tables: Sequence[SizeTable], dataset: int, sample: int, questions: Sequence[int]) -> PackPart:
    """Tokens and tiles drawn from the numbers of dataset, sample and question; half of each segment is learnt."""
    size = tables[dataset][sample]
    words = np.random.default_rng([dataset, sample]).integers(3, IMAGE_TOKEN, size.prefix_tokens)
    words[2 : 2 + TILE_TOKENS * size.tiles] = IMAGE_TOKEN
    segments = tuple(
        np.random.default_rng([dataset, sample, q]).integers(3, IMAGE_TOKEN, size.question_tokens[q]) for q in questions
    )
    spans = tuple(((len(segment) // 2, len(segment)),) for segment in segments)
    tiles = np.random.default_rng([dataset, sample, 0, 0]).integers(0, 256, (size.tiles, SIDE, SIDE, 3), np.uint8)
    meta = PartMeta(key=f"{dataset}_{sample}", dataset=str(dataset), question_ids=tuple(questions))
    tokens = TokenSegments(prefix=words, segments=segments, label_spans=spans)
    return PackPart(tokens=tokens, tiles=tiles, meta=meta)


def packs_loss(model: PackedVLM, tables: Sequence[SizeTable], questions_per_visit: int) -> float:
    """Forward and backward passes of an epoch of packs; the sum of all losses."""
    return sum(pack_loss(model, batch) for batch in batches(tables, questions_per_visit))


def pack_loss(model: PackedVLM, batch: Batch) -> float:
    """Forward and backward pass of one pack; the sum of its losses."""
    losses, _ = model(
        batch.input_ids,
        batch.position_ids,
        normalise_tiles(batch.tiles),
        pack_layout(batch.groups, batch.segment_ids),
        batch.label_positions,
        batch.dummy_tile,
        batch.label_targets,
    )
    losses.sum().backward()
    return float(losses.sum().detach())


def padded_loss(model: InternVLForConditionalGeneration, tables: Sequence[SizeTable]) -> float:
    """The same for each question alone in a row of a padded batch, through the stock forward, in random order."""
    refs = [(d, s, q) for d, t in enumerate(tables) for s in range(len(t)) for q in range(len(t[s].question_tokens))]
    order = np.random.default_rng(0).permutation(len(refs))
    total = 0.0
    for start in range(0, len(refs), PADDED_ROWS):
        rows = [refs[i] for i in order[start : start + PADDED_ROWS]]
        parts = [drawn_part(tables, d, s, (q,)) for d, s, q in rows]
        ids = [torch.from_numpy(np.concatenate([part.tokens.prefix, part.tokens.segments[0]])) for part in parts]
        padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
        labels = torch.full_like(padded, -100)
        for row, part in enumerate(parts):
            begin, end = (len(part.tokens.prefix) + border for border in part.tokens.label_spans[0][0])
            labels[row, begin:end] = padded[row, begin:end]
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in ids], batch_first=True)
        tiles = torch.from_numpy(np.concatenate([part.tiles for part in parts]))
        pixels = normalise_tiles(tiles) if len(tiles) else None
        logits = model(input_ids=padded, attention_mask=mask, pixel_values=pixels, use_cache=False).logits
        loss = cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
        loss.backward()
        total += float(loss.detach())
    return total


if __name__ == "__main__":
    sys.exit(main())
