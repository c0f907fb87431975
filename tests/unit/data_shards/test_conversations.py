"""Conversation rows and third-party tars as frames: what is taken, what is refused by line and field, and restarts."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_shards.cli import main
from data_shards.decode import decode_jpeg, jpeg_size
from data_shards.index import load_index
from data_shards.read import read_frame
from data_shards.sources.conversation_file import row_spans
from data_shards.sources.conversation_rows import RowError, RowRules, parse_row
from data_shards.sources.drivelm_annotations import SourceError
from tests.helpers.frames import camera_frames, jpeg, noise, write_dataset
from tests.helpers.paths import ROOT
from tests.helpers.raw_tar import pack
from tests.helpers.waiting import TIMEOUT_S, wait_until


def turns(*texts, roles=("human", "gpt")):
    return [{"from": roles[i % 2], "value": text} for i, text in enumerate(texts)]


def row(*texts, **fields):
    return {**fields, "conversations": turns(*texts)}


@pytest.fixture
def images(tmp_path):
    """A folder with `a.jpg`, `sub/b.png` (half transparent) and `c.jpg`."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.jpg").write_bytes(jpeg(noise(rng, 40, 30)))
    (folder / "c.jpg").write_bytes(jpeg(noise(rng, 64, 16)))
    clear = Image.new("RGBA", (20, 10), (0, 0, 0, 0))
    clear.paste((255, 0, 0, 255), (10, 0, 20, 10))
    clear.save(folder / "sub" / "b.png")
    return folder


def run(*arguments):
    return main([str(argument) for argument in arguments])


def convert(rows, images, *more, name="rows.jsonl", text=None):
    folder = images.parent
    (folder / name).write_text(text if text is not None else "".join(json.dumps(row) + "\n" for row in rows))
    arguments = ("conversations", "--annotations", folder / name, "--images", images, "--out", folder / "out")
    return run(*arguments, "--processes", 1, *more)


def frames_of(directory):
    index = load_index(directory)
    return [read_frame(index, i) for i in range(len(index))]


def written(rows, images, *more, **options):
    assert convert(rows, images, *more, **options) == 0
    return frames_of(images.parent / "out")


def test_one_image_several_images_and_none_become_frames_in_order(images):
    rows = [
        row("<image>\nWhat?", "A cat.", id=1, image="a.jpg"),
        row("<image>\n<image>\nWhich is red?", "The second.", image=["c.jpg", "sub/b.png"]),
        row("2 + 2?", "4."),
    ]
    first, second, third = written(rows, images)
    assert first.images == {"IMAGE_0": (images / "a.jpg").read_bytes()}
    assert [(q.question, q.answer, q.kind, q.history) for q in first.questions] == [("What?", "A cat.", "general", ())]
    assert list(second.images) == ["IMAGE_0", "IMAGE_1"]
    assert second.images["IMAGE_0"] == (images / "c.jpg").read_bytes()
    assert [q.question for q in second.questions] == ["Which is red?"]
    assert (third.images, third.questions[0].answer) == ({}, "4.")
    assert len({frame.scene for frame in (first, second, third)}) == 3


def test_a_picture_that_is_no_jpeg_is_converted_on_white_ground(images):
    frame = written([row("<image>Which?", "Red.", image="sub/b.png")], images)[0]
    pixels = decode_jpeg(frame.images["IMAGE_0"]).astype(int)
    assert pixels.shape == (10, 20, 3)
    assert abs(pixels[5, 3] - 255).max() < 12
    assert abs(pixels[5, 16] - [255, 0, 0]).max() < 12


def test_a_long_image_is_made_smaller_and_a_short_one_kept(images):
    rows = [row("<image>A?", "B.", image="c.jpg"), row("<image>A?", "B.", image="a.jpg")]
    long, short = written(rows, images, "--max-side", 48)
    assert jpeg_size(long.images["IMAGE_0"]) == (48, 12)
    assert short.images["IMAGE_0"] == (images / "a.jpg").read_bytes()


def test_earlier_turns_are_the_history_of_the_last(images):
    texts = ("<image>\nWhat is it?", "A car.", "Which colour?", "Red.", "Why?", "Paint.")
    question = written([row(*texts, image="a.jpg")], images)[0].questions
    assert [(q.question, q.answer) for q in question] == [("Why?", "Paint.")]
    assert question[0].history == (("What is it?", "A car."), ("Which colour?", "Red."))


def test_turns_can_be_made_separate_questions(images):
    texts = ("<image>\nWhat is it?", "A car.", "Which colour?", "Red.")
    questions = written([row(*texts, image="a.jpg")], images, "--separate-turns")[0].questions
    assert [(q.question, q.answer, q.history) for q in questions] == [
        ("What is it?", "A car.", ()),
        ("Which colour?", "Red.", ()),
    ]


def test_rows_with_the_same_images_share_one_frame_and_one_side_of_a_split(images):
    rows = [row(f"<image>Q{i}?", "A.", image=("a.jpg", "c.jpg")[i % 2]) for i in range(6)]
    rows += [row("<image><image>Both?", "A.", image=["a.jpg", "c.jpg"])]
    frames = written(rows, images)
    assert [[q.question for q in frame.questions] for frame in frames] == [
        ["Q0?", "Q2?", "Q4?"],
        ["Q1?", "Q3?", "Q5?"],
        ["Both?"],
    ]


def test_a_json_list_gives_the_frames_of_the_same_lines(images):
    rows = [row("<image>Größe?\n", "日本.", image="a.jpg"), row("Why?", 'No \\" [idea], {sir}.')]
    lines = written(rows, images)
    text = json.dumps(rows, ensure_ascii=False, indent=3)
    spans = []
    path = images.parent / "list.json"
    path.write_text(text)
    for span, data in row_spans(path):
        assert path.read_bytes()[span.offset : span.offset + span.size] == data
        spans.append((json.loads(data), span.line))
    assert [item for item, _ in spans] == rows
    assert [line for _, line in spans] == [2, 15]
    assert len(lines) == 2


@pytest.mark.parametrize("as_list", [True, False])
def test_a_byte_order_mark_is_no_part_of_a_row(images, as_list):
    rows = [row("Größe?", "A."), row("Why?", "B.")]
    text = json.dumps(rows) if as_list else "\n".join(map(json.dumps, rows))
    assert [frame.questions[0].question for frame in written((), images, text="\ufeff" + text)] == ["Größe?", "Why?"]


def test_sharegpt_messages_are_read(images):
    rows = [
        {
            "messages": [{"role": "user", "content": "<image>A?"}, {"role": "assistant", "content": "B."}],
            "images": ["a.jpg"],
        }
    ]
    frame = written(rows, images)[0]
    assert (frame.questions[0].question, frame.questions[0].answer, len(frame.images)) == ("A?", "B.", 1)


def test_a_placeholder_at_the_end_of_the_first_question_is_moved_to_the_beginning():
    parsed = parse_row(row("What is it?\n<image>", "A car.", image="a.jpg"), RowRules())
    assert parsed.turns == (("What is it?", "A car."),)


def test_images_without_placeholder_come_first():
    assert parse_row(row("What is it?", "A car.", image="a.jpg"), RowRules()).images == ("a.jpg",)


def test_a_placeholder_in_the_middle_is_refused_unless_it_may_be_moved():
    middle = row("Between <image> and\n<image>?", "Sky.", image=["a.jpg", "c.jpg"])
    with pytest.raises(RowError, match="question 0.*--move-placeholders"):
        parse_row(middle, RowRules())
    assert parse_row(middle, RowRules(move_placeholders=True)).turns == (("Between  and?", "Sky."),)
    later = row("<image>A?", "B.", "And <image>?", "C.", image=["a.jpg", "c.jpg"])
    with pytest.raises(RowError, match="question 1"):
        parse_row(later, RowRules())


def test_a_system_message_is_refused_unless_it_may_be_dropped():
    system = {"conversations": [{"from": "system", "value": "Be kind."}, *turns("A?", "B.")]}
    with pytest.raises(RowError, match="system.*--drop-system"):
        parse_row(system, RowRules())
    assert parse_row(system, RowRules(drop_system=True)).turns == (("A?", "B."),)


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ([], "row"),
        ({"image": "a.jpg"}, "conversations"),
        ({"conversations": turns("A?")}, "conversations"),
        ({"conversations": turns("A?", "B.", "C?")}, "conversations"),
        ({"conversations": turns("A?", "B.", roles=("gpt", "human"))}, r"conversations\[0\]"),
        ({"conversations": [{"from": "bot", "value": "A"}]}, r"conversations\[0\].from"),
        ({"conversations": turns("A?", 3)}, r"conversations\[1\].value"),
        ({"conversations": ["A?"]}, r"conversations\[0\]"),
        (row("A?", " "), "turn 0"),
        (row("", "B."), "turn 0"),
        (row("A?", "B.<|im_end|>"), "value.*im_end"),
        (row("<image>A?", "B."), "conversations.*1 times <image>"),
        (row("<image>A?", "B.", image=["a.jpg", "c.jpg"]), "conversations.*expected 2"),
        (row("A?", "<image>", image="a.jpg"), "answer 0"),
        (row("A?", "B.", video="a.mp4"), "video"),
        (row("A?", "B.", image="../a.jpg"), "image.*without '..'"),
        (row("A?", "B.", image="/etc/passwd"), "image"),
        (row("A?", "B.", image="https://x/a.jpg"), "not an address"),
        (row("A?", "B.", image=3), "image"),
        (row("A?", "B.", image="\ud800.jpg"), "image"),
        ({"conversations": [{"from": ["human"], "value": "A"}]}, r"conversations\[0\].from"),
        (row("A? \ud800", "B."), r"conversations\[0\].value.*surrogate"),
        (row("A?", "B.", image="a.jpg", images=["c.jpg"]), "both"),
    ],
)
def test_a_row_of_another_form_is_refused_by_field(bad, field):
    with pytest.raises(RowError, match=field):
        parse_row(bad, RowRules())


def test_broken_rows_are_listed_counted_and_left_out_up_to_a_fraction(images, capsys):
    (images / "cut.jpg").write_bytes((images / "a.jpg").read_bytes()[:200])
    rows = [row(f"Q{i}?", "A.") for i in range(16)]
    rows[3] = row("<image>Q?", "A.", image="gone.jpg")
    rows[7] = row("<image>Q?", "A.", image="cut.jpg")
    rows[9] = row("<image>Q?", "A.", image="cut.jpg")
    text = "".join(json.dumps(row) + "\n" for row in rows).replace(json.dumps(rows[12]), '{"broken"')
    out = images.parent / "out"
    assert convert(rows, images, text=text, name="r.jsonl") == 2
    message = capsys.readouterr().err
    assert "got 2 of 16 rows" in message
    assert "line 4: field 'image': got 'gone.jpg'" in message
    assert "line 13: field 'row'" in message
    assert not out.exists()
    assert convert(rows, images, "--max-bad-fraction", 0.2, text=text, name="r.jsonl") == 2
    assert "cut.jpg" in capsys.readouterr().err
    assert convert(rows, images, "--max-bad-fraction", 0.25, text=text, name="r.jsonl") == 0
    assert "left out 4 rows" in capsys.readouterr().err
    listed = [json.loads(line) for line in (out / "left_out.jsonl").read_text().splitlines()]
    assert [(item["lines"], item["field"]) for item in listed] == [([4], "image"), ([8, 10], "image"), ([13], "row")]
    assert [q.question for frame in frames_of(out) for q in frame.questions] == [
        f"Q{i}?" for i in range(16) if i not in (3, 7, 9, 12)
    ]
    assert json.loads((out / "dataset.json").read_text())["left_out"] == 2


def test_a_row_that_no_parser_or_file_system_takes_is_left_out_like_any_other(images):
    bad = [
        json.dumps(row("A?", "B.", image="x" * 5000 + ".jpg")),
        json.dumps(row("A?", "B.", image="\ud800.jpg")),
        json.dumps(row("A?", "B.\udfff")),
        json.dumps({"conversations": [{"from": {}, "value": "A?"}]}),
        '{"image": ' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"image": ' + "9" * 5000 + "}",
    ]
    text = "\n".join([*bad, json.dumps(row("Q?", "A."))])
    assert convert((), images, "--max-bad-fraction", 0.9, text=text) == 0
    assert [q.question for frame in frames_of(images.parent / "out") for q in frame.questions] == ["Q?"]
    listed = (images.parent / "out" / "left_out.jsonl").read_text().splitlines()
    assert [json.loads(line)["lines"] for line in listed] == [[i] for i in range(1, 7)]


def test_a_long_text_of_spaces_is_read_in_no_time():
    text = "<image>x" + " " * 300_000 + "y"
    began = time.process_time()
    assert parse_row(row(text, "A.", image="a.jpg"), RowRules()).turns[0][0] == text.removeprefix("<image>")
    assert time.process_time() - began < 10


def test_rows_of_the_same_images_that_are_too_long_together_become_several_frames_of_one_scene(images, monkeypatch):
    monkeypatch.setattr("data_shards.sources.conversations.MOST_ROW_BYTES", 1000)
    rows = [row(f"<image>{i}?", "A." * 100, image="a.jpg") for i in range(12)]
    rows[5] = row("<image>5?", "A." * 1000, image="a.jpg")
    frames = written(rows, images, "--max-bad-fraction", 0.1)
    assert 2 < len(frames) < 12
    assert len({frame.scene for frame in frames}) == 1
    assert [q.question for frame in frames for q in frame.questions] == [f"{i}?" for i in range(12) if i != 5]
    assert "bytes" in (images.parent / "out" / "left_out.jsonl").read_text()


@pytest.mark.parametrize("text", ["", "  \n", "[", '[{"a": 1} {"a": 2}]', "[1] 2", '[{"a": 1}'])
def test_a_file_that_is_no_list_is_refused(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(SourceError, match=r"x\.json"):
        list(row_spans(tmp_path / "x.json"))


def test_wrong_arguments_are_named(images, capsys):
    rows = [row("A?", "B.")]
    assert convert(rows, images, "--caption-key", "x") == 2
    assert "--tars only" in capsys.readouterr().err
    assert convert(rows, images, "--max-bad-fraction", 2) == 2
    assert run("conversations", "--annotations", images / "none.json", "--out", images.parent / "o") == 2
    assert "field '--annotations'" in capsys.readouterr().err


def test_tars_of_another_form_are_refused_with_the_command_that_converts_them(images, tmp_path, capsys):
    picture = (images / "a.jpg").read_bytes()
    text = json.dumps(row("<image>What?", "A cat.", image="elsewhere/0.jpg")).encode()
    tars = tmp_path / "tars"
    tars.mkdir()
    pack(tars / "a.tar", [("x/0.jpg", picture), ("x/0.json", text), ("x/0.cls", b"3"), ("x/1.jpg", picture)])
    assert run("index", tars) == 2
    pack(tars / "a.tar", [("0.jpg", picture), ("0.json", text), ("0.cls", b"3"), ("1.jpg", picture)])
    assert run("index", tars) == 2
    message = capsys.readouterr().err
    assert "cls, jpg, json" in message
    assert "data_shards conversations --tars" in message
    arguments = ("conversations", "--tars", tars, "--out", tmp_path / "out", "--processes", 1)
    assert run(*arguments, "--image-field", "png") == 2
    assert "jpg (2)" in capsys.readouterr().err
    assert run(*arguments, "--image-field", "jpg") == 2
    assert "a.tar: 1: .jpg" in capsys.readouterr().err
    assert run(*arguments, "--image-field", "jpg", "--max-bad-fraction", 0.5) == 0
    assert "left out 1 members .cls" in capsys.readouterr().err
    (frame,) = frames_of(tmp_path / "out")
    assert frame.images == {"IMAGE_0": picture}
    assert (frame.questions[0].question, frame.questions[0].answer) == ("What?", "A cat.")


@pytest.mark.parametrize(
    ("suffix", "text", "more"),
    [("txt", b"A cat.\n", ()), ("json", b'{"caption": "A cat.", "url": "x"}', ("--caption-key", "caption"))],
)
def test_captions_in_tars_answer_a_question(images, tmp_path, suffix, text, more):
    pack(tmp_path / "a.tar", [("0.jpg", (images / "a.jpg").read_bytes()), (f"0.{suffix}", text)])
    arguments = ("conversations", "--tars", tmp_path, "--out", tmp_path / "out", "--processes", 1)
    assert run(*arguments, "--image-field", "jpg", "--text-field", suffix, "--question", "What is it?", *more) == 0
    question = frames_of(tmp_path / "out")[0].questions[0]
    assert (question.question, question.answer.strip()) == ("What is it?", "A cat.")


def test_what_webdataset_skips_is_skipped_and_what_it_refuses_is_left_out(images, tmp_path):
    picture = (images / "a.jpg").read_bytes()

    def text(number):
        return json.dumps(row(f"<image>{number}?", "A cat.")).encode()

    members = [("./README", b"x"), ("./._0.jpg", b"x"), ("./0.JPG", picture), ("./0.Json", text(0))]
    members += [("caf\udce9.jpg", picture), ("caf\udce9.json", text(1))]  # a name in Latin-1
    members += [("2.jpg", picture), ("2.json", text(2)), ("2.jpg", picture), ("2.json", text(3))]
    members += [("4.json", json.dumps(row("4?", "A.")).encode() + b" " * (9 << 20)), ("4.jpg", picture)]
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT) as archive:
        folder = tarfile.TarInfo("./")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        archive.addfile(folder)
    arguments = ("conversations", "--tars", tmp_path, "--out", tmp_path / "out", "--processes", 1)
    assert run(*arguments, "--image-field", "Jpg", "--max-bad-fraction", 0.5) == 0
    assert [q.question for frame in frames_of(tmp_path / "out") for q in frame.questions] == ["0?", "1?"]
    listed = [json.loads(line) for line in (tmp_path / "out" / "left_out.jsonl").read_text().splitlines()]
    assert [item["lines"] for item in listed] == [[3], [4]]
    assert listed[0]["expected"] == "each once"
    assert "text of" in listed[1]["got"]


KILLED = """
import os, signal, sys
from concurrent.futures import wait
from data_shards import build
from data_shards.cli import main

def killed(tasks, progress, bar):
    wait(tasks, return_when="FIRST_COMPLETED")
    os.kill(os.getpid(), signal.SIGKILL)

build._follow = killed
main(sys.argv[1:])
"""
"""The command, killed as soon as a shard is written."""


def test_a_build_whose_parent_is_killed_goes_on_to_the_same_bytes(images, tmp_path):
    rows = [row(f"<image>{i}?", "A.", image=f"{i}.jpg") for i in range(60)]
    rng = np.random.default_rng(0)
    for i in range(60):
        (images / f"{i}.jpg").write_bytes(jpeg(noise(rng, 640, 480)))
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plain = ("conversations", "--annotations", tmp_path / "r.jsonl", "--images", images, "--samples-per-shard", 2)
    assert run(*plain, "--processes", 1, "--out", tmp_path / "whole") == 0
    command = [sys.executable, "-c", KILLED, *map(str, plain), "--processes", "2", "--out", str(tmp_path / "k")]
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL, start_new_session=True
    )
    assert process.wait(TIMEOUT_S) == -signal.SIGKILL
    wait_until(lambda: not group_lives(process.pid))  # workers do not outlive their parent
    assert 0 < len(list((tmp_path / "k").glob("*.tar"))) < 30
    assert run(*plain, "--processes", 1, "--out", tmp_path / "k") == 0
    one, other = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("whole", "k"))
    assert one == other
    assert len(one) == 61


def group_lives(group):
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            return True
    return False


def test_our_own_shards_need_no_conversion(tmp_path):
    write_dataset(tmp_path, camera_frames())
    assert run("index", tmp_path) == 0
