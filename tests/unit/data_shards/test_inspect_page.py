"""The page and the lint of `inspect`: everything drawn and escaped, every kind of damage named."""

import html
import io
import re
import tarfile
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from data_shards.cli import main
from data_shards.inspect_page import inspect_page, spread_places
from data_shards.lint import lint
from data_shards.schema import CAMERAS, Question, frame_to_json
from tests.helpers.frames import camera_frame, camera_frames, jpeg, noise, write_dataset
from tests.helpers.raw_tar import raw_dataset
from tests.helpers.tokenizer import tiny_tokenizer

EVIL = '<script>alert("1")</script>&<img src=x onerror=y>'


class Page(HTMLParser):
    """Collects tags and text, and notices a tag that is closed in the wrong order."""

    VOID = ("meta", "image", "rect", "circle")

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.texts = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def frame_with_points():
    tags = ("<c1,CAM_BACK,1088.3,497.5>", "<c2,CAM_FRONT,10.0,20.5>")
    question = Question(question=f"Is {tags[0]} near <c7,CAM_FRONT,800.0,450.0>?", answer="Yes.", kind="prediction")
    box = [100.0, 200.0, 300.5, 260.0]
    objects = {tags[0]: {"2d_bbox": box, "Category": EVIL}, tags[1]: {"2d_bbox": None}}
    return replace(camera_frame("s", "f"), objects=objects, questions=(question,))


def test_six_views_lie_in_canvas_order_with_points_and_boxes_in_view_pixels():
    page = Page(inspect_page("t", "s", [frame_with_points()]))
    drawings = page.of("svg")
    assert [drawing["aria-label"] for drawing in drawings] == list(CAMERAS)
    assert {drawing["viewbox"] for drawing in drawings} == {"0 0 1600 900"}
    points = {(c["cx"], c["cy"]): c["style"] for c in page.of("circle")}
    assert set(points) == {("1088.3", "497.5"), ("10.0", "20.5"), ("800.0", "450.0")}
    assert "fill:none" in points["800.0", "450.0"]
    assert "fill:none" not in points["10.0", "20.5"]
    assert [(r["x"], r["y"], r["width"], r["height"]) for r in page.of("rect")] == [("100.0", "200.0", "200.5", "60.0")]


def test_a_point_is_drawn_on_its_own_view_only():
    text = inspect_page("t", "s", [frame_with_points()])
    drawings = {re.match(r"[A-Z_]+", part)[0]: part.split("</svg>")[0] for part in text.split('aria-label="')[1:]}
    assert [camera for camera, drawing in drawings.items() if 'cx="1088.3"' in drawing] == ["CAM_BACK"]
    assert [camera for camera, drawing in drawings.items() if 'cx="800.0"' in drawing] == ["CAM_FRONT"]


def test_texts_are_escaped_and_nothing_is_loaded():
    frame = frame_with_points()
    evil = Question(question=EVIL, answer=EVIL, kind="general", history=((EVIL, EVIL),))
    text = inspect_page(EVIL, EVIL, [replace(frame, questions=(evil, *frame.questions), source=EVIL)])
    page = Page(text)
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "img", "link", "iframe", "object"}
    assert all(not name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert {image["href"][:22] for image in page.of("image")} == {"data:image/jpeg;base64"}
    assert "".join(page.texts).count(EVIL) == 8
    assert "default-src 'none'" in html.unescape(text)


def test_every_turn_tag_and_object_tag_is_shown():
    question = Question(question="Now?", answer="Stop.", kind="planning", tags=(1,), history=(("Then?", "Go."),))
    page = Page(inspect_page("t", "s", [replace(frame_with_points(), questions=(question,))]))
    shown = "".join(page.texts)
    for part in ("Then?", "Go.", "Now?", "Stop.", "judge"):
        assert part in shown
    assert shown.index("Then?") < shown.index("Now?")
    pointed = Page(inspect_page("t", "s", [frame_with_points()]))
    assert "<c1,CAM_BACK,1088.3,497.5>" in pointed.texts


def test_a_tag_with_a_number_of_any_length_is_shown():
    tag = f"<c{'7' * 5000},CAM_BACK,1.0,2.0>"
    question = Question(question=f"What is {tag}?", answer="A car.", kind="perception")
    assert tag in Page(inspect_page("t", "s", [replace(frame_with_points(), questions=(question,))])).texts


def test_other_images_and_no_image_and_a_damaged_one_are_shown():
    frame = camera_frame("s", "f")
    wide = {"IMAGE_0": jpeg(noise(np.random.default_rng(0), 64, 20)), "IMAGE_1": b"no image"}
    page = Page(inspect_page("t", "s", [replace(frame, images=wide), replace(frame, images={})]))
    assert [drawing["viewbox"] for drawing in page.of("svg")] == ["0 0 64 20"]
    shown = "".join(page.texts)
    assert "no JPEG header" in shown
    assert "no image" in shown


@pytest.mark.parametrize(("count", "wanted"), [(0, 3), (2, 3), (3, 3), (10, 3), (1000, 12)])
def test_frames_are_spread_over_the_whole(count, wanted):
    places = spread_places(count, wanted)
    assert len(places) == min(count, wanted)
    assert places == sorted(set(places))
    assert all(0 <= place < count for place in places)
    assert np.ptp(np.diff(places)) <= 1 if len(places) > 2 else True


def run(*arguments):
    return main([str(argument) for argument in arguments])


def test_the_command_writes_the_page_and_the_summary(tmp_path, capsys):
    write_dataset(tmp_path / "d", camera_frames())
    assert run("inspect", tmp_path / "d", "--html", tmp_path / "x" / "page.html", "--frames", 2, "--verify") == 0
    text = capsys.readouterr().out
    for part in ("6 in 3 scenes", "by turns      1: 12", "13 to 13, median 13", "a sample      6: 6"):
        assert part in text
    page = Page((tmp_path / "x" / "page.html").read_text())
    assert len(page.of("section")) == 2


def test_lengths_and_fill_are_counted_with_a_tokenizer(tmp_path, capsys):
    write_dataset(tmp_path / "d", camera_frames())
    tiny_tokenizer(tmp_path / "t").save_pretrained(tmp_path / "t")
    more = ("--view-mode", "views", "--tiles-per-image", 1, "--tokens-per-tile", 4, "--questions-per-visit", 2)
    limits = ("--max-tokens", 400, "--max-tiles", 12)
    assert run("inspect", tmp_path / "d", "--tokenizer", tmp_path / "t", *more, *limits) == 0
    text = capsys.readouterr().out
    match = re.search(
        r"(\d+) packs of 400 tokens and 12 tiles: ([\d.]+)% of the tokens, ([\d.]+)% of the tiles, 2.0", text
    )
    assert match is not None
    assert float(match[3]) == pytest.approx(100 * 36 / 12 / int(match[1]), abs=0.06)
    assert run("inspect", tmp_path / "d", "--tokenizer", tmp_path / "t", *more, "--max-tokens", 1) == 2
    assert "none of which fits 1 tokens" in capsys.readouterr().err


def test_what_training_leaves_out_is_counted_with_a_tokenizer(tmp_path, capsys):
    tiny_tokenizer(tmp_path / "t").save_pretrained(tmp_path / "t")
    plain, long, special = camera_frames()[:3]
    wordy = Question(question="What? " * 500, answer="This.", kind="perception")
    stopped = Question(question="What is <|im_end|>?", answer="An end.", kind="perception")
    frames = [plain, replace(long, questions=(wordy, *long.questions)), replace(special, questions=(stopped,))]
    write_dataset(tmp_path / "d", frames)
    limits = ("--view-mode", "views", "--tiles-per-image", 1, "--tokens-per-tile", 4, "--max-tokens", 400)
    assert run("inspect", tmp_path / "d", "--tokenizer", tmp_path / "t", *limits, "--max-tiles", 12) == 0
    text = capsys.readouterr().out
    assert "1 questions that fit no pack, 1 samples that cannot be used" in text
    assert f"frame {special.key}: " in text


def test_every_record_that_is_of_no_use_is_named(tmp_path, capsys):
    records = {"a_b": b"{", "a_c": b"[]", "a_d": frame_to_json(replace(camera_frame("a", "d"), images={}))}
    raw_dataset(tmp_path, {key: {"json": record} for key, record in records.items()})
    assert run("index", tmp_path) == 0
    assert run("inspect", tmp_path) == 1
    message = capsys.readouterr().err
    assert all(
        f"problem: shard-000000.tar: offset {offset}: frame {key}" in message
        for offset, key in ((512, "a_b"), (1536, "a_c"))
    )
    assert "a_d" not in message
    assert "2 problems" in message


def test_sound_shards_have_no_problem(tmp_path):
    write_dataset(tmp_path, camera_frames())
    assert lint(tmp_path, verify=True) == []


def test_lint_names_each_kind_of_damage_and_goes_on_after_it(tmp_path, capsys):
    index = write_dataset(tmp_path, camera_frames(num_scenes=4, frames_per_scene=2))
    tars = [tmp_path / f"shard-00000{i}.tar" for i in range(4)]
    contents = [bytearray(tar.read_bytes()) for tar in tars]
    entry = index.samples[2]
    contents[0][3] ^= 1
    contents[1][entry.members["cam_back.jpg"].offset + 40] ^= 1
    contents[2] = contents[2][:-600]
    for tar, content in zip(tars, contents, strict=True):
        tar.write_bytes(content)
    (tmp_path / "shard-000003.index.json").write_text("{}")
    quick = lint(tmp_path)
    assert [any(tar.stem in problem for problem in quick) for tar in tars] == [True, False, True, True]
    whole = lint(tmp_path, verify=True)
    assert (
        f"{tars[1]}: offset {entry.members['cam_back.jpg'].offset}: frame {entry.key}: member 'cam_back.jpg'"
        in "".join(whole)
    )
    assert run("inspect", tmp_path, "--verify") == 1
    assert "problems" in capsys.readouterr().err


def test_two_hundred_single_faults_in_tars_are_all_found_by_verifying(tmp_path):
    write_dataset(tmp_path, camera_frames(num_scenes=2, frames_per_scene=1), samples_per_shard=1)
    tars = sorted(tmp_path.glob("*.tar"))
    contents = [tar.read_bytes() for tar in tars]
    rng = np.random.default_rng(0)
    for i in range(200):
        tar, content, other = tars[i % 2], contents[i % 2], contents[1 - i % 2]
        place = int(rng.integers(len(content)))
        kind = i % 4
        if kind == 0:
            damaged = content[:place] + bytes([content[place] ^ (1 << int(rng.integers(8)))]) + content[place + 1 :]
        elif kind == 1:
            damaged = content[:place]
        elif kind == 2:
            place = int(rng.integers(len(content.rstrip(b"\0")) // 512)) * 512
            damaged = content[:place] + bytes(512) + content[place + 512 :]
        else:
            damaged = other
        if damaged == content:
            continue
        tar.write_bytes(damaged)
        problems = lint(tmp_path, verify=True)
        assert problems
        assert all(tar.stem in problem for problem in problems)
        tar.write_bytes(content)
    assert lint(tmp_path, verify=True) == []


def test_an_unknown_member_is_listed(tmp_path):
    write_dataset(tmp_path, camera_frames()[:2])
    with tarfile.open(tmp_path / "shard-000000.tar", "a") as archive:
        info = tarfile.TarInfo("scene0_frame1.exe")
        info.size = 3
        archive.addfile(info, io.BytesIO(b"abc"))
    run("index", tmp_path)
    assert re.search(r"shard-000000\.tar: got members exe, expected json", "\n".join(lint(tmp_path)))
