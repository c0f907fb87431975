"""Where bytes come from: local files, addresses, and the copy of them on disk."""

import os
import ssl
from concurrent.futures import ThreadPoolExecutor

import fsspec
import pytest

from data_shards import remote_files as remote_files_module
from data_shards.cache import CachedFiles
from data_shards.entries import ShardError
from data_shards.read import read_frame
from data_shards.remote import CacheSettings, RemoteIndex, open_dataset
from data_shards.remote_files import FsspecFiles, HttpFiles, as_url, remote_files
from data_shards.retry import Retry, Transient
from data_shards.storage import LocalFiles, Unreachable
from tests.helpers.frames import camera_frames, write_dataset
from tests.helpers.shaky_server import shaky_server

QUICK = Retry(attempts=12, first_wait=0.001, longest_wait=0.002)
FRAMES = camera_frames()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "x.tar").write_bytes(bytes(range(200)))
    return tmp_path


def test_local_files_are_read_in_ranges_that_end_with_the_file(folder):
    files = LocalFiles(folder)
    assert files.read("x.tar", 3, 5) == bytes(range(3, 8))
    assert files.read("x.tar", 195, 100) == bytes(range(195, 200))
    assert files.read("x.tar", 500, 10**15) == b""


@pytest.mark.parametrize("name", ["../x.tar", "/etc/passwd", "a/b", "..", "", "a\\b", "a\0b"])
def test_names_cannot_leave_the_folder(folder, name):
    inner = folder / "inner"
    inner.mkdir()
    for files in (LocalFiles(inner), HttpFiles("http://127.0.0.1:9", QUICK), CachedFiles(LocalFiles(inner), inner, 9)):
        with pytest.raises(FileNotFoundError, match="plain name"):
            files.read(name, 0, 1)


def test_ranges_over_http_are_those_of_the_file(folder):
    with shaky_server(folder) as server:
        files = HttpFiles(server.url, QUICK)
        assert files.read("x.tar", 3, 5) == bytes(range(3, 8))
        assert files.read("x.tar", 195, 100) == bytes(range(195, 200))
        assert files.read("x.tar", 500, 10) == b""
        assert files.read_whole("x.tar") == bytes(range(200))
        with pytest.raises(FileNotFoundError, match="404"):
            files.read("y.tar", 0, 1)


def test_dropped_connections_are_tried_again(folder):
    with shaky_server(folder, drop=0.4, seed=1) as server:
        files = HttpFiles(server.url, QUICK)
        for i in range(60):
            assert files.read("x.tar", i, 100) == bytes(range(i, i + 100))
        assert server.dropped > 15


def test_a_server_that_is_gone_is_named_and_is_no_fault_of_a_sample(folder):
    with shaky_server(folder) as server:
        url = server.url
    with pytest.raises(Unreachable, match=rf"{url}/x\.tar \(bytes=0-9\).*tried 3 times"):
        HttpFiles(url, Retry(attempts=3, first_wait=0.001)).read("x.tar", 0, 10)


def test_a_server_without_ranges_is_refused(folder):
    with shaky_server(folder, ranges=False) as server, pytest.raises(Unreachable, match="whole file"):
        HttpFiles(server.url, QUICK).read("x.tar", 0, 10)


@pytest.mark.parametrize("fault", ["long", "garbled", "open", "other", "redirect"])
def test_an_answer_that_is_not_what_was_asked_for_is_asked_for_again(folder, fault):
    with shaky_server(folder, faults=[fault] * 2) as server:
        assert HttpFiles(server.url, QUICK).read("x.tar", 20, 100) == bytes(range(20, 120))
        assert len(server.requests) == 3


def test_a_store_that_lets_nobody_read_is_no_fault_of_a_sample(folder):
    with shaky_server(folder, faults=["403"]) as server:
        with pytest.raises(Unreachable, match=r"x\.tar: status 403.*access rights"):
            HttpFiles(server.url, QUICK).read("x.tar", 0, 10)
        assert len(server.requests) == 1
        assert HttpFiles(server.url, QUICK).read("x.tar", 0, 1) == b"\0"
    system = fsspec.filesystem("memory")
    system.pipe("/locked/x.tar", bytes(9))

    class Locked(FsspecFiles):
        def _range(self, *arguments):
            raise PermissionError("Forbidden")

    with pytest.raises(Unreachable, match="Forbidden; check the access rights"):
        Locked("memory://locked", QUICK).read("x.tar", 0, 1)


def test_a_connection_that_tls_breaks_off_is_tried_again(folder, monkeypatch):
    with shaky_server(folder) as server:
        files = HttpFiles(server.url, QUICK)
        opened = remote_files_module.urllib.request.urlopen
        failures = [ssl.SSLEOFError(8, "EOF occurred in violation of protocol"), OSError(113, "No route to host")]

        def shaky(*arguments, **options):
            answer = opened(*arguments, **options)
            if failures:
                answer.read = lambda *_: (_ for _ in ()).throw(failures.pop())
            return answer

        monkeypatch.setattr(remote_files_module.urllib.request, "urlopen", shaky)
        assert files.read("x.tar", 3, 5) == bytes(range(3, 8))
        assert not failures


def test_errors_of_the_libraries_below_s3_are_tried_again(monkeypatch):
    class NoAnswerError(Exception):
        """As botocore's, derives from no OSError."""

    system = fsspec.filesystem("memory")
    system.pipe("/bucket/x.tar", bytes(range(200)))
    failures = [NoAnswerError("no endpoint")] * 2
    cat_file = type(system).cat_file

    def shaky(self, *arguments, **options):
        if failures:
            raise failures.pop()
        return cat_file(self, *arguments, **options)

    monkeypatch.setattr(type(system), "cat_file", shaky)
    assert FsspecFiles("memory://bucket", QUICK, (NoAnswerError,)).read("x.tar", 3, 5) == bytes(range(3, 8))
    failures += [NoAnswerError("no endpoint")] * 12
    with pytest.raises(Unreachable, match=r"x\.tar: no endpoint; tried 12 times"):
        FsspecFiles("memory://bucket", QUICK, (NoAnswerError,)).read("x.tar", 3, 5)


def test_a_real_s3_client_that_finds_no_store_ends_in_a_plain_error(monkeypatch):
    pytest.importorskip("s3fs")
    for name, value in (("ENDPOINT_URL", "http://127.0.0.1:9"), ("ACCESS_KEY_ID", "a"), ("SECRET_ACCESS_KEY", "b")):
        monkeypatch.setenv(f"AWS_{name}", value)
    with pytest.raises(Unreachable, match=r"s3://bucket/data/x\.tar: Could not connect.*tried 2 times"):
        remote_files("s3://bucket/data", Retry(attempts=2, first_wait=0.001)).read("x.tar", 0, 1)


def test_waits_between_tries_grow(monkeypatch):
    waits = []
    monkeypatch.setattr("data_shards.retry.time.sleep", waits.append)

    def fail():
        raise Transient("no")

    with pytest.raises(Unreachable, match="it: no; tried 6 times"):
        Retry(attempts=6, first_wait=1.0, longest_wait=4.0).run(fail, "it")
    assert [0.5 * w <= got < 1.5 * w for w, got in zip([1, 2, 4, 4, 4], waits, strict=True)] == [True] * 5


def test_fsspec_stores_are_read_in_ranges_too():
    system = fsspec.filesystem("memory")
    system.pipe("/bucket/x.tar", bytes(range(200)))
    files = FsspecFiles("memory://bucket", QUICK)
    assert files.read("x.tar", 3, 5) == bytes(range(3, 8))
    assert files.read("x.tar", 195, 100) == bytes(range(195, 200))
    assert files.read("x.tar", 500, 10) == b""
    assert files.read_whole("x.tar") == bytes(range(200))
    with pytest.raises(FileNotFoundError):
        files.read("y.tar", 0, 1)


def test_s3_without_its_package_says_what_to_install(monkeypatch):
    def missing(protocol):
        raise ImportError(f"no module for {protocol}")

    monkeypatch.setattr(remote_files_module.fsspec, "get_filesystem_class", missing)
    with pytest.raises(ShardError, match="pip install s3fs"):
        remote_files("s3://bucket/data", QUICK)


def test_a_path_that_lost_a_slash_is_an_address_again(tmp_path):
    assert as_url("https:/host/a/b/") == "https://host/a/b"
    assert as_url("s3://bucket/a") == "s3://bucket/a"
    assert as_url(tmp_path) is None


@pytest.mark.parametrize("location", ["pipe:cat /etc/passwd", "file:///etc", "ftp://host/a"])
def test_other_schemes_are_refused(tmp_path, location):
    with pytest.raises(ShardError, match="got the scheme"):
        open_dataset(location, CacheSettings(directory=tmp_path))


class Counting(LocalFiles):
    reads = 0

    def read(self, name, offset, size):
        self.reads += 1
        return super().read(name, offset, size)


def test_a_range_read_before_comes_from_the_cache(folder):
    inner = Counting(folder)
    files = CachedFiles(inner, folder / "cache", 1000)
    assert files.read("x.tar", 3, 5) == files.read("x.tar", 3, 5) == bytes(range(3, 8))
    assert inner.reads == 1
    assert files.forget("x.tar", 3, 5)
    assert not files.forget("x.tar", 3, 5)
    files.read("x.tar", 3, 5)
    assert inner.reads == 2


def test_the_cache_keeps_to_its_size_and_drops_what_was_unused_longest(folder):
    inner = Counting(folder)
    files = CachedFiles(inner, folder / "cache", 100)
    for i in range(30):
        files.read("x.tar", i, 10)
        files.read("x.tar", 0, 10)
        stored = [p for p in (folder / "cache").rglob("*-10") if p.is_file()]
        assert sum(p.stat().st_size for p in stored) <= 110
    assert inner.reads == 30
    assert {p.name for p in stored} >= {"0-10", "29-10"}


def test_what_is_larger_than_the_cache_is_read_and_not_kept(folder):
    files = CachedFiles(LocalFiles(folder), folder / "cache", 50)
    assert len(files.read("x.tar", 0, 60)) == 60
    assert not (folder / "cache").exists()


def test_threads_may_share_a_cache(folder):
    files = [CachedFiles(LocalFiles(folder), folder / "cache", 60) for _ in range(4)]

    def read_many(one):
        return [one.read("x.tar", i, 20) for i in range(80)]

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(read_many, files))
    assert results == [[bytes(range(i, i + 20)) for i in range(80)]] * 4


def test_a_cache_that_cannot_be_used_is_no_fault_of_a_sample(folder):
    (folder / "cache").write_text("in the way")
    with pytest.raises(Unreachable, match="cache cannot be used"):
        CachedFiles(LocalFiles(folder), folder / "cache", 100).read("x.tar", 0, 1)


@pytest.fixture
def dataset(tmp_path):
    write_dataset(tmp_path / "data", FRAMES, samples_per_shard=3)
    return tmp_path / "data"


def settings(tmp_path, **changes):
    return CacheSettings(directory=tmp_path / "cache", retry=QUICK, **changes)


def test_a_dataset_at_an_address_gives_the_frames_of_the_directory(dataset, tmp_path):
    with shaky_server(dataset) as server:
        index = open_dataset(server.url, settings(tmp_path))
        assert isinstance(index, RemoteIndex)
        assert [read_frame(index, i) for i in range(len(index))] == FRAMES
        before = len(server.requests)
        assert before == 1 + 2 + len(FRAMES)
        assert read_frame(index, 0) == FRAMES[0]
        assert [read_frame(open_dataset(server.url, settings(tmp_path)), 1)] == FRAMES[1:2]
        assert server.requests[before:] == ["/dataset.json"]


def test_a_damaged_copy_is_fetched_again(dataset, tmp_path):
    with shaky_server(dataset) as server:
        index = open_dataset(server.url, settings(tmp_path))
        read_frame(index, 2)
        (copy,) = (p for p in (index.root / "frames").rglob("*-*") if p.is_file())
        content = copy.read_bytes()
        copy.write_bytes(content[:40] + bytes([content[40] ^ 1]) + content[41:])
        assert read_frame(index, 2) == FRAMES[2]
        assert copy.read_bytes() == content


def test_a_damaged_copy_of_an_index_is_fetched_again(dataset, tmp_path):
    with shaky_server(dataset) as server:
        mirror = open_dataset(server.url, settings(tmp_path)).root
        (mirror / "shard-000001.index.json").write_bytes(b"{}")
        index = open_dataset(server.url, settings(tmp_path))
        assert [read_frame(index, i) for i in range(len(index))] == FRAMES


def test_without_room_nothing_but_the_indexes_is_kept(dataset, tmp_path):
    with shaky_server(dataset) as server:
        index = open_dataset(server.url, settings(tmp_path, max_bytes=0))
        assert [read_frame(index, 0), read_frame(index, 0)] == [FRAMES[0]] * 2
        assert sum("shard-000000.tar" in path for path in server.requests) == 2
        assert not (index.root / "frames").exists()


def test_an_address_without_a_dataset_file_says_what_to_do(tmp_path):
    (tmp_path / "empty").mkdir()
    with shaky_server(tmp_path / "empty") as server, pytest.raises(ShardError, match=r"data_shards index DIR"):
        open_dataset(server.url, settings(tmp_path))


def test_a_store_opened_before_a_fork_works_after_it(dataset, tmp_path):
    with shaky_server(dataset) as server:
        index = open_dataset(server.url, settings(tmp_path, max_bytes=0))
        read_frame(index, 0)
        child = os.fork()
        if child == 0:
            os._exit(0 if read_frame(index, 1) == FRAMES[1] else 1)
        assert os.waitpid(child, 0)[1] == 0
