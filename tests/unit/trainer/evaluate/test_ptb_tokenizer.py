"""Tokens equal those of the Stanford PTB tokenizer, alone and in the context of the lines around them."""

import json
import re
import time

import pytest

from tests.helpers.paths import DRIVELM_EVAL_CASES, needs_drivelm_eval_cases
from trainer.evaluate import ptb_tokenizer
from trainer.evaluate.ptb_tokenizer import LINE_BREAK, tokenize, tokenize_lines


@needs_drivelm_eval_cases
@pytest.mark.parametrize(("part", "number"), [("drivelm", 382), ("edge", 38)])
def test_every_reference_string_has_the_tokens_of_the_java_tokenizer(part, number):
    pairs = json.loads((DRIVELM_EVAL_CASES / "ptb_tokens.json").read_text())[part]
    assert len(pairs) == number
    tokens = tokenize_lines([text for text, _ in pairs])
    assert [(text, got) for (text, expected), got in zip(pairs, tokens, strict=True) if got != expected] == []


@needs_drivelm_eval_cases
def test_line_breaks_are_those_at_which_the_java_tokenizer_shifts_lines():
    rows = json.loads((DRIVELM_EVAL_CASES / "unit_tokenizer_line_hazards.json").read_text())
    assert len(rows) == 9
    for row in rows:
        stream = "\n".join(text.replace("\n", " ") for text in row["batch"])
        lines = LINE_BREAK.sub("\n", stream).split("\n")
        assert tokenize_lines(lines)[: len(row["batch"])] == row["tokens"], row["name"]


@pytest.mark.parametrize("separator", ["\r", "\f", "\v", "\u2028", "\u2029", "\r\n", "\n"])
def test_line_breaks_within_an_answer_keep_the_other_answers_in_place(separator):
    assert tokenize_lines(["first one", f"a{separator}b", "last one"]) == ["first one", "a b", "last one"]


REFERENCE = {  # what the Java tokenizer gives, for other strings than those of the shared table
    "A Jeep., then a van.": "a jeep. then a van",
    "Approx. 3.5m, i.e. 12 ft. away": "approx 3.5 m i.e. 12 ft. away",
    "See fig. 5 and fig. a": "see fig. 5 and fig a",
    "Wait at 100 200 300 please": "wait at 100\u00a0200\u00a0300 please",
    "1 1/2 cars/trucks/buses/vans": "1\u00a01/2 cars/trucks/buses / vans",
    "It\u2019s the driver\u2019s car; don\u2019t": "it 's the driver 's car do n't",
    "'tis the '90s, ol' boy": "'t is the '90s ol' boy",
    "a+1 -b x-1 --1": "a +1 b x-1 1",
    "<img src='x.png'> < b": "<img\u00a0src='x.png'> < b",
    "ask me@home.org or www.home.org/x1": "ask me@home.org or www.home.org/x1",
    "**Note:** [1] {x} :) -----": "** note ** -lsb- 1 -rsb- -lcb- x -rcb- :-rrb- -----",
    "\u20ac5 \u00a35 5\u00a2 \u00bd": "$ 5 # 5 5 cents 1/2",
    "x.tar.gz AT&T C++ S&P-500": "x.tar.gz at&t c++ s&p-500",
    "scenari'o bett'er": "scenari'o bett er",
    "<c1,CAM_FRONT,-1.0,2.0>.": "< c1 cam_front -1.0,2.0 >",
    "at <c12,CAM_BACK,1.25,2.0>, then": "at < c12 cam_back ,1.25,2.0 > then",
    "\u0917\u093e\u0940.\u0e19\u0e15\u0e4c \u05e9\u05b8,": "\u0917\u093e\u0940.\u0e19\u0e15\u0e4c \u05e9\u05b8",
    "x\u0967\u0968y \u2163 \u203c \u2031 \u20b9 \u2728 \U0001f697": "x\u0967\u0968y \u2031 \u2728",
    "He said \u201c\u2018stop,\u2019 now\u201d \u2018a\u2019\u201cb\u201d": "he said ``` stop now a '`` b",
    "#tag.com Example.COM a^b.net x;y.org/z \u00e9.com": "#tag.com example.com a ^ b.net x y.org / z \u00e9.com",
    "stop.It's a, etc.It's": "stop.it 's a etc.it 's",
    "D&eacute;j&Agrave; vu: caf&eacute;-bar 1&uuml;": "d&eacute;j&agrave; vu caf&eacute; bar 1 &uuml;",
    "d'&eacute;t&eacute; l&EACUTE;'s &eacute;.b x": "d' &eacute;t&eacute; l&eacute; 's &eacute;.b x",
    "a &MD; b &NBSP;&Lt;c&GT; &HT;d &QUOT; &odq;": "a b < c > &ht; d &quot; &odq;",
    "don&apos;t AT&AMP;T it&apos;sx it&APOS;s": "do n't at&t it 's x it &apos;s",
    "d'\u00e9t\u00e9 \ue000 \ue003x": "d'\u00e9t\u00e9 x",
}


@pytest.mark.parametrize("text", REFERENCE)
def test_rules_hold_for_strings_outside_the_table(text):
    assert tokenize(text) == REFERENCE[text]


def test_a_lone_letter_loses_its_full_stop_before_a_sentence_start_on_the_next_line():
    assert tokenize_lines(["Option C.", "The ego vehicle", "Option C.", "Thereby"])[::2] == ["option c", "option c."]


def test_the_short_ways_give_what_the_rules_give(monkeypatch):
    words = [
        "Cars",
        "stop",
        "No",
        "cannot",
        "etc",
        "a",
        "ego",
        "it's",
        "5",
        "(5)",
        "x-1",
        "<c12,CAM_BACK,1.25,2.0>",
        "_",
    ]
    parts = [word + mark for word in words for mark in ("", ",", ".", ")")]
    texts = [f"{first} {second} x" for first in parts for second in parts]
    assert any(map(ptb_tokenizer._PLAIN.match, texts))
    assert any(map(ptb_tokenizer._CHUNK.match, texts))
    short = tokenize_lines(texts)
    for way in ("_PLAIN", "_CHUNK"):
        monkeypatch.setattr(ptb_tokenizer, way, re.compile("(?!)"))
    assert tokenize_lines(texts) == short


def seconds(text):
    start = time.process_time()
    tokenize(text)
    return time.process_time() - start


UNITS = ["a", "a,", "<", "<!a", "(", "1 ", "a@", "no. ", "-", "a.", "'", "\U0001f697", "a+", "a.1.", "www.+1", "gonna "]


@pytest.mark.parametrize("unit", UNITS)
def test_a_huge_answer_takes_linear_time(unit):
    tries = (seconds(unit * 24_000) < 16 * seconds(unit * 3_000) + 0.3 for _ in range(5))
    assert any(tries)  # 8 times, 64 if it were quadratic
