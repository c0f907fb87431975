"""A dataset index, a tokenizer, a template and a layout come in; the token and tile counts of every sample come out.

Counted in one pass over the JSON members, and kept beside each shard as `<shard>.lengths-<hash>.npz`, the hash
covering everything the counts depend on."""

import errno
import hashlib
import io
import json
import zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerFast

from data_shards.atomic import write_atomically
from data_shards.chat import ChatTemplate, tokenize_frame
from data_shards.entries import SampleEntry
from data_shards.index import DatasetIndex
from data_shards.mixture import SampleSize, SizeTable
from data_shards.read import BadSample, read_frame
from data_shards.schema import image_name
from data_shards.tiling import ViewLayout, tiles_per_image

LENGTHS_VERSION = 2

_COLUMNS = ("prefix", "tiles", "first", "tokens")


def sample_sizes(
    index: DatasetIndex,
    *,
    tokenizer: PreTrainedTokenizerFast,
    template: ChatTemplate,
    layout: ViewLayout,
    tokens_per_tile: int,
) -> SizeTable:
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

    tables: list[SizeTable] = []
    start = 0
    for part in index.samples.parts:
        path = part.tar.with_suffix(f".lengths-{name}.npz")
        known = _load(path, part.index_sha256, part.num_samples)
        if known is None:
            known = SizeTable.of(count(start + i) for i in range(part.num_samples))
            _store(path, part.index_sha256, known)
        tables.append(known)
        start += part.num_samples
    return SizeTable.joined(tables)


def shard_numbers(index: DatasetIndex) -> np.ndarray:
    """The shard of each sample, int32 [S], counted in index order; as `MixtureEntry.shards`."""
    parts = index.samples.parts
    return np.repeat(np.arange(len(parts), dtype=np.int32), [part.num_samples for part in parts])


def tile_sizes(index: DatasetIndex, layout: ViewLayout) -> SizeTable:
    """Sizes for jobs that look at images only: tiles, no tokens; read from the index alone.

    Raises:
        BadSample: an image whose header gave no size.
    """
    return SizeTable.of(
        SampleSize(prefix_tokens=0, question_tokens=(), tiles=sum(_tiles(entry, layout))) for entry in index.samples
    )


def _tiles(entry: SampleEntry, layout: ViewLayout) -> list[int]:
    if (0, 0) in entry.image_sizes:
        reason = f"image {entry.image_sizes.index((0, 0))}: got no JPEG header, expected a JPEG file"
        raise BadSample(reason, shard=entry.shard, offset=entry.members["json"].offset, key=entry.key)
    names = [name for suffix in entry.members if (name := image_name(suffix))]
    return tiles_per_image(entry.image_sizes, layout, names)


def _load(path: Path, content: str, num_samples: int) -> SizeTable | None:
    try:
        with np.load(path, allow_pickle=False) as record:
            if str(record["content"]) != content or len(record["prefix"]) != num_samples:
                return None
            return SizeTable(**{name: record[name] for name in _COLUMNS})
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None  # absent or damaged: it is counted again


def _store(path: Path, content: str, sizes: SizeTable) -> None:
    record = io.BytesIO()
    np.savez(record, content=np.array(content), **{name: getattr(sizes, name) for name in _COLUMNS})
    try:
        write_atomically(path, record.getvalue())
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        # a directory that this user may only read is counted again each time
