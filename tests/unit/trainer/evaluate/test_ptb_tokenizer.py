"""Tokens equal those of the Stanford PTB tokenizer, alone and in the context of the lines around them."""

import json
import time

import pytest

from tests.helpers.paths import DRIVELM_EVAL_CASES, needs_drivelm_eval_cases
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
}


@pytest.mark.parametrize("text", REFERENCE)
def test_rules_hold_for_strings_outside_the_table(text):
    assert tokenize(text) == REFERENCE[text]


def test_a_lone_letter_loses_its_full_stop_before_a_sentence_start_on_the_next_line():
    assert tokenize_lines(["Option C.", "The ego vehicle", "Option C.", "Thereby"])[::2] == ["option c", "option c."]


def test_the_short_way_gives_what_the_rules_give():
    words = ["Cars", "stop", "No", "cannot", "etc", "a", "ego"]
    for first in words:
        for second in words:
            for mark in (" ", ", ", ". "):
                plain = tokenize(f"{first}{mark}{second} x")
                by_rules = tokenize(f"{first}{mark}{second}\u3000x")  # another space: no short way for the second word
                assert plain == by_rules


def seconds(text):
    start = time.process_time()
    tokenize(text)
    return time.process_time() - start


@pytest.mark.parametrize("unit", ["a", "a,", "<", "<!a", "(", "1 ", "a@", "no. ", "-", "a.", "'", "\U0001f697"])
def test_a_huge_answer_takes_linear_time(unit):
    assert seconds(unit * 8_000) < 8 * seconds(unit * 2_000) + 0.5  # 16 times if it were quadratic
