"""The demo in small: every command of it, the summary it promises, and what the stages leave alone."""

import json

import pytest
import torch
from transformers import AutoModelForImageTextToText

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
from models.vlm import load_language, load_vision, load_vlm
from tests.helpers.paths import ROOT
from trainer.demo import COLUMNS, TINY, Sizes, render_summary, run_demo
from trainer.preprocessing import read_preprocessing
from trainer.stages.sources import tokenizer_from

pytestmark = pytest.mark.e2e

SIZES = Sizes(train_scenes=16, heldout_scenes=4, general_images=8, steps=3)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("demo") / "run"


@pytest.fixture(scope="module")
def summary(run_dir):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return run_demo(run_dir, SIZES)


def test_the_summary_has_what_is_promised(run_dir, summary):
    assert json.loads((run_dir / "summary.json").read_text()) == summary
    assert set(summary) == {"seconds", "stages", "scores", "export", "tensorboard"}
    assert set(summary["stages"]) == {"distill", "align", "finetune"}
    for stage in summary["stages"].values():
        assert set(stage) == {"steps", "seconds", "loss_first", "loss_last", "samples_per_s"}
        assert stage["steps"] == 3
    assert list(summary["scores"]) == ["teacher", "distilled", "undistilled", "majority", "blind"]
    assert all(set(scores) == set(COLUMNS) for scores in summary["scores"].values())
    table = render_summary(summary)
    assert summary["export"] in table
    assert "undistilled" in table


def test_alignment_changes_the_projector_alone_and_finetuning_everything(run_dir, summary):
    aligned, tuned = load_vlm(run_dir / "align" / "model"), load_vlm(run_dir / "finetune" / "model")
    tower = dict(load_vision(run_dir / "distill" / "model").named_parameters())
    language = dict(load_language(ROOT / TINY / "language").named_parameters())
    checked = 0
    for name, parameter in aligned.named_parameters():
        short = name.replace("model.vision_tower.", "").replace("model.language_model.", "model.")
        before = tower.get(short, language.get(short))
        if before is not None:
            checked += 1
            assert torch.equal(parameter, before), name
        assert not torch.equal(parameter, tuned.get_parameter(name)), name
    assert checked == len(tower) + len(language)


def test_the_export_gives_the_trainers_logits_in_stock_transformers(run_dir, summary):
    export = run_dir / "export"
    stock = AutoModelForImageTextToText.from_pretrained(export).eval()
    ours = PackedVLM(load_vlm(run_dir / "finetune" / "model").eval())
    settings, tokenizer = read_preprocessing(export), tokenizer_from("tokenizer", str(export))
    index = load_index(run_dir / "data" / "driving" / "val")
    worst, compared = 0.0, 0
    for position in range(len(index)):
        frame = read_frame(index, position)
        tiles = tile_images([decode_jpeg(image) for image in frame.images.values()], settings.view)
        for question in range(0, len(frame.questions), len(frame.questions) // 3):
            tokens = tokenize_frame(frame, [16] * 6, tokenizer, internlm2_chat(system=settings.system), [question])
            meta = PartMeta(key=frame.key, dataset="val", question_ids=(question,), kinds=("perception",))
            batch = to_tensors(build_pack([PackPart(tokens=tokens, tiles=tiles, meta=meta)]))
            pixels = normalise_tiles(batch.tiles)
            with torch.no_grad():
                layout = pack_layout(batch.groups, batch.segment_ids)
                own = ours(batch.input_ids, batch.position_ids, pixels, layout, batch.label_positions)
                whole = stock(input_ids=batch.input_ids[None], pixel_values=pixels).logits[0]
            difference = (own - whole[batch.label_positions]).abs().max() / whole.abs().max()
            worst = max(worst, difference.item())
            compared += 1
    assert compared >= 20
    assert worst < 1e-5
