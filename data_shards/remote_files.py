"""Names of files under an http(s) or s3 address in, ranges of their bytes out; failed requests are tried again."""

import http.client
import importlib
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from pathlib import Path
from typing import Any

import fsspec

from data_shards.entries import ShardError
from data_shards.retry import Retry, Transient
from data_shards.storage import RemoteStorage, Unreachable, plain_name

_ADDRESS = re.compile(r"(https?|s3):/+(.+)")
_TIMEOUT_S = 60
_BUSY = (408, 425, 429, 500, 502, 503, 504)
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/")


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
    return FsspecFiles(url, retry, _s3_errors())


def _s3_errors() -> tuple[type[Exception], ...]:
    """What s3fs lets through from the libraries below it, where a store does not answer; no OSError."""
    names = (("botocore.exceptions", "BotoCoreError"), ("aiohttp", "ClientError"))
    return tuple(getattr(importlib.import_module(module), name) for module, name in names)


class HttpFiles(RemoteStorage):
    """Files under an http(s) address, by range requests; proxies are taken from the environment."""

    def __init__(self, url: str, retry: Retry) -> None:
        self._url, self._retry = url, retry

    def read(self, name: str, offset: int, size: int) -> bytes:
        """As `Storage.read`."""
        address = f"{self._url}/{urllib.parse.quote(plain_name(name))}"
        if not size:
            return b""
        what = f"{address} (bytes={offset}-{offset + size - 1})"
        with _refusal_of_the_store():
            return self._retry.run(lambda: _fetch(address, (offset, size)), what)

    def read_whole(self, name: str) -> bytes:
        """As `RemoteStorage.read_whole`."""
        address = f"{self._url}/{urllib.parse.quote(plain_name(name))}"
        return self._retry.run(lambda: _fetch(address, None), address)


@contextmanager
def _refusal_of_the_store() -> Iterator[None]:
    """A range that may not be read is no fault of the sample that was wanted: access may be mended, and it is sound."""
    try:
        yield
    except PermissionError as error:
        raise Unreachable(f"{error}; check the access rights and whether they have expired") from error


def _fetch(address: str, span: tuple[int, int] | None) -> bytes:
    """The whole of a file, or a range of it by offset and size."""
    request = urllib.request.Request(address, headers={"Accept-Encoding": "identity"})
    if span:
        request.add_header("Range", f"bytes={span[0]}-{span[0] + span[1] - 1}")
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
            status, headers = answer.status, answer.headers
            data = answer.read(span[1]) if span and status == http.client.PARTIAL_CONTENT else b""
            if not span:
                data = answer.read()
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            return b""
        if error.code in _BUSY:
            raise Transient(f"status {error.code}") from error
        if error.code in (http.client.NOT_FOUND, http.client.GONE):
            raise FileNotFoundError(f"{address}: status {error.code}") from error
        raise PermissionError(f"{address}: status {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:  # of the connection, also where TLS breaks off
        raise Transient(str(error) or repr(error)) from error
    if span and status != http.client.PARTIAL_CONTENT:
        raise Unreachable(f"{address}: the server answers a range request with the whole file; serve with another")
    _check_length(data, span, headers)
    return data


def _check_length(data: bytes, span: tuple[int, int] | None, headers: Message) -> None:
    """Refuse another range than was asked for, and less than the server promised."""
    length = headers.get("Content-Length", "")
    promised = [int(length)] if length.isdecimal() else []
    found = _CONTENT_RANGE.match(headers.get("Content-Range", ""))
    if span and found:
        first, last = int(found[1]), int(found[2])
        if first != span[0]:
            raise Transient(f"got bytes from {first} on, expected them from {span[0]} on")
        promised.append(last - first + 1)
    expected = max(promised, default=0)
    if len(data) < (min(expected, span[1]) if span else expected):
        raise Transient(f"got {len(data)} of {expected} bytes")


class FsspecFiles(RemoteStorage):
    """Files under an address that fsspec knows; the file system is made anew in each process."""

    def __init__(self, url: str, retry: Retry, errors: tuple[type[Exception], ...] = ()) -> None:
        """Set up; `errors` are those that a store raises besides OSError where it does not answer."""
        self._url, self._retry = url, retry
        self._errors: tuple[type[Exception], ...] = (OSError, *errors)
        self._system: tuple[int, Any] | None = None
        self._sizes: dict[str, int] = {}  # asked for once: some stores refuse a range beyond the end

    def read(self, name: str, offset: int, size: int) -> bytes:
        """As `Storage.read`."""
        address = f"{self._url}/{plain_name(name)}"
        if not size:
            return b""
        with _refusal_of_the_store():
            return self._retry.run(lambda: self._range(address, offset, size), address)

    def read_whole(self, name: str) -> bytes:
        """As `RemoteStorage.read_whole`."""
        address = f"{self._url}/{plain_name(name)}"
        return self._retry.run(lambda: self._range(address, None, None), address)

    def _range(self, address: str, offset: int | None, size: int | None) -> bytes:
        end = None if offset is None or size is None else offset + size
        system = self._open()
        try:
            if offset is not None and offset >= self._size(system, address):
                return b""
            return system.cat_file(address, start=offset, end=end)
        except (FileNotFoundError, PermissionError):
            raise
        except self._errors as error:
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
