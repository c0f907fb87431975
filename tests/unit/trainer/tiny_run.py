"""A finished run with random tiny weights: a directory to make in, `RUN_DIR` with model, tokenizer and recipe out."""

from pathlib import Path

import numpy as np
import simplejpeg
import torch
import yaml
from transformers import InternVLForConditionalGeneration, PreTrainedTokenizerFast

from data_shards.chat import IMAGE_TOKEN
from data_shards.schema import CAMERAS, Question, RawFrame
from data_shards.tokenizer import tokenizer_from_sentencepiece, train_sentencepiece
from models.presets import vlm_preset
from models.saving import save_model
from models.vlm import build_vlm

WORDS = "what is the moving status of object car truck going ahead turn left right yes no stopped red"


def tiny_tokenizer(directory: Path) -> PreTrainedTokenizerFast:
    """A tokenizer over a few driving words."""
    directory.mkdir(parents=True, exist_ok=True)
    model = train_sentencepiece([WORDS] * 3, directory / "tokenizer.model", vocab_size=300)
    return tokenizer_from_sentencepiece(model)


def lively_vlm(
    tokenizer: PreTrainedTokenizerFast, seed: int = 0, projector: str = "mlp"
) -> InternVLForConditionalGeneration:
    """Random weights large enough that answers depend on the question and on the images."""
    config = vlm_preset(
        "tiny-vlm", vocab_size=len(tokenizer), image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    )
    vlm = build_vlm(config, torch.Generator().manual_seed(seed), projector=projector)
    with torch.no_grad():
        for weight in vlm.parameters():
            if weight.dim() == 2:
                weight.mul_(4.0)
    return vlm


def make_run(directory: Path, projector: str = "mlp", **view: object) -> Path:
    """`RUN_DIR` as a finetune stage leaves it."""
    tokenizer = tiny_tokenizer(directory)
    save_model(lively_vlm(tokenizer, projector=projector), directory / "model")
    tokenizer.save_pretrained(directory / "model")
    recipe = {
        "stage": "finetune",
        "run_dir": str(directory),
        "steps": 1,
        "model": {"vlm": "elsewhere"},
        "data": {
            "datasets": [{"path": "elsewhere"}],
            "view": {"tile_size": 112, "max_tiles": 1, "thumbnail": False} | view,
            "system": "You drive.",
        },
    }
    (directory / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return directory


def tiny_frame(number: int, questions: int, cameras: int = 6, size: tuple[int, int] = (160, 90)) -> RawFrame:
    """A frame of noise images; question i is perception, prediction, ... in turn, every third one untagged."""
    rng = np.random.default_rng(number)
    kinds = ("planning", "perception", "behavior", "prediction")
    pictures = {
        name: simplejpeg.encode_jpeg(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8), quality=90)
        for name in CAMERAS[:cameras]
    }
    words = WORDS.split()
    asked = tuple(
        Question(
            question=" ".join(rng.choice(words, 3 + int(rng.integers(6)))),
            answer="yes",
            kind=kinds[i % 4],
            tags=() if i % 3 == 2 else (0,),
        )
        for i in range(questions)
    )
    return RawFrame(key=f"s{number}_f", scene=f"s{number}", frame="f", source="test", images=pictures, questions=asked)
