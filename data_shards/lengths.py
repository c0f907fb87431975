"""A dataset index, a tokenizer, a template and a layout come in; the token and tile counts of every sample come out.

Counted in one pass over the JSON members, and kept beside each shard as `<shard>.lengths-<hash>.npz`, the hash
covering everything the counts depend on."""

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import accumulate, chain, islice
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerFast

from data_shards.atomic import write_where_allowed
from data_shards.chat import ChatError, ChatTemplate, tokenize_frame
from data_shards.entries import SampleEntry
from data_shards.index import DatasetIndex
from data_shards.mixture import SampleSize, SizeTable
from data_shards.read import BadSample, read_frame
from data_shards.remote import mirror_file
from data_shards.samples import ShardPart
from data_shards.schema import image_name
from data_shards.view_layout import LayoutError, ViewLayout, tiles_per_image

LENGTHS_VERSION = 2

_COLUMNS = ("prefix", "tiles", "first", "tokens")
_UNUSABLE = SampleSize(prefix_tokens=0, question_tokens=(), tiles=0)
"""Stands for a sample that cannot be counted; every other has a token of prefix at least."""


@dataclass(frozen=True, kw_only=True)
class CountedSizes:
    """Sizes of all samples of a dataset, in index order.

    Attributes:
        table: a sample that cannot be used has no token, question or tile in it, so that no plan shows it.
        bad: why, for each of those.
    """

    table: SizeTable
    bad: tuple[BadSample, ...] = ()

    def sound(self) -> SizeTable:
        """The table, where every sample can be used.

        Raises:
            BadSample: the first that cannot.
        """
        if self.bad:
            raise self.bad[0]
        return self.table


def count_samples(
    index: DatasetIndex,
    *,
    tokenizer: PreTrainedTokenizerFast,
    template: ChatTemplate,
    layout: ViewLayout,
    tokens_per_tile: int,
    share: tuple[int, int] = (0, 1),
) -> CountedSizes:
    """Sizes of all samples of a dataset; shards counted before with the same settings, here or where they lie, are not
    read.

    A frame that does not read, an image whose header gives no size and a text that holds a special token make a sample
    unusable. It is looked at again each time, so a mended shard is taken in.

    Args:
        tokens_per_tile: image tokens of one tile (256 at full size).
        share: (i, n) counts only shards i, i + n, i + 2n, ..., so that n processes can count a dataset together.
    """
    settings = {
        "version": LENGTHS_VERSION,
        "tokenizer": hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest(),
        "template": asdict(template),
        "layout": asdict(layout),
        "tokens_per_tile": tokens_per_tile,
    }
    name = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]

    def count(position: int) -> SampleSize | BadSample:
        entry = index.samples[position]
        try:
            frame = read_frame(index, position, with_images=False)
            tiles = _tiles(entry, layout)
            tokens = tokenize_frame(frame, [n * tokens_per_tile for n in tiles], tokenizer, template)
        except (BadSample, ChatError, LayoutError) as error:
            return _bad(entry, error)
        return SampleSize(
            prefix_tokens=len(tokens.prefix), question_tokens=tuple(map(len, tokens.segments)), tiles=sum(tiles)
        )

    starts = accumulate((part.num_samples for part in index.samples.parts), initial=0)
    own = islice(zip(starts, index.samples.parts, strict=False), share[0], None, share[1])
    shards = [_count_shard(index, part, start, f".lengths-{name}.npz", count) for start, part in own]
    return CountedSizes(
        table=SizeTable.joined([shard.table for shard in shards]),
        bad=tuple(chain.from_iterable(shard.bad for shard in shards)),
    )


def _count_shard(
    index: DatasetIndex, part: ShardPart, start: int, suffix: str, count: Callable[[int], SampleSize | BadSample]
) -> CountedSizes:
    """Sizes of the samples of a shard, the first of them at `start` of the index; those that a file beside the shard
    knows, here or where the shard lies, are not counted again."""
    path = part.tar.with_suffix(suffix)
    known = _load(path, part.index_sha256, part.num_samples)
    if known is None:
        mirror_file(index, path.name)
        known = _load(path, part.index_sha256, part.num_samples)
    unknown = range(part.num_samples) if known is None else np.flatnonzero(known.prefix == 0).tolist()
    counted = {i: count(start + i) for i in unknown}
    if known is None or any(isinstance(found, SampleSize) for found in counted.values()):
        known = SizeTable.of(
            _size(counted[i]) if known is None or i in counted else known[i] for i in range(part.num_samples)
        )
        _store(path, part.index_sha256, known)
    return CountedSizes(table=known, bad=tuple(found for found in counted.values() if isinstance(found, BadSample)))


def sample_sizes(
    index: DatasetIndex,
    *,
    tokenizer: PreTrainedTokenizerFast,
    template: ChatTemplate,
    layout: ViewLayout,
    tokens_per_tile: int,
) -> SizeTable:
    """As `count_samples`, of a dataset all of whose samples can be used.

    Raises:
        BadSample: one cannot.
    """
    counted = count_samples(
        index, tokenizer=tokenizer, template=template, layout=layout, tokens_per_tile=tokens_per_tile
    )
    return counted.sound()


def shard_numbers(index: DatasetIndex) -> np.ndarray:
    """The shard of each sample, int32 [S], counted in index order; as `MixtureEntry.shards`."""
    parts = index.samples.parts
    return np.repeat(np.arange(len(parts), dtype=np.int32), [part.num_samples for part in parts])


def count_tiles(index: DatasetIndex, layout: ViewLayout) -> CountedSizes:
    """Sizes for jobs that look at images only: tiles, no tokens; read from the index alone.

    An image whose header gives no size makes a sample unusable.
    """

    def count(entry: SampleEntry) -> SampleSize | BadSample:
        try:
            return SampleSize(prefix_tokens=0, question_tokens=(), tiles=sum(_tiles(entry, layout)))
        except (BadSample, LayoutError) as error:
            return _bad(entry, error)

    counted = [count(entry) for entry in index.samples]
    bad = tuple(found for found in counted if isinstance(found, BadSample))
    return CountedSizes(table=SizeTable.of(map(_size, counted)), bad=bad)


def tile_sizes(index: DatasetIndex, layout: ViewLayout) -> SizeTable:
    """As `count_tiles`, of a dataset all of whose samples can be used.

    Raises:
        BadSample: one cannot.
    """
    return count_tiles(index, layout).sound()


def _tiles(entry: SampleEntry, layout: ViewLayout) -> list[int]:
    if (0, 0) in entry.image_sizes:
        raise BadSample(f"image {entry.image_sizes.index((0, 0))}: got no JPEG header, expected a JPEG file")
    names = [name for suffix in entry.members if (name := image_name(suffix))]
    return tiles_per_image(entry.image_sizes, layout, names)


def _bad(entry: SampleEntry, error: ValueError) -> BadSample:
    """The error with the sample's place, where it lacks one."""
    if isinstance(error, BadSample) and error.shard:
        return error
    offset = min((span.offset for span in entry.members.values()), default=-1)
    return BadSample(str(error), shard=entry.shard, offset=offset, key=entry.key)


def _size(counted: SampleSize | BadSample) -> SampleSize:
    return counted if isinstance(counted, SampleSize) else _UNUSABLE


def _load(path: Path, content: str, num_samples: int) -> SizeTable | None:
    try:
        with np.load(path, allow_pickle=False) as record:
            if str(record["content"]) != content or len(record["prefix"]) != num_samples:
                return None
            return SizeTable(**{name: record[name] for name in _COLUMNS})
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile):
        return None  # absent or damaged (also so that zipfile takes it for encrypted): it is counted again


def _store(path: Path, content: str, sizes: SizeTable) -> None:
    record = io.BytesIO()
    np.savez(record, content=np.array(content), **{name: getattr(sizes, name) for name in _COLUMNS})
    write_where_allowed(path, record.getvalue())
