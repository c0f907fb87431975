"""Prompts in, the replies of an OpenAI-compatible endpoint or of a local command out: cached, tried again, given up."""

import hashlib
import http.client
import json
import os
import random
import re
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from email.message import Message
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import IO, Any

from trainer.evaluate.tags import MAX_READ

DEFAULT_PROMPT = """A driving assistant answered a question about the scene around a car.

Correct answer: {reference}

Given answer: {answer}

How close in meaning is the given answer to the correct one? Reply with one whole number from 0 (nothing agrees) to 100
(everything agrees) and nothing else."""

GIVE_UP_AFTER = 4
"""Prompts in a row without any reply after which the judge is not asked any more."""

_PLACE = re.compile(r"\{answer\}|\{reference\}")
_LARGEST_REPLY = 1_000_000
_LONGEST_WAIT = 60.0
_SHOWN = 300
_TEMPORARY = frozenset((408, 409, 425, 429, 500, 502, 503, 504, 529))
_REFUSED = frozenset((401, 403, 404))

Ask = Callable[[str], str]


class NoReplyError(Exception):
    """No reply came; `is_final` where no further prompt has a chance, `wait` is what the server asks for in seconds."""

    def __init__(self, message: str, *, is_temporary: bool = False, is_final: bool = False, wait: float = 0.0) -> None:
        super().__init__(message)
        self.is_temporary, self.is_final, self.wait = is_temporary, is_final, wait


class ReplyCache:
    """Replies by prompt, kept in a file of JSON lines; a line cut off by a kill is passed over when it is read."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._replies: dict[str, str] = {}
        if path is not None and path.is_file():
            for line in path.read_bytes().split(b"\n"):
                key, reply = _cache_line(line)
                self._replies[key] = reply
            self._replies.pop("", None)

    def get(self, key: str) -> str | None:
        """The reply kept, or None."""
        return self._replies.get(key)

    def put(self, key: str, reply: str) -> None:
        """Keep a reply, on disk at once.

        Raises:
            OSError: the file cannot be written.
        """
        line = json.dumps({"key": key, "reply": reply}).encode() + b"\n"
        with self._lock:
            self._replies[key] = reply
            if self._path is not None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with self._path.open("ab+") as file:
                    file.write(b"" if _ends_whole(file) else b"\n")
                    file.write(line)


def _cache_line(line: bytes) -> tuple[str, str]:
    """Key and reply; the key is "" where the line is none that was written whole."""
    try:
        row = json.loads(line)
    except ValueError:
        return "", ""
    key, reply = (row.get("key"), row.get("reply")) if isinstance(row, dict) else (None, None)
    return (key, reply) if isinstance(key, str) and isinstance(reply, str) else ("", "")


def _ends_whole(file: IO[bytes]) -> bool:
    size = file.seek(0, 2)
    if size == 0:
        return True
    file.seek(size - 1)
    return file.read(1) == b"\n"


@dataclass(kw_only=True)
class RemoteJudge:
    """Asks by prompt; several threads may.

    Attributes:
        ask: prompt to reply; raises `NoReplyError`.
        name: what replies come from; part of the key under which they are kept.
        cache: replies of earlier runs.
        prompt: holds {answer} and {reference}.
        attempts: how often a prompt is tried.
        wait: seconds before the second attempt, doubled before each further one, with jitter.
        workers: prompts asked at once.
        is_reply: whether a reply is kept; others are asked for again in the next run.
        sleep: waits, in seconds.
    """

    ask: Ask
    name: str
    cache: ReplyCache
    is_reply: Callable[[str], bool]
    prompt: str = DEFAULT_PROMPT
    attempts: int = 4
    wait: float = 1.0
    workers: int = 8
    sleep: Callable[[float], None] = time.sleep
    _failed_in_a_row: int = field(default=0, init=False)
    _is_given_up: bool = field(default=False, init=False)

    def reply(self, answer: str, reference: str) -> str:
        """The reply, kept or new; of an answer the first `tags.MAX_READ` characters are sent.

        Raises:
            NoReplyError: no attempt brought one, or the judge was given up.
            OSError: the cache cannot be written.
        """
        texts = {"{answer}": answer[:MAX_READ], "{reference}": reference}
        prompt = _PLACE.sub(lambda place: texts[place[0]], self.prompt)
        prompt = prompt.encode("utf-8", "replace").decode()  # lone surrogates can be sent to nobody
        key = hashlib.sha256(f"{self.name}\n{prompt}".encode()).hexdigest()
        kept = self.cache.get(key)
        if kept is not None:
            return kept
        reply = self._ask_again_and_again(prompt)
        if self.is_reply(reply):
            self.cache.put(key, reply)
        return reply

    def give_up(self) -> None:
        """Ask nothing any more, not even again what is being asked."""
        self._is_given_up = True

    def _ask_again_and_again(self, prompt: str) -> str:
        for attempt in range(1, self.attempts + 1):
            if self._is_given_up:
                raise NoReplyError("not asked: the judge was given up", is_final=True)
            try:
                reply = self.ask(prompt)
            except NoReplyError as failure:
                self._is_given_up |= failure.is_final
                if attempt == self.attempts or not failure.is_temporary:
                    self._count_failure(failure)
                    raise
                pause = max(failure.wait, self.wait * 2 ** (attempt - 1) * random.uniform(0.5, 1.0))
                self.sleep(min(pause, _LONGEST_WAIT))
            else:
                self._failed_in_a_row = 0
                return reply
        raise AssertionError("attempts is at least 1")

    def _count_failure(self, failure: NoReplyError) -> None:
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= GIVE_UP_AFTER:
            self._is_given_up = failure.is_final = True


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another host."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> None:
        return None


def endpoint(url: str, model: str, key: str | None, *, timeout: float) -> Ask:
    """Asks `URL/chat/completions`; the key goes into the request's header and nowhere else. `timeout` in seconds."""
    opener = urllib.request.build_opener(_NoRedirects)
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    address = url.rstrip("/") + "/chat/completions"

    def ask(prompt: str) -> str:
        body = {"model": model, "messages": [{"role": "user", "content": prompt}], "temperature": 0}
        request = urllib.request.Request(address, json.dumps(body).encode(), headers)
        deadline = time.monotonic() + timeout
        try:
            with opener.open(request, timeout=timeout) as response:
                data = _read(response, deadline)
        except urllib.error.HTTPError as error:
            with error:
                reason = _reason(error, deadline, key)
            raise NoReplyError(
                f"{address}: got status {error.code}{reason}",
                is_temporary=error.code in _TEMPORARY,
                is_final=error.code in _REFUSED or 300 <= error.code < 400,
                wait=_retry_after(error.headers),
            ) from None
        except (OSError, http.client.HTTPException) as error:
            cause = getattr(error, "reason", error)
            raise NoReplyError(f"{address}: no reply ({cause})", is_temporary=True) from None
        return _completion(data, address)

    return ask


def _read(response: http.client.HTTPResponse | urllib.error.HTTPError, deadline: float) -> bytes:
    """The body, at most `_LARGEST_REPLY` bytes; TimeoutError where it trickles in until after the deadline."""
    data = b""
    while len(data) < _LARGEST_REPLY and (part := response.read1(_LARGEST_REPLY - len(data))):
        data += part
        if time.monotonic() > deadline:
            raise TimeoutError("timed out within its body")
    return data


def _reason(error: urllib.error.HTTPError, deadline: float, key: str | None) -> str:
    """The beginning of what a server says of its refusal, on one line and without the key; "" where it says nothing."""
    try:
        said = _read(error, deadline).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        return ""
    said = " ".join((said.replace(key, "...") if key else said).split())
    return f": {said[:_SHOWN]}" if said.isprintable() and said else ""


def _retry_after(headers: Message) -> float:
    """Seconds, which the header gives as such or as a date; 0 without a header that can be read."""
    text = headers.get("Retry-After", "")
    if text.isascii() and text.isdecimal():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0


def _completion(data: bytes, address: str) -> str:
    try:
        content = json.loads(data)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        content = None
    if not isinstance(content, str):
        raise NoReplyError(f"{address}: got no choices[0].message.content in the reply", is_temporary=True)
    return content


def command(words: Sequence[str], *, timeout: float) -> Ask:
    """Runs a program for each prompt, without a shell: prompt on its standard input, reply on its standard output.

    After `timeout` seconds it is killed with all programs that it has started.
    """

    def ask(prompt: str) -> str:
        try:
            program = subprocess.Popen(
                list(words),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            raise NoReplyError(f"{words[0]}: cannot be run ({error.strerror})", is_final=True) from None
        with program:
            try:
                reply, _ = program.communicate(prompt.encode(), timeout=timeout)
            except subprocess.TimeoutExpired:
                raise NoReplyError(f"{words[0]}: no reply in {timeout:g} s", is_temporary=True) from None
            finally:
                if program.returncode is None:  # not waited for yet, so the id is still its own
                    os.killpg(program.pid, signal.SIGKILL)
        if program.returncode:
            raise NoReplyError(f"{words[0]}: exit status {program.returncode}", is_temporary=True)
        return reply[:_LARGEST_REPLY].decode("utf-8", "replace")

    return ask
