"""Answers with their references and a judge in, ratings (0..100) by question and everything that went wrong out."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

from trainer.evaluate.judge import Judge, NoJudge, parse_reply
from trainer.evaluate.judge_remote import NoReplyError, RemoteJudge
from trainer.evaluate.submission import Problem

_SHOWN = 80


@dataclass(frozen=True, kw_only=True)
class Ratings:
    """What a judge said.

    Attributes:
        values: rating by question id; questions for which no reply came are left out.
        is_given_up: the judge stopped replying, so that no mean of its ratings means anything.
        of_all: whether it was asked about questions that the graph gate drops, too.
    """

    values: Mapping[str, float]
    is_given_up: bool = False
    of_all: bool = True

    def mean(self, names: Sequence[str]) -> float | None:
        """Mean over the questions with a reply; 0 for no question, None where there was no usable judge."""
        if not names:
            return 0.0
        rated = [self.values[name] for name in names if name in self.values]
        return None if self.is_given_up or not rated else sum(rated) / len(rated)


def rate(
    asked: Sequence[tuple[str, str, str]], judge: Judge | NoJudge, *, of_all: bool = True
) -> tuple[Ratings | None, list[Problem]]:
    """Ask about each (id, answer, reference), equal pairs once, `judge.workers` at a time; None without a judge."""
    if isinstance(judge, NoJudge):
        return None, []
    pairs = list(dict.fromkeys((answer, reference) for _, answer, reference in asked))
    if isinstance(judge, RemoteJudge):
        replies = _replies_at_once(judge, pairs)
    else:
        replies = [_reply(judge, *pair) for pair in pairs]
    by_pair = dict(zip(pairs, replies, strict=True))
    values: dict[str, float] = {}
    problems = []
    for name, answer, reference in asked:
        reply = by_pair[answer, reference]
        if isinstance(reply, NoReplyError):
            problems.append(Problem(kind="judge_failure", id=name, detail=f"{reply}; left out of the mean"))
            continue
        values[name], is_plain = parse_reply(reply)
        if not is_plain:
            detail = f"got {reply[:_SHOWN]!r}, expected a number in 0..100; taken as {values[name]}"
            problems.append(Problem(kind="judge_reply", id=name, detail=detail))
    is_given_up = any(isinstance(reply, NoReplyError) and reply.is_final for reply in replies)
    if is_given_up:
        detail = "stopped replying: chatgpt, match and final are left out; what it replied is kept, run again to go on"
        problems.append(Problem(kind="judge_given_up", id="judge", detail=detail))
    return Ratings(values=values, is_given_up=is_given_up, of_all=of_all), problems


def _replies_at_once(judge: RemoteJudge, pairs: Sequence[tuple[str, str]]) -> list[str | NoReplyError]:
    """The reply to each pair; whoever stops the run does not wait for a judge that hangs."""
    pool = ThreadPoolExecutor(judge.workers)
    with ExitStack() as on_failure:
        on_failure.callback(pool.shutdown, wait=False, cancel_futures=True)
        on_failure.callback(judge.give_up)
        replies = list(pool.map(lambda pair: _reply(judge, *pair), pairs))
        on_failure.pop_all()
    pool.shutdown()
    return replies


def _reply(judge: Judge, answer: str, reference: str) -> str | NoReplyError:
    try:
        return judge.reply(answer, reference)
    except NoReplyError as failure:
        return failure
