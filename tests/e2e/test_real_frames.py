"""Real DriveLM frames through the documented commands: shards, three stages on one scene, answers on the other."""

import json
import subprocess
import sys

import pytest
import torch

from data_shards.chat import internlm2_chat, tokenize_frame
from data_shards.collate import to_tensors
from data_shards.decode import decode_jpeg
from data_shards.index import load_index
from data_shards.pack import PackPart, PartMeta, build_pack
from data_shards.read import read_frame
from data_shards.tiling import tile_images
from models.attention import pack_layout
from models.packed_vlm import PackedVLM
from models.vision import normalise_tiles
from models.vlm import load_vlm
from tests.helpers.forked import train
from tests.helpers.paths import DRIVELM_SAMPLE, ROOT, needs_drivelm_sample
from trainer.evaluate.submission import reference_questions
from trainer.preprocessing import read_preprocessing
from trainer.stages.sources import tokenizer_from

pytestmark = [pytest.mark.e2e, needs_drivelm_sample]

TRAINED_SCENE = "54cdaaae372d421fa4734d66f51a8c48"
ASKED_SCENE = "f0f120e4d4b0441da90ec53b16ee169d"


def run(*command, statuses=(0,)):
    done = subprocess.run(
        [sys.executable, "-m", *map(str, command)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode in statuses, done.stdout + done.stderr
    return done.stdout


def convert(scene, out):
    sample = ["--annotations", DRIVELM_SAMPLE / "annotations" / "train_sample.json", "--images", DRIVELM_SAMPLE]
    run("data_shards", "drivelm", *sample, "--scenes", scene, "--out", out, "--workers", "1")


def stage(name, work, *overrides):
    """A demo recipe on the real scene, with longer packs: real questions are longer than the synthetic ones."""
    settings = [f"run_dir={work / name}", f"data.datasets=[{{path: {work / 'train'}}}]", "data.max_tokens=4096"]
    train(["--recipe", f"trainer/recipes/demo_{name}.yaml", *settings, "image_log_every=0", *overrides])


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    path = tmp_path_factory.mktemp("real")
    convert(TRAINED_SCENE, path / "train")
    convert(ASKED_SCENE, path / "asked")
    stage("distill", path, "steps=2")
    stage("align", path, "steps=2", f"model.vision={path / 'distill' / 'model'}")
    stage("finetune", path, "steps=3", f"model.vlm={path / 'align' / 'model'}")
    run("trainer.export", path / "finetune", path / "export")
    return path


def test_real_frames_train_answer_and_score(work):
    predictions, references, scores = work / "predictions.json", work / "references.json", work / "scores.json"
    run("data_shards", "references", work / "asked", "--out", references)
    run("trainer.evaluate", "predict", "--model", work / "export", "--data", work / "asked", "--out", predictions)
    run("trainer.evaluate", "score", "--predictions", predictions, "--references", references, "--out", scores)
    rows = json.loads(predictions.read_text())
    expected = {question.id for question in reference_questions(json.loads(references.read_text()))}
    assert {row["id"] for row in rows} == expected
    assert all(row["id"].startswith(ASKED_SCENE) for row in rows)
    assert 0 <= json.loads(scores.read_text())["official"]["accuracy"] <= 1
    # three steps teach no letters: lint may find fault with answers, and with nothing else
    lint = ("trainer.evaluate", "lint", "--predictions", predictions, "--references", references)
    last = run(*lint, statuses=(0, 2)).splitlines()[-1]
    problems = json.loads(last.partition("problems: ")[2] or "{}")
    assert set(problems) <= {"no_letter", "tag_form"}


def test_every_pack_holds_all_six_views_of_its_frames(work):
    assert all(len(entry.image_sizes) == 6 for entry in load_index(work / "train").samples)
    rows = [json.loads(line) for line in (work / "finetune" / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        frames = row["rate/samples_per_s"] * row["rate/step_seconds"]
        tiles = row["rate/tiles_per_s"] * row["rate/step_seconds"]
        assert frames > 0.9
        assert tiles == pytest.approx(6 * frames)


def test_the_tuned_model_answers_otherwise_when_the_views_are_black(work):
    """Even a few steps on real frames leave a model that looks: its likelihoods of the labels depend on the images."""
    index = load_index(work / "asked")
    model = PackedVLM(load_vlm(work / "finetune" / "model").eval())
    settings, tokenizer = read_preprocessing(work / "export"), tokenizer_from("tokenizer", str(work / "export"))
    frame = read_frame(index, 0)
    tiles = tile_images([decode_jpeg(image) for image in frame.images.values()], settings.view)
    tokens = tokenize_frame(frame, [16] * 6, tokenizer, internlm2_chat(system=settings.system), [0])
    meta = PartMeta(key=frame.key, dataset="asked", question_ids=(0,), kinds=("perception",))
    batch = to_tensors(build_pack([PackPart(tokens=tokens, tiles=tiles, meta=meta)]))
    layout = pack_layout(batch.groups, batch.segment_ids)
    with torch.no_grad():
        seen, black = (
            model(batch.input_ids, batch.position_ids, normalise_tiles(pixels), layout, batch.label_positions)
            for pixels in (batch.tiles, torch.zeros_like(batch.tiles))
        )
    assert (seen - black).abs().max() > 1e-3 * seen.abs().max()
