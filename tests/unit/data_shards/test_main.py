"""The command line as a user starts it: results, exit statuses, and messages instead of tracebacks."""

import io
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from data_shards.cli import main
from data_shards.index import index_path, load_index
from data_shards.read import read_frame
from tests.helpers.frames import camera_frames, write_dataset
from tests.helpers.paths import DRIVELM_SAMPLE, ROOT, needs_drivelm_sample
from tests.helpers.waiting import TIMEOUT_S, wait_until

ANNOTATIONS = str(DRIVELM_SAMPLE / "annotations" / "train_sample.json")


def run(*arguments):
    return main([str(argument) for argument in arguments])


def synthetic(out, *more):
    small = ("--frames-per-scene", 1, "--image-width", 160, "--workers", 1)
    return run("synthetic", "--out", out, *small, *more)


def frames_of(directory):
    index = load_index(directory)
    return [read_frame(index, i) for i in range(len(index))]


@needs_drivelm_sample
def test_drivelm_splits_by_scene_and_both_forms_are_there(tmp_path):
    arguments = ("drivelm", "--annotations", ANNOTATIONS, "--images", DRIVELM_SAMPLE, "--workers", 1)
    assert run(*arguments, "--out", tmp_path, "--val-fraction", 0.5) == 0
    train, val = frames_of(tmp_path / "train"), frames_of(tmp_path / "val")
    assert len(train) + len(val) == 7
    assert not {frame.scene for frame in train} & {frame.scene for frame in val}
    assert sum(len(frame.questions) for frame in (*train, *val)) == 619 + 13
    assert sum(1 for frame in (*train, *val) for q in frame.questions if q.tags) == 51


@needs_drivelm_sample
def test_one_scene_can_be_chosen(tmp_path):
    scene = json.loads((DRIVELM_SAMPLE / "frames.json").read_text())[0]["scene"]
    arguments = ("drivelm", "--annotations", ANNOTATIONS, "--images", DRIVELM_SAMPLE, "--workers", 1)
    assert run(*arguments, "--out", tmp_path / "x", "--scenes", scene, "--form", "test") == 0
    frames = frames_of(tmp_path / "x")
    assert {frame.scene for frame in frames} == {scene}
    assert all(q.tags for frame in frames for q in frame.questions)


@pytest.mark.parametrize("family", ["driving", "general"])
def test_synthetic_frames_do_not_depend_on_how_they_are_split(tmp_path, family):
    more = ("--scenes", 4, "--seed", 5, "--family", family)
    assert synthetic(tmp_path / "whole", *more) == 0
    assert synthetic(tmp_path / "split", *more, "--val-fraction", 0.25, "--samples-per-shard", 2) == 0
    whole = {frame.key: frame for frame in frames_of(tmp_path / "whole")}
    train, val = frames_of(tmp_path / "split" / "train"), frames_of(tmp_path / "split" / "val")
    assert (len(train), len(val), len(whole)) == (3, 1, 4)
    assert {frame.key: frame for frame in (*train, *val)} == whole


def test_views_are_stored_at_the_size_asked_for_in_quality_95(tmp_path):
    plain, more = ("--scenes", 2, "--seed", 3), ("--view-size", "112x56")
    assert synthetic(tmp_path / "whole", *plain) == 0
    assert synthetic(tmp_path / "small", *plain, *more) == 0
    for whole, small in zip(frames_of(tmp_path / "whole"), frames_of(tmp_path / "small"), strict=True):
        assert replace(small, images={}) == replace(whole, images={})
        for name, data in small.images.items():
            image = Image.open(io.BytesIO(data))
            reference = io.BytesIO()
            Image.new("RGB", (8, 8)).save(reference, "JPEG", quality=95)
            assert image.quantization == Image.open(reference).quantization
            assert image.size == (112, 56)
            expected = Image.open(io.BytesIO(whole.images[name])).resize((112, 56), Image.Resampling.BICUBIC)
            assert np.abs(np.asarray(image, dtype=int) - np.asarray(expected, dtype=int)).mean() < 3
    assert synthetic(tmp_path / "small", *plain) == 2
    assert synthetic(tmp_path / "x", *plain, *more, "--family", "general") == 2


def test_the_synthetic_test_form_is_the_same_frames_with_their_tagged_questions_alone(tmp_path, capsys):
    more = ("--scenes", 2, "--seed", 3)
    assert synthetic(tmp_path / "both", *more) == 0
    assert synthetic(tmp_path / "test", *more, "--form", "test") == 0
    for whole, tested in zip(frames_of(tmp_path / "both"), frames_of(tmp_path / "test"), strict=True):
        tagged = tuple(q for q in whole.questions if q.tags)
        assert 10 < len(tagged) < len(whole.questions)
        assert tested == replace(whole, questions=tagged)
    assert synthetic(tmp_path / "where", *more, "--form", "positions") == 0
    asked = frames_of(tmp_path / "where")
    assert [len(frame.images) for frame in asked] == [1] * len(frames_of(tmp_path / "both"))
    assert all(question.question.startswith("Where is the ") for frame in asked for question in frame.questions)
    assert synthetic(tmp_path / "x", *more, "--form", "test", "--family", "general") == 2
    assert "--form" in capsys.readouterr().err


@pytest.mark.parametrize("size", ["896", "x448", "0x448", "896x448x3"])
def test_a_view_size_of_another_form_is_refused(tmp_path, size):
    with pytest.raises(SystemExit):
        synthetic(tmp_path, "--scenes", 1, "--view-size", size)


def test_inspect_counts_what_is_there(tmp_path, capsys):
    write_dataset(tmp_path, camera_frames(num_scenes=3, frames_per_scene=2))
    assert run("inspect", tmp_path) == 0
    text = capsys.readouterr().out
    size = sum(path.stat().st_size for path in tmp_path.glob("*.tar"))
    for part in ("6 in 3 scenes", "12, 2.0 a sample", "perception: 6, prediction: 6", "2 language: 6", "32x18: 36"):
        assert part in text
    assert f"3, {size:,} bytes" in text


def test_inspect_counts_tags_that_do_not_parse(tmp_path, capsys):
    frame = next(iter(camera_frames(num_scenes=1, frames_per_scene=1)))
    asked = replace(frame.questions[0], question="Is <c1,CAM_BACK,1.0,2.0> near <c2,CAM_BACK, 3>?")
    for name, questions, said in (
        ("a", (asked,), "1 of 2 object tags do not parse"),
        ("b", frame.questions, "all parse"),
    ):
        write_dataset(tmp_path / name, [replace(frame, questions=questions)])
        assert run("inspect", tmp_path / name) == 0
        assert said in capsys.readouterr().out


def test_index_takes_in_tars_of_others(tmp_path, capsys):
    write_dataset(tmp_path, camera_frames())
    for path in tmp_path.glob("*.json"):
        path.unlink()
    assert run("index", tmp_path) == 0
    assert "6 samples in 3 shards" in capsys.readouterr().out
    assert (tmp_path / "dataset.json").is_file()


@needs_drivelm_sample
@pytest.mark.parametrize(
    ("replaced", "text"),
    [
        ({"--annotations": "/nowhere/a.json"}, "/nowhere/a.json: field '--annotations'"),
        ({"--images": "/nowhere"}, "/nowhere: field '--images'"),
        ({"--images": "/proc/self"}, "42 missing images in 7 of 7 frames"),
        ({"--scenes": "abc"}, "field '--scenes': got 'abc'"),
        ({"--val-fraction": "1.5"}, "val fraction: got 1.5"),
        ({"--out": __file__}, "--out"),
    ],
)
def test_wrong_usage_of_drivelm_is_named_and_writes_nothing(tmp_path, capsys, replaced, text):
    options = {"--annotations": ANNOTATIONS, "--images": str(DRIVELM_SAMPLE), "--out": str(tmp_path / "o"), **replaced}
    assert run("drivelm", *(part for option in options.items() for part in option)) == 2
    assert text in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_out_directory_of_another_source_is_refused(tmp_path, capsys):
    write_dataset(tmp_path / "x", camera_frames())
    assert synthetic(tmp_path / "x", "--scenes", 2) == 2
    assert "field 'source': got 'test', expected 'synthetic'" in capsys.readouterr().err
    assert synthetic(tmp_path / "x", "--scenes", 2, "--val-fraction", 0.5) == 2
    assert "unsplit" in capsys.readouterr().err


def test_a_damaged_record_is_a_failure_and_a_missing_shard_wrong_usage(tmp_path, capsys):
    index = write_dataset(tmp_path, camera_frames())
    tar = tmp_path / index.samples[0].shard
    content = bytearray(tar.read_bytes())
    content[index.samples[0].members["json"].offset] ^= 1
    tar.write_bytes(content)
    assert run("inspect", tmp_path) == 1
    assert "shard-000000.tar: offset" in capsys.readouterr().err
    tar.unlink()
    assert run("inspect", tmp_path) == 2
    assert "shard-000000.tar: listed" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["draw"],
        ["synthetic", "--out", "x", "--scenes", "0"],
        ["synthetic", "--out", "x", "--scenes", "1", "--seed", "-1"],
        ["inspect"],
    ],
)
def test_arguments_that_do_not_parse_exit_with_2(arguments):
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert caught.value.code == 2


def whole(directory):
    """Tars that have their index, with the numbers of their files."""
    return {tar: tar.stat().st_ino for tar in directory.glob("*.tar") if index_path(tar).is_file()}


def behind_this_test() -> None:
    """The child leaves the core to the test that watches it; tests that run in a shell's background would hand down
    that Ctrl-C is ignored."""
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    os.nice(15)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_keeps_whole_shards_and_the_same_command_goes_on(tmp_path):
    command = [sys.executable, "-m", "data_shards", "synthetic", "--out", str(tmp_path / "x"), "--scenes", "60"]
    command += ["--frames-per-scene", "1", "--samples-per-shard", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        start_new_session=True,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        preexec_fn=behind_this_test,
    )
    wait_until(lambda: whole(tmp_path / "x"))
    os.killpg(process.pid, signal.SIGINT)
    message = process.communicate(timeout=TIMEOUT_S)[1].decode()
    assert process.returncode == 75, message
    assert "Traceback" not in message
    assert "same command goes on" in message
    kept = whole(tmp_path / "x")
    assert 0 < len(kept) < 60
    assert not list((tmp_path / "x").glob(".*"))
    assert subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False).returncode == 0
    assert len(frames_of(tmp_path / "x")) == 60
    assert {path: path.stat().st_ino for path in kept} == kept


def test_teacher_targets_becomes_the_program_that_has_the_models(monkeypatch):
    def execv(program, arguments):
        raise RuntimeError(program, *arguments)

    monkeypatch.setattr(os, "execv", execv)
    with pytest.raises(RuntimeError) as caught:
        run("teacher-targets", "--recipe", "r.yaml", "--part", "0/2")
    expected = (sys.executable, "-m", "trainer.targets", "--recipe", "r.yaml", "--part", "0/2")
    assert caught.value.args == (sys.executable, *expected)
