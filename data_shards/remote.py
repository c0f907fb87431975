"""A directory or an http(s) or s3 address of shards in, its index out; of an address the small files are mirrored."""

import hashlib
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from data_shards.atomic import write_atomically
from data_shards.cache import CachedFiles
from data_shards.dataset_file import DATASET_FILE, read_dataset_file
from data_shards.entries import ShardError
from data_shards.index import DatasetIndex, index_path, load_index
from data_shards.remote_files import as_url, remote_files
from data_shards.retry import Retry
from data_shards.storage import LocalFiles, RemoteStorage, Storage, Unreachable

_CONNECTIONS = 16


@dataclass(frozen=True, kw_only=True)
class CacheSettings:
    """Where and how much of remote datasets is kept.

    Attributes:
        directory: may be shared by runs, ranks and machines.
        max_bytes: of each dataset's frames; 0 keeps none. Indexes are kept in any case.
        retry: of each request.
    """

    directory: Path
    max_bytes: int = 50 << 30
    retry: Retry = Retry()


@dataclass(frozen=True, kw_only=True)
class RemoteIndex(DatasetIndex):
    """An index whose shards lie elsewhere; `root` is the mirror of its small files.

    Attributes:
        files: all that lies there.
        storage: the same, perhaps with a cache.
    """

    files: RemoteStorage
    storage: Storage


def storage_of(index: DatasetIndex) -> Storage:
    """Where the members of an index's frames are read from."""
    return index.storage if isinstance(index, RemoteIndex) else LocalFiles(index.root)


def open_dataset(location: Path | str, cache: CacheSettings) -> DatasetIndex:
    """The index of a directory of shards, on this machine or at an address.

    At an address `dataset.json` and the shards' indexes have to lie beside the tars. They are copied into the cache,
    once for each content of `dataset.json`, with an empty file in the place of each tar.

    Raises:
        ShardError: as `load_index`; a file that is missing at an address; a store that does not answer.
    """
    url = as_url(location)
    if url is None:
        _check_scheme(location)
        return load_index(Path(location))
    files = remote_files(url, cache.retry)
    mirror, tars = _mirror_dataset_file(url, files, cache.directory.expanduser())
    _mirror_indexes(url, files, [tar for tar in tars if not index_path(tar).is_file()])
    try:
        index = load_index(mirror)
    except ShardError:
        _mirror_indexes(url, files, tars)  # the copy may be damaged, or of shards that were written anew since
        index = load_index(mirror)
    storage = CachedFiles(files, mirror / "frames", cache.max_bytes) if cache.max_bytes else files
    return RemoteIndex(root=mirror, samples=index.samples, files=files, storage=storage)


def mirror_file(index: DatasetIndex, name: str) -> None:
    """Copy a small file that may lie beside the shards at an address into their mirror; nothing where there is none.

    Raises:
        Unreachable: the store does not answer.
    """
    if not isinstance(index, RemoteIndex):
        return
    try:
        data = index.files.read_whole(name)
    except (FileNotFoundError, PermissionError):  # some stores call both the same
        return
    write_atomically(index.root / name, data)


def _check_scheme(location: Path | str) -> None:
    scheme = re.match(r"([a-z][a-z0-9+.-]+):", str(location))
    if scheme and not Path(location).exists():
        raise ShardError(f"{location}: got the scheme {scheme[1]!r}, expected a directory, http://, https:// or s3://")


def _mirror_dataset_file(url: str, files: RemoteStorage, directory: Path) -> tuple[Path, Sequence[Path]]:
    """Where a dataset is mirrored, and its tars as they would lie there."""
    data = _fetch(url, files, DATASET_FILE)
    name = "".join(c if c.isalnum() else "-" for c in url.rpartition("/")[2])[:40]
    mirror = directory / f"{name}-{hashlib.sha256(url.encode() + data).hexdigest()[:16]}"
    mirror.mkdir(parents=True, exist_ok=True)
    write_atomically(mirror / DATASET_FILE, data)
    info = read_dataset_file(mirror)
    assert info is not None
    return mirror, [mirror / shard.name for shard in info.shards]


def _mirror_indexes(url: str, files: RemoteStorage, tars: Sequence[Path]) -> None:
    def mirror(tar: Path) -> None:
        write_atomically(index_path(tar), _fetch(url, files, index_path(tar).name))
        tar.touch()

    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        list(pool.map(mirror, tars))


def _fetch(url: str, files: RemoteStorage, name: str) -> bytes:
    try:
        return files.read_whole(name)
    except FileNotFoundError as error:
        raise ShardError(
            f"{url}/{name}: there is no such file; run `python -m data_shards index DIR` on the dataset before it is "
            "copied there, and copy the .json files too"
        ) from error
    except (Unreachable, PermissionError) as error:
        raise ShardError(f"{url}/{name}: {error}; check the address, the network and the access rights") from error
