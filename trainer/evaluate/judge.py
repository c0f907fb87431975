"""A judge's name in, a judge out: what rates an answer against its reference from 0 to 100 in place of GPT."""

import math
import os
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from trainer.evaluate.judge_remote import DEFAULT_PROMPT, Ask, RemoteJudge, ReplyCache, command, endpoint

_ENDPOINT = re.compile(r"(.+)@(https?://[^\s@]+)")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_SCALE = re.compile(r"\b[01]\s*(?:-|–|to|and)\s*100\b")


class JudgeError(ValueError):
    """A judge that is not known; the message names what was got, what was expected and an example."""


class Judge(Protocol):
    """Rates answers."""

    def reply(self, answer: str, reference: str) -> str:
        """The reply, text that should be a number in 0..100; raises `NoReplyError` where none came."""


class NoJudge:
    """In place of a judge: the scores that need one are left out."""


@dataclass(frozen=True, kw_only=True)
class ConstantJudge:
    """Gives every answer the same rating, 0..100."""

    rating: float

    def reply(self, answer: str, reference: str) -> str:
        """The rating as text."""
        return str(self.rating)


class JaccardJudge:
    """Rates common words: 100 |A & G| // |A | G| over the sets of lower-cased words, 100 where both are empty."""

    def reply(self, answer: str, reference: str) -> str:
        """The rating as text."""
        answer_words, reference_words = set(answer.lower().split()), set(reference.lower().split())
        union = answer_words | reference_words
        return str(100 * len(answer_words & reference_words) // len(union) if union else 100)


@dataclass(frozen=True, kw_only=True)
class JudgeOptions:
    """How a judge outside of this program is asked.

    Attributes:
        cache: file of replies to keep and to use; None keeps nothing.
        prompt: holds {answer} and {reference}.
        key_variable: environment variable with the endpoint's key; none is sent where it is not set.
        attempts: how often a prompt is tried.
        timeout: seconds for one attempt.
        workers: prompts asked at once.
    """

    cache: Path | None = None
    prompt: str = DEFAULT_PROMPT
    key_variable: str = "OPENAI_API_KEY"
    attempts: int = 4
    timeout: float = 60.0
    workers: int = 8


def parse_judge(name: str, options: JudgeOptions | None = None) -> Judge | NoJudge:
    """`none`, `const:X` with X in 0..100, `jaccard`, `command:PROGRAM ARGUMENTS` or `openai:MODEL@URL`.

    Raises:
        JudgeError: any other name, a program that is not there, options that are not what they should be.
        OSError: the cache cannot be read.
    """
    if name == "none":
        return NoJudge()
    if name == "jaccard":
        return JaccardJudge()
    kind, _, value = name.partition(":")
    if kind in ("command", "openai"):
        return _remote_judge(kind, value, options or JudgeOptions())
    try:
        rating = float(value) if kind == "const" else math.nan
    except ValueError:
        rating = math.nan
    if not 0 <= rating <= 100:
        raise JudgeError(
            f"--judge: got {name!r}, expected none, jaccard or const:X with X in 0..100, such as const:50, "
            "or command:PROGRAM, or openai:MODEL@URL"
        )
    return ConstantJudge(rating=rating)


def _remote_judge(kind: str, value: str, options: JudgeOptions) -> RemoteJudge:
    if missing := [field for field in ("{answer}", "{reference}") if field not in options.prompt]:
        raise JudgeError(f"the judge's prompt: got no {' and no '.join(missing)}, expected both to be in it")
    if options.attempts < 1 or options.workers < 1 or not 0 < options.timeout < math.inf:
        raise JudgeError(
            f"got {options.attempts} attempts, {options.workers} workers and {options.timeout} s for the judge, "
            "expected all to be positive"
        )
    ask = _command(value, options) if kind == "command" else _endpoint(value, options)
    return RemoteJudge(
        ask=ask,
        name=f"{kind}:{value}",
        cache=ReplyCache(options.cache),
        is_reply=lambda reply: parse_reply(reply)[1],
        prompt=options.prompt,
        attempts=options.attempts,
        workers=options.workers,
    )


def _command(value: str, options: JudgeOptions) -> Ask:
    try:
        words = shlex.split(value)
    except ValueError as error:
        raise JudgeError(f"--judge: got command:{value!r} ({error}), expected command:PROGRAM ARGUMENTS") from error
    if not words or shutil.which(words[0]) is None:
        raise JudgeError(f"--judge: got command:{value!r}, expected a program that can be run")
    return command(words, timeout=options.timeout)


def _endpoint(value: str, options: JudgeOptions) -> Ask:
    found = _ENDPOINT.fullmatch(value)
    if found is None or not _is_address(found[2]):
        raise JudgeError(
            "--judge: got an openai judge of another form, expected openai:MODEL@URL such as "
            f"openai:my-model@http://localhost:8000/v1; a key goes into the variable {options.key_variable}"
        )
    key = os.environ.get(options.key_variable, "").strip()
    if not key.isascii() or not key.isprintable():
        raise JudgeError(
            f"variable {options.key_variable}: got other characters than a key has, expected printable ASCII"
        )
    return endpoint(found[2], found[1], key or None, timeout=options.timeout)


def _is_address(url: str) -> bool:
    """Whether something can be asked there: ASCII, a host that can be one, a port that can be one."""
    try:
        parts = urlsplit(url)
        return url.isascii() and bool((parts.hostname or "").encode("idna")) and parts.port != 0
    except ValueError:
        return False


def parse_reply(reply: str) -> tuple[float, bool]:
    """The rating in a reply, in 0..100, and whether the reply was plainly such a number.

    The original evaluation fails on other text. Here its first number counts, at most as 100; the scale itself
    (0-100) only where there is no other, and without a number the rating is 0. What lies outside of 0..100 counts as
    the nearer end.
    """
    try:
        rating = float(reply)
    except ValueError:
        found = _NUMBER.search(_SCALE.sub(" ", reply)) or _NUMBER.search(reply)
        return (min(float(found[0]), 100.0) if found else 0.0), False
    if not math.isfinite(rating):
        return 0.0, False
    return min(max(rating, 0.0), 100.0), 0 <= rating <= 100
