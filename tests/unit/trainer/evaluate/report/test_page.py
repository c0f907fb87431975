"""The report's page as text: self-contained, escaped, small, and its figures those of the scores."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from data_shards.index import load_index
from tests.helpers.frames import jpeg
from tests.unit.trainer.evaluate.report.report_case import HOSTILE, make_case
from trainer.evaluate.__main__ import main
from trainer.evaluate.judge import NoJudge
from trainer.evaluate.report.page import make_page
from trainer.evaluate.report.points import MAX_MARKS
from trainer.evaluate.report.published import PUBLISHED
from trainer.evaluate.report.report_cli import frame_finder
from trainer.evaluate.report.systems import make_system
from trainer.evaluate.submission import read_references, read_submission


class Elements(HTMLParser):
    """Every element with its attributes, and the text outside of style and script."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._raw = False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._raw = tag in ("style", "script")

    def handle_endtag(self, tag):
        self._raw = False

    def handle_data(self, data):
        self.text += "" if self._raw else data


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return make_case(tmp_path_factory.mktemp("case"))


def report(case, out, *options) -> str:
    command = ["report", "--predictions", f"good={case.good}", str(case.bad), "--references", str(case.references)]
    assert main([*command, "--data", str(case.shards), "--out", str(out), *options]) == 0
    return out.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(case, tmp_path_factory):
    return report(case, tmp_path_factory.mktemp("page") / "new" / "report.html")


def test_nothing_is_fetched_and_only_the_own_script_may_run(page):
    elements = Elements(page).elements
    assert [tag for tag, _ in elements].count("script") == 1
    addresses = [value for _, attrs in elements for name, value in attrs.items() if name in ("src", "href", "data")]
    assert addresses
    assert all(address.startswith(("data:image/jpeg;base64,", "#")) for address in addresses)
    assert not re.search(r"@import|url\(|https?://", page)
    policy = next(attrs["content"] for _, attrs in elements if attrs.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "script-src 'sha256-" in policy


def test_answers_are_text_and_never_markup(page):
    parsed = Elements(page)
    assert not [attrs for tag, attrs in parsed.elements if "onerror" in attrs or attrs.get("src") == "x"]
    shown = HOSTILE.replace("\x00", "\ufffd").replace("\ud83d", "\ufffd")
    assert parsed.text.count(shown) >= 3
    assert "\x00" not in page


def test_names_and_titles_are_escaped_too(case, tmp_path):
    page = report(case, tmp_path / "r.html", "--title", "<b>a</b>", "--predictions", f"<i>x</i>={case.good}")
    parsed = Elements(page)
    assert "<b>a</b>" in parsed.text
    assert "<i>x</i>" in parsed.text


def test_a_name_may_hold_braces(case, tmp_path):
    page = report(case, tmp_path / "r.html", "--predictions", f"a{{b}}={case.good}")
    assert "a{b}: 6 of 6 listed objects" in Elements(page).text


def test_one_picture_a_frame_is_shared_by_its_questions(page):
    elements = Elements(page).elements
    assert sum(tag == "img" for tag, _ in elements) == 3
    assert sum(attrs.get("class") == "row" for _, attrs in elements) == 15


def test_rows_say_which_system_is_right(page):
    rows = [attrs for _, attrs in Elements(page).elements if attrs.get("class") == "row"]
    right = {row["data-id"]: row["data-right"] for row in rows}
    assert [right[f"scene0_frame0_{i}"] for i in range(5)] == ["10", "10", "10", "11", "10"]
    assert right["scene1_frame0_1"] == "00"


def test_headline_holds_own_and_published_scores(case, page):
    text = Elements(page).text
    references = read_references(case.references)
    for path in (case.good, case.bad):
        scores = make_system("s", read_submission(path), references, NoJudge()).scores
        assert f"{scores['official']['accuracy']:.4f}" in text
        assert f"{scores['ungated']['accuracy']:.4f}" in text
    for entry in PUBLISHED:
        assert entry.name in text
        assert f"{entry.final:.4f}" in text
    assert "server" in text
    assert "--judge" in text


def test_camera_matrix_counts_objects_at_their_cameras(page):
    text = Elements(page).text
    assert "good: 6 of 6 listed objects, paired by class" in text
    assert "good: 12 of 12 points, paired within 16 pixels" in text
    assert "bad: 0 of 0 listed objects" in text


def test_failure_modes_are_those_of_the_scores_with_their_first_question(case, page):
    cells = re.findall(r'<th scope="row">([^<]*)</th><td>([^<]*)<[^>]*>([^<]*)<[^>]*></td><td>([^<]*)', page)
    rows = {name: (good, number) for name, good, number, _ in cells}
    assert rows["Omission: same camera, L2"] == ("0.0 % ", "0 of 12")
    assert rows["Attribute: class of objects found"] == ("0.0 % ", "0 of 6")
    assert rows["Attribute: status of objects found"] == ("33.3 % ", "1 of 3")
    bad = re.search(r"Omission: same camera, L2</th>.*?</td><td>(.*?)</td><td>(.*?)</td>", page)
    assert bad.groups() == ("100.0 % <small>12 of 12</small>", "<code>scene0_frame0_0</code>")
    scores = make_system("s", read_submission(case.bad), read_references(case.references), NoJudge()).scores
    assert scores["diagnosis"]["objects"]["omission"]["strictly"]["count"] == 12


def test_errors_of_centre_points_stand_by_camera(case, tmp_path):
    shifted = tmp_path / "shifted.json"
    shifted.write_text(case.good.read_text().replace("800.0,450.0", "830.0,490.0"))
    page = report(case, tmp_path / "r.html", "--predictions", f"shifted={shifted}")
    rows = dict(re.findall(r'<th scope="row">(Front|Back)</th>((?:<td>[^<]*</td>){3})</tr>', page))
    assert rows["Front"] == "<td>6 of 6</td><td>50.0</td><td>50.0</td>"
    assert rows["Back"] == "<td>6 of 6</td><td>0.0</td><td>0.0</td>"


def test_intervals_stand_below_the_scores(case, page):
    scores = make_system("s", read_submission(case.good), read_references(case.references), NoJudge()).scores
    low, high = scores["intervals"]["official"]["accuracy"]
    assert low < high
    assert f"{scores['official']['accuracy']:.4f}<small>{low:.3f}–{high:.3f}</small>" in page


def test_points_lie_where_the_tags_say(page):
    circles = {(a["cx"], a["cy"]) for tag, a in Elements(page).elements if tag == "circle" and a.get("r") == "34"}
    assert circles == {("2400", "450"), ("1700", "1100")}


def test_200_frames_of_noise_and_long_answers_stay_below_10_mb(case):
    references = read_references(case.references)
    scene = references["scene0"]
    many = {f"s{number}": scene for number in range(200)}
    rows = [
        {"id": f"s{number}_frame0_{place}", "question": "", "answer": "word " * 400}
        for number in range(200)
        for place in range(5)
    ]
    system = make_system("long", rows, many, NoJudge())
    noise = np.random.default_rng(0).integers(0, 256, (180, 320, 3), dtype=np.uint8)
    frame = frame_finder(load_index(case.shards))("scene0_frame0")
    frame = type(frame)(**(vars(frame) | {"images": dict.fromkeys(frame.images, jpeg(noise, 95))}))
    page = make_page([system], lambda key: frame, max_frames=200, judge="none", title="t")
    assert page.num_frames == 200
    assert 3e6 < len(page.html) < 10e6


def test_references_without_pictures_are_shown_without(case, tmp_path):
    other = make_case(tmp_path / "other", scenes=1)
    page = report(case, tmp_path / "r.html", "--data", str(other.shards))
    assert Elements(page).text.count("no images") == 2


def test_a_view_that_does_not_decode_is_black_and_named(case):
    frame = frame_finder(load_index(case.shards))("scene0_frame0")
    cut = {**frame.images, "CAM_BACK": frame.images["CAM_BACK"][:-40], "CAM_FRONT": b"no picture"}
    frame = type(frame)(**(vars(frame) | {"images": cut}))
    system = make_system("s", [], read_references(case.references), NoJudge())
    page = make_page([system], lambda key: frame, max_frames=1, judge="none", title="t")
    assert [problem.split(": ")[:2] for problem in page.problems] == [
        ["scene0_frame0", "CAM_FRONT"],
        ["scene0_frame0", "CAM_BACK"],
    ]
    assert b"data:image/jpeg;base64," in page.html


def test_mistakes_exit_with_2_and_a_message(case, tmp_path, capsys):
    command = ["report", "--references", str(case.references), "--data", str(case.shards), "--out", str(tmp_path / "r")]
    assert main([*command, "--predictions", str(case.good), str(case.good)]) == 2
    assert "write NAME=FILE" in capsys.readouterr().err
    assert main([*command, "--predictions", "none.json"]) == 2
    assert "none.json" in capsys.readouterr().err
    assert main([*command, "--predictions", str(case.good), "--data", str(tmp_path)]) == 2
    assert main([*command, "--predictions", str(case.good), "--max-frames", "0"]) == 2
    assert main([*command, "--predictions", str(case.good), "--judge-attempts", "3"]) == 2
    assert "--judge-attempts: got it with --judge none" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_judge_outside_is_asked_as_the_options_say(case, tmp_path):
    (tmp_path / "p.txt").write_text("{answer} | {reference}")
    cache = tmp_path / "replies.jsonl"
    options = ["--judge", "command:echo 37", "--judge-prompt", str(tmp_path / "p.txt"), "--judge-cache", str(cache)]
    page = report(case, tmp_path / "r.html", *options, "--judge-workers", "2")
    assert "command:echo 37" in page
    replies = [json.loads(line) for line in cache.read_text().splitlines()]
    assert replies
    assert {reply["reply"].strip() for reply in replies} == {"37"}


def test_a_runaway_answer_of_tags_leaves_the_page_small(case, tmp_path):
    rows = json.loads(case.good.read_text())
    rows[0]["answer"] = "".join(f"<c{number},CAM_FRONT,{number}.0,{number % 900}.0>" for number in range(5_000))
    (tmp_path / "p.json").write_text(json.dumps(rows))
    files = ["--references", str(case.references), "--data", str(case.shards), "--out", str(tmp_path / "r.html")]
    assert main(["report", "--predictions", str(tmp_path / "p.json"), *files]) == 0
    page = (tmp_path / "r.html").read_text()
    assert len(page) < 200_000
    assert page.count("<path") > MAX_MARKS


def test_very_many_frames_are_thinned_to_what_a_page_holds(case):
    references = read_references(case.references)
    few = {"perception": references["scene0"]["key_frames"]["frame0"]["QA"]["perception"][:1]}
    many = {"s": {"key_frames": {f"f{number}": {"QA": few} for number in range(1500)}}}
    noise = np.random.default_rng(0).integers(0, 256, (90, 160, 3), dtype=np.uint8)
    frame = frame_finder(load_index(case.shards))("scene0_frame0")
    frame = type(frame)(**(vars(frame) | {"images": dict.fromkeys(frame.images, jpeg(noise, 95))}))
    page = make_page(
        [make_system("s", [], many, NoJudge())], lambda key: frame, max_frames=1500, judge="none", title="t"
    )
    assert 400 < page.num_frames < page.num_all_frames == 1500
    assert len(page.html) < 10e6
