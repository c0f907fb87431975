"""A dataset index, a tokenizer, a template and a layout come in; the token and tile counts of every sample come out.

Counted in one pass over the JSON members, and kept beside each shard as `<shard>.lengths-<hash>.json`, the hash
covering everything the counts depend on."""

import errno
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from data_shards.atomic import write_atomically
from data_shards.chat import ChatTemplate, tokenize_frame
from data_shards.entries import SampleEntry
from data_shards.index import DatasetIndex
from data_shards.plan import SampleSize
from data_shards.read import BadSample, read_frame
from data_shards.tiling import ViewLayout, tiles_per_image

LENGTHS_VERSION = 1


def sample_sizes(
    index: DatasetIndex,
    *,
    tokenizer: PreTrainedTokenizerFast,
    template: ChatTemplate,
    layout: ViewLayout,
    tokens_per_tile: int,
) -> list[SampleSize]:
    """Sizes of all samples of a dataset, in index order; shards counted before with the same settings are not read.

    Args:
        tokens_per_tile: image tokens of one tile (256 at full size).

    Raises:
        BadSample: a frame that does not read, or an image whose header gave no size.
        ChatError: a text that holds a special token.
    """
    settings = {
        "version": LENGTHS_VERSION,
        "tokenizer": hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest(),
        "template": asdict(template),
        "layout": asdict(layout),
        "tokens_per_tile": tokens_per_tile,
    }
    name = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]

    def count(position: int) -> SampleSize:
        frame = read_frame(index, position, with_images=False)
        tiles = _tiles(index.samples[position], layout)
        tokens = tokenize_frame(frame, [n * tokens_per_tile for n in tiles], tokenizer, template)
        return SampleSize(
            prefix_tokens=len(tokens.prefix), question_tokens=tuple(map(len, tokens.segments)), tiles=sum(tiles)
        )

    sizes: list[SampleSize] = []
    for shard, group in groupby(index.samples, key=lambda entry: entry.shard):
        entries = list(group)
        path = (index.root / shard).with_suffix(f".lengths-{name}.json")
        content = _content(entries)
        known = _load(path, content, len(entries))
        if known is None:
            known = [count(len(sizes) + i) for i in range(len(entries))]
            _store(path, content, known)
        sizes += known
    return sizes


def tile_sizes(index: DatasetIndex, layout: ViewLayout) -> list[SampleSize]:
    """Sizes for jobs that look at images only: tiles, no tokens; read from the index alone.

    Raises:
        BadSample: an image whose header gave no size.
    """
    return [
        SampleSize(prefix_tokens=0, question_tokens=(), tiles=sum(_tiles(entry, layout))) for entry in index.samples
    ]


def _tiles(entry: SampleEntry, layout: ViewLayout) -> list[int]:
    if (0, 0) in entry.image_sizes:
        reason = f"image {entry.image_sizes.index((0, 0))}: got no JPEG header, expected a JPEG file"
        raise BadSample(reason, shard=entry.shard, offset=entry.members["json"].offset, key=entry.key)
    return tiles_per_image(entry.image_sizes, layout)


def _content(entries: Sequence[SampleEntry]) -> str:
    """Digest of what was counted: it changes when a shard is written anew."""
    parts = [[entry.key, entry.members["json"].sha256, entry.image_sizes] for entry in entries]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _load(path: Path, content: str, num_samples: int) -> list[SampleSize] | None:
    try:
        record: Any = json.loads(path.read_bytes())
        if record["content"] != content or len(record["samples"]) != num_samples:
            return None
        return [
            SampleSize(prefix_tokens=int(prefix), question_tokens=tuple(map(int, questions)), tiles=int(tiles))
            for prefix, questions, tiles in record["samples"]
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # absent or damaged: it is counted again


def _store(path: Path, content: str, sizes: Sequence[SampleSize]) -> None:
    samples = [[size.prefix_tokens, size.question_tokens, size.tiles] for size in sizes]
    record = {"content": content, "samples": samples}
    try:
        write_atomically(path, json.dumps(record, separators=(",", ":")).encode())
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        # a directory that this user may only read is counted again each time
