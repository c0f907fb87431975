"""Names of files under an http(s) or s3 address in, ranges of their bytes out; failed requests are tried again."""

import http.client
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fsspec

from data_shards.entries import ShardError
from data_shards.retry import Retry, Transient
from data_shards.storage import RemoteStorage, plain_name

_ADDRESS = re.compile(r"(https?|s3):/+(.+)")
_TIMEOUT_S = 60
_BUSY = (408, 425, 429, 500, 502, 503, 504)


def as_url(location: Path | str) -> str | None:
    """The address a path stands for, or None for one on this machine.

    A `Path` has lost a slash of `https://`; it is put back.
    """
    match = _ADDRESS.fullmatch(str(location).rstrip("/"))
    return f"{match[1]}://{match[2]}" if match else None


def remote_files(url: str, retry: Retry) -> RemoteStorage:
    """The files under an address.

    Raises:
        ShardError: reading from there needs a package that is not installed.
    """
    if not url.startswith("s3://"):
        return HttpFiles(url, retry)
    try:
        fsspec.get_filesystem_class("s3")
    except ImportError as error:
        raise ShardError(f"{url}: reading from s3 needs the package s3fs ({error}); pip install s3fs") from error
    return FsspecFiles(url, retry)


class HttpFiles:
    """Files under an http(s) address, by range requests; proxies are taken from the environment."""

    def __init__(self, url: str, retry: Retry) -> None:
        self._url, self._retry = url, retry

    def read(self, name: str, offset: int, size: int) -> bytes:
        """As `Storage.read`."""
        address = f"{self._url}/{urllib.parse.quote(plain_name(name))}"
        wanted = f"bytes={offset}-{offset + size - 1}"
        return self._retry.run(lambda: _fetch(address, wanted, size), f"{address} ({wanted})") if size else b""

    def read_whole(self, name: str) -> bytes:
        """As `RemoteStorage.read_whole`."""
        address = f"{self._url}/{urllib.parse.quote(plain_name(name))}"
        return self._retry.run(lambda: _fetch(address, None, None), address)

    def forget(self, name: str, offset: int, size: int) -> bool:
        """False: nothing is kept."""
        return False

    def fetch(self, name: str, spans: Sequence[tuple[int, int]]) -> None:
        """Nothing: there is no place to keep it."""


def _fetch(address: str, wanted: str | None, size: int | None) -> bytes:
    request = urllib.request.Request(address, headers={"Accept-Encoding": "identity"})
    if wanted:
        request.add_header("Range", wanted)
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
            if wanted and answer.status != http.client.PARTIAL_CONTENT:
                raise PermissionError(f"{address}: the server answers a range request with the whole file")
            data = answer.read() if size is None else answer.read(size)
            length = answer.headers.get("Content-Length")
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            return b""
        if error.code in _BUSY:
            raise Transient(f"status {error.code}") from error
        if error.code in (http.client.NOT_FOUND, http.client.GONE):
            raise FileNotFoundError(f"{address}: status {error.code}") from error
        raise PermissionError(f"{address}: status {error.code} {error.reason}") from error
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
        raise Transient(str(error) or repr(error)) from error
    if length is not None and len(data) < min(int(length), size if size is not None else int(length)):
        raise Transient(f"got {len(data)} of {length} bytes")
    return data


class FsspecFiles:
    """Files under an address that fsspec knows; the file system is made anew in each process."""

    def __init__(self, url: str, retry: Retry) -> None:
        self._url, self._retry = url, retry
        self._system: tuple[int, Any] | None = None
        self._sizes: dict[str, int] = {}  # asked for once: some stores refuse a range beyond the end

    def read(self, name: str, offset: int, size: int) -> bytes:
        """As `Storage.read`."""
        address = f"{self._url}/{plain_name(name)}"
        return self._retry.run(lambda: self._range(address, offset, size), address) if size else b""

    def read_whole(self, name: str) -> bytes:
        """As `RemoteStorage.read_whole`."""
        address = f"{self._url}/{plain_name(name)}"
        return self._retry.run(lambda: self._range(address, None, None), address)

    def forget(self, name: str, offset: int, size: int) -> bool:
        """False: nothing is kept."""
        return False

    def fetch(self, name: str, spans: Sequence[tuple[int, int]]) -> None:
        """Nothing: there is no place to keep it."""

    def _range(self, address: str, offset: int | None, size: int | None) -> bytes:
        end = None if offset is None or size is None else offset + size
        system = self._open()
        try:
            if offset is not None and offset >= self._size(system, address):
                return b""
            return system.cat_file(address, start=offset, end=end)
        except (FileNotFoundError, PermissionError):
            raise
        except (OSError, TimeoutError) as error:
            raise Transient(str(error) or repr(error)) from error

    def _size(self, system: Any, address: str) -> int:
        if address not in self._sizes:
            self._sizes[address] = system.size(address)
        return self._sizes[address]

    def _open(self) -> Any:
        if self._system is None or self._system[0] != os.getpid():
            protocol = self._url.partition("://")[0]
            self._system = (os.getpid(), fsspec.filesystem(protocol, skip_instance_cache=True))
        return self._system[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_system": None}
