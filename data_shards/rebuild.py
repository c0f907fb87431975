"""A directory of tars in, perhaps of others; an index beside each of them and `dataset.json` over all out."""

from pathlib import Path

from data_shards.dataset_file import DatasetInfo, dataset_shards, read_dataset_file, unfinished, write_dataset_file
from data_shards.entries import ShardError
from data_shards.index import add_unique, shard_info, write_index
from data_shards.scan import index_shard


def rebuild_index(directory: Path) -> DatasetInfo:
    """Index every tar of a directory anew and write `dataset.json` over them.

    Raises:
        ShardError: no tars, a damaged tar, a frame that occurs twice, no frame at all, a dataset whose writing was cut
            short.
    """
    try:
        old = read_dataset_file(directory)
    except ShardError:
        old = None  # it is what is made anew here
    if old is not None and not old.complete:
        raise unfinished(directory)
    tars = sorted(directory.glob("*.tar"))
    if not tars:
        tars = dataset_shards(directory)
    first: dict[str, str] = {}
    shards = []
    for tar in tars:
        entries = index_shard(tar)
        add_unique(directory, first, ((entry.key, tar.name) for entry in entries))
        write_index(tar, entries)
        shards.append(shard_info(tar))
    if not first:
        raise ShardError(f"{directory}: got tars without a sample, expected frames; is it the folder you meant?")
    info = DatasetInfo(
        source=old.source if old else "unknown",
        licence=old.licence if old else "unknown",
        shards=tuple(shards),
        build=old.build if old else {},
        left_out=old.left_out if old else 0,
    )
    write_dataset_file(directory, info)
    return info
