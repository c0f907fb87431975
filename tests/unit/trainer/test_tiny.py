"""The tiny pretrained parts: what is committed is what the manifest says, and the language model reads pictures."""

import hashlib
import itertools
import json
import shutil

import numpy as np
import pytest
import torch

from data_shards.chat import IMAGE_TOKEN, internlm2_chat
from models.attention import PACK_ATTENTION, register_pack_attention
from models.vlm import load_language, load_vision
from tests.helpers.paths import ROOT
from trainer.demo import TINY
from trainer.stages.sources import tokenizer_from
from trainer.tiny.__main__ import MAX_BYTES, main
from trainer.tiny.language import language_logits
from trainer.tiny.texts import GRID, worded_frames, worded_pack

PARTS = ROOT / TINY


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizer_from("tokenizer", str(PARTS / "language"))


def test_the_manifest_names_script_seed_and_the_checksum_of_every_file():
    manifest = json.loads((PARTS / "manifest.json").read_text())
    assert "trainer.tiny" in manifest["script"]
    assert isinstance(manifest["seed"], int)
    files = {str(p.relative_to(PARTS)) for p in PARTS.rglob("*") if p.is_file()} - {"manifest.json"}
    assert set(manifest["sha256"]) == files
    for name, checksum in manifest["sha256"].items():
        assert hashlib.sha256((PARTS / name).read_bytes()).hexdigest() == checksum, name


def test_the_parts_hold_at_most_ten_megabytes():
    assert sum(path.stat().st_size for path in PARTS.rglob("*") if path.is_file()) <= MAX_BYTES


def test_stored_parts_are_left_as_they_are_and_a_part_that_is_missing_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("trainer.tiny.__main__.TINY", tmp_path / "tiny")
    monkeypatch.setattr("trainer.tiny.__main__.make_language", lambda *_: pytest.fail("made a part again"))
    shutil.copytree(PARTS, tmp_path / "tiny")
    assert main(["--work-dir", str(tmp_path / "work")]) == 0
    assert "every part is there" in capsys.readouterr().out
    for path in PARTS.rglob("*.*"):
        assert (tmp_path / "tiny" / path.relative_to(PARTS)).read_bytes() == path.read_bytes()
    (tmp_path / "tiny" / "language" / "model.safetensors").unlink()
    assert main(["--work-dir", str(tmp_path / "work")]) == 2
    assert "language/model.safetensors of its manifest missing" in capsys.readouterr().err


def test_every_image_token_has_its_words(tokenizer):
    frames = list(itertools.islice(worded_frames(3, general_share=0.5), 6))
    pack = worded_pack(
        frames, tokenizer, internlm2_chat(), np.random.default_rng(0), questions_per_frame=3, listing_odds=1.0
    )
    image_tokens = int((pack.batch.input_ids == tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)).sum())
    assert len(pack.bag_starts) == image_tokens == sum(len(frame.words) for frame in frames)
    assert all(len(frame.words) == GRID * GRID * len(frame.frame.images) for frame in frames)
    assert tokenizer.decode(pack.bags[: pack.bag_starts[1]]) == " " + " ".join(frames[0].words[0])


def test_the_language_model_answers_from_pictures_in_words(tokenizer):
    model = load_language(PARTS / "language").eval()
    register_pack_attention()
    model.set_attn_implementation(PACK_ATTENTION)
    frames = list(itertools.islice(worded_frames(4, general_share=0.0), 12))
    pack = worded_pack(
        frames, tokenizer, internlm2_chat(), np.random.default_rng(0), questions_per_frame=1000, listing_odds=1.0
    )
    with torch.no_grad():
        logits = language_logits(model, pack, tokenizer.convert_tokens_to_ids(IMAGE_TOKEN))
    right = logits.argmax(-1) == pack.batch.label_targets
    asked = [worded.frame.questions[i].question for worded, i in _asked(frames, pack)]
    exact = [bool(right[pack.batch.label_questions == n].all()) for n in range(len(asked))]
    weather = [good for good, question in zip(exact, asked, strict=True) if "weather" in question]
    presence = [good for good, question in zip(exact, asked, strict=True) if question.startswith("Are there")]
    assert len(weather) == 12
    assert np.mean(weather) > 0.9
    assert np.mean(presence) > 0.8


def test_the_teacher_tower_comes_out_of_the_teachers_whole_model():
    tower = load_vision(PARTS / "teacher-vlm")
    assert tower.config.hidden_size == 160


def _asked(frames, pack):
    """Frame and question index of each question of a pack, which all bear the same key."""
    number, last = 0, -1
    sizes = [len(worded.frame.questions) for worded in frames]
    for count, (_, i) in enumerate(pack.batch.meta.question_refs):
        if count == sum(sizes[: number + 1]):
            number += 1
        last = number
        yield frames[last], i
