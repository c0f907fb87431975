"""Judges outside of the program: a local endpoint and a script, kept replies, further attempts, giving up."""

import json
import socket
import sys
import threading
import time
from contextlib import contextmanager, suppress
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.helpers.waiting import lives, wait_until
from trainer.evaluate.judge import JudgeError, JudgeOptions, parse_judge
from trainer.evaluate.judge_remote import GIVE_UP_AFTER, NoReplyError, RemoteJudge, ReplyCache, command, endpoint
from trainer.evaluate.ratings import rate

KEY = "sk-secret-123"


@contextmanager
def server(*replies):
    """An endpoint that gives (status, body) in turn, the last one for ever; yields its URL and what it was sent."""
    seen, lock = [], threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                status, content, *headers = replies[min(len(seen), len(replies) - 1)]
                seen.append((self.path, self.headers.get("Authorization"), body))
            data = content if isinstance(content, bytes) else said(content)
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_port}/v1", seen
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


def said(text):
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()


def judge_of(ask, cache=None, **changes):
    return RemoteJudge(
        ask=ask, name="test", cache=ReplyCache(cache), is_reply=str.isdigit, sleep=lambda seconds: None, **changes
    )


def test_an_endpoint_is_asked_with_model_prompt_and_key(monkeypatch, tmp_path):
    monkeypatch.setenv("MY_KEY", KEY)
    with server((200, "62")) as (url, seen):
        options = JudgeOptions(key_variable="MY_KEY", cache=tmp_path / "c.jsonl")
        assert parse_judge(f"openai:some/model@{url}", options).reply("Turn {reference}.", "Turn right.") == "62"
    ((path, authorization, body),) = seen
    assert (path, authorization, body["model"]) == ("/v1/chat/completions", f"Bearer {KEY}", "some/model")
    prompt = body["messages"][0]["content"]
    assert "Turn {reference}." in prompt
    assert "Turn right." in prompt
    assert KEY not in (tmp_path / "c.jsonl").read_text()


def test_busy_servers_and_broken_replies_are_asked_again():
    with server((503, b""), (429, b"", ("Retry-After", "7")), (200, b"<html>"), (200, "40")) as (url, seen):
        waits = []
        judge = judge_of(endpoint(url, "m", None, timeout=60))
        judge.sleep = waits.append
        assert judge.reply("a", "b") == "40"
    assert len(seen) == 4
    assert seen[0][1] is None
    assert waits[1] == 7.0
    assert 0.5 <= waits[0] <= 1.0 < 2.0 <= waits[2] <= 4.0


@pytest.mark.parametrize(
    ("header", "low", "high"),
    [("in an hour", 60, 60), (formatdate(0), 0, 1), ("soon", 0, 1), (f"Mon, 01 Jan {'9' * 20} 00:00:00 GMT", 0, 1)],
)
def test_a_server_may_say_as_a_date_when_to_ask_again(header, low, high):
    if header == "in an hour":
        header = formatdate(time.time() + 3600)
    with server((429, b"", ("Retry-After", header)), (200, "40")) as (url, _):
        waits = []
        judge = judge_of(endpoint(url, "m", None, timeout=60))
        judge.sleep = waits.append
        assert judge.reply("a", "b") == "40"
    assert low <= waits[0] <= high


def test_a_reply_that_trickles_in_does_not_outlast_the_time(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        given_up = threading.Event()

        def trickle():
            connection, _ = listener.accept()
            with connection, suppress(OSError):
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
                for _ in range(500):
                    connection.sendall(b" ")
                    if given_up.wait(0.1):
                        break

        thread = threading.Thread(target=trickle)
        thread.start()
        with pytest.raises(NoReplyError, match="timed out") as error:
            endpoint(f"http://127.0.0.1:{listener.getsockname()[1]}", "m", None, timeout=0.5)("prompt")
        assert thread.is_alive(), "it was waited for to its end"
        given_up.set()
        assert error.value.is_temporary
        thread.join()


@pytest.mark.parametrize("status", [401, 403, 404, 302])
def test_a_refusal_is_final_and_names_no_key(status):
    with server((status, b"no", ("Location", "http://127.0.0.1:9/"))) as (url, seen):
        judge = judge_of(endpoint(url, "m", KEY, timeout=60))
        with pytest.raises(NoReplyError) as first:
            judge.reply("a", "b")
        with pytest.raises(NoReplyError, match="given up"):
            judge.reply("c", "d")
    assert len(seen) == 1
    assert first.value.is_final
    assert str(status) in str(first.value)
    assert KEY not in str(first.value)


def test_a_bad_request_says_the_server_s_reason_without_the_key_and_is_given_up_after_some():
    with server((400, f"temperature is not\nsupported for {KEY}".encode() + b"!" * 1000)) as (url, seen):
        judge = judge_of(endpoint(url, "m", KEY, timeout=60), workers=1)
        ratings, problems = rate([(f"q{i}", f"a{i}", "r") for i in range(20)], judge)
    assert len(seen) == GIVE_UP_AFTER
    assert "got status 400" in problems[0].detail
    assert "temperature is not supported for ...!!!" in problems[0].detail
    assert KEY not in problems[0].detail
    assert len(problems[0].detail) < 500
    assert problems[-1].kind == "judge_given_up"
    assert ratings.mean(["q0"]) is None


def test_replies_are_kept_and_cut_or_foreign_lines_passed_over(tmp_path):
    cache, asked = tmp_path / "new" / "replies.jsonl", []

    def ask(prompt):
        asked.append(prompt)
        return str(len(asked))

    assert [judge_of(ask, cache).reply(answer, "r") for answer in ("a", "b", "a")] == ["1", "2", "1"]
    data = cache.read_bytes()
    cache.write_bytes(b'[1]\n"x"\n' + data[:-5])  # killed while the second line was written
    assert judge_of(ask, cache).reply("a", "r") == "1"
    assert judge_of(ask, cache).reply("b", "r") == "3"
    assert judge_of(ask, cache).reply("b", "r") == "3"
    assert len(asked) == 3


def test_a_reply_that_is_no_number_is_not_kept(tmp_path):
    cache = tmp_path / "c.jsonl"
    assert judge_of(lambda prompt: "well", cache).reply("a", "b") == "well"
    assert judge_of(lambda prompt: "7", cache).reply("a", "b") == "7"


def test_after_failures_in_a_row_the_judge_is_given_up_and_the_rest_not_asked():
    asked = []

    def ask(prompt):
        asked.append(prompt)
        raise NoReplyError("down", is_temporary=True)

    pairs = [(f"q{i}", f"a{i}", "r") for i in range(20)]
    ratings, problems = rate(pairs, judge_of(ask, attempts=2, workers=1))
    assert len(asked) == 2 * GIVE_UP_AFTER
    assert ratings.mean([name for name, *_ in pairs]) is None
    assert [problem.kind for problem in problems] == ["judge_failure"] * 20 + ["judge_given_up"]


def test_a_run_that_ends_asks_nothing_again(tmp_path):
    asked = []

    def ask(prompt):
        asked.append(prompt)
        if "down" in prompt:
            raise NoReplyError("busy", is_temporary=True)
        return "50"

    judge = judge_of(ask, tmp_path, attempts=1000, workers=2)  # a directory: the reply cannot be kept
    judge.sleep = lambda seconds: time.sleep(0.05)
    with pytest.raises(IsADirectoryError):
        rate([("a", "good", "x"), ("b", "down", "x")], judge)
    after = len(asked)
    time.sleep(0.5)
    assert len(asked) <= after + 1 < 1000


def test_one_failed_reply_is_left_out_of_the_mean_and_counted():
    def ask(prompt):
        if "lost" in prompt:
            raise NoReplyError("too long")
        return "60"

    ratings, problems = rate([("q0", "lost", "r"), ("q1", "a", "r"), ("q2", "a", "r")], judge_of(ask, workers=3))
    assert ratings.mean(["q0", "q1", "q2"]) == 60.0
    assert [(problem.kind, problem.id) for problem in problems] == [("judge_failure", "q0")]


def test_a_judge_is_not_sent_a_runaway_answer_whole():
    prompts = []

    def ask(prompt):
        prompts.append(prompt)
        return "0"

    assert judge_of(ask).reply("x" * 10_000_000, "Stopped.") == "0"
    assert len(prompts[0]) < 21_000
    assert "Stopped." in prompts[0]


def test_a_program_gets_the_prompt_on_its_input(tmp_path):
    script = tmp_path / "judge.py"
    script.write_text("import sys\ntext = sys.stdin.read()\nprint(90 if 'Stopped.' in text else 10)\n")
    judge = parse_judge(f"command:{sys.executable} {script}", JudgeOptions(workers=1))
    assert judge.reply("Stopped.", "Moving.").strip() == "90"
    assert judge.reply("\ud800", "Moving.").strip() == "10"


@pytest.mark.parametrize(
    ("code", "timeout", "message"),
    [("raise SystemExit(3)", 60.0, "exit status 3"), ("import time; time.sleep(60)", 1.0, "no reply in 1")],
)
def test_a_program_that_fails_or_hangs_is_a_failure(code, timeout, message):
    with pytest.raises(NoReplyError, match=message):
        command([sys.executable, "-c", code], timeout=timeout)("prompt")


def test_what_a_hanging_program_has_started_is_killed_with_it(tmp_path):
    number = tmp_path / "number"
    script = f"sleep 600 & echo $! > {number}; sleep 600; echo 5"
    for timeout in (0.5, 30.0):
        with pytest.raises(NoReplyError, match="no reply"):
            command(["sh", "-c", script], timeout=timeout)("prompt")
        if number.is_file() and number.read_text():  # else it had not come to that
            break
    started = int(number.read_text())
    wait_until(lambda: not lives(started), 60)


@pytest.mark.parametrize(
    "name",
    [
        "command:",
        "command:/no/such/program",
        "command:'",
        "openai:",
        "openai:m",
        "openai:@http://x",
        "openai:m@ftp://x",
        "openai:m@http://a..b/v1",
        "openai:m@http://[x/v1",
        "openai:m@http://x:port/v1",
        "openai:m@http://x:99999/v1",
        "openai:m@http://x/\u00fc",
    ],
)
def test_judges_that_cannot_work_are_refused(name):
    with pytest.raises(JudgeError, match="--judge"):
        parse_judge(name)


def test_user_and_password_in_the_address_are_refused_unseen():
    with pytest.raises(JudgeError) as error:
        parse_judge("openai:m@https://user:secret@host/v1")
    assert "secret" not in str(error.value)


def test_a_malformed_key_is_refused_unseen(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk\nsecret")
    with pytest.raises(JudgeError, match="OPENAI_API_KEY") as error:
        parse_judge("openai:m@http://localhost:1/v1")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("change", [{"prompt": "{answer}"}, {"attempts": 0}, {"workers": 0}, {"timeout": 0.0}])
def test_options_of_a_judge_are_checked(change):
    with pytest.raises(JudgeError):
        parse_judge("command:true", JudgeOptions(**change))
