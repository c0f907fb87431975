"""A folder and a seed in, a local HTTP server that knows ranges, drops a share of its connections and errs as asked."""

import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class ShakyServer(ThreadingHTTPServer):
    """Counts requests and drops; a dropped one ends before, or in the middle of, its answer.

    `faults` are made by the first requests, one each: `403`; `redirect` to the same file; half of a range with a
    Content-Length that is too `long`, `garbled` or left `open`; the `other` half of it.
    """

    daemon_threads = True

    def __init__(self, root: Path, drop: float, seed: int, ranges: bool, faults: Sequence[str]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root, self.drop, self.ranges = root, drop, ranges
        self.random = random.Random(seed)
        self.lock = threading.Lock()
        self.requests: list[str] = []
        self.faults = list(faults)
        self.dropped = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no news."""


@contextmanager
def shaky_server(
    root: Path, *, drop: float = 0.0, seed: int = 0, ranges: bool = True, faults: Sequence[str] = ()
) -> Iterator[ShakyServer]:
    """Serve `root`; `ranges=False` answers every request with the whole file."""
    server = ShakyServer(root, drop, seed, ranges, faults)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: ShakyServer

    def do_GET(self) -> None:  # noqa: N802
        with self.server.lock:
            self.server.requests.append(self.path)
            dropped, half = self.server.random.random() < self.server.drop, self.server.random.random() < 0.5
            self.server.dropped += dropped
            fault = self.server.faults.pop(0) if self.server.faults else ""
        if dropped and not half:
            return
        if fault == "403":
            self.send_error(403)
            return
        if fault == "redirect":
            self.send_response(302)
            self.send_header("Location", self.path)
            self.end_headers()
            return
        file = self.server.root / self.path.lstrip("/")
        if not file.is_file():
            self.send_error(404)
            return
        data, status, first = file.read_bytes(), 200, 0
        wanted = self.headers.get("Range")
        if wanted and self.server.ranges:
            first, last = map(int, wanted.removeprefix("bytes=").split("-"))
            if first >= len(data):
                self.send_error(416)
                return
            data, status = data[first : last + 1], 206
        half_way = len(data) // 2
        if fault == "other":
            first, data = first + half_way, data[half_way:]
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{first + len(data) - 1}/*")
        length = {"long": str(2 * len(data)), "garbled": "many"}.get(fault, str(len(data)))
        if fault != "open":
            self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(data[:half_way] if dropped or fault in ("open", "garbled", "long") else data)

    def log_message(self, *arguments: object) -> None:
        """Quiet."""
