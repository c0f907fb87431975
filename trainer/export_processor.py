"""Tokenizer and preprocessing of a run in; files for the same prompt and tiles in stock transformers out."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from transformers import GenerationConfig, PreTrainedTokenizerFast
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.qianfan_ocr.processing_qianfan_ocr import QianfanOCRProcessor

from data_shards.chat import IMAGE_TOKEN, STOP
from models.vision import IMAGE_MEAN, IMAGE_STD
from trainer.preprocessing import Preprocessing, write_preprocessing

OPENGVLAB_TEMPLATES: Mapping[str, str] = MappingProxyType({"internlm2-chat": "internlm2-chat", "chatml": "internvl2_5"})
"""Chat templates by OpenGVLab's names."""


def write_processor(
    directory: Path, tokenizer: PreTrainedTokenizerFast, settings: Preprocessing, image_seq_length: int
) -> None:
    """Write tokenizer, chat template, image processor, processor and this project's own settings.

    The processor class is `QianfanOCRProcessor`, transformers' processor of InternVL's prompt format for still images:
    `InternVLProcessor` makes the same prompt, but always wants a video processor, which needs torchvision.

    Args:
        image_seq_length: image tokens of one tile.
    """
    tokenizer.chat_template = settings.chat().jinja()
    # InternVLProcessor takes every video token of a prompt for a video: it must not be the image token.
    tokenizer.video_token = tokenizer.unk_token
    tokenizer.save_pretrained(directory)
    _name_for_all_versions(directory / "tokenizer_config.json")
    image_processor(settings).save_pretrained(directory)
    processor: Mapping[str, Any] = {
        "processor_class": QianfanOCRProcessor.__name__,
        "image_seq_length": image_seq_length,
        "image_placeholder_token": IMAGE_TOKEN,
    }
    (directory / "processor_config.json").write_text(json.dumps(processor, indent=2) + "\n")
    write_preprocessing(settings, directory)


def _name_for_all_versions(file: Path) -> None:
    """Give the tokenizer's class the name that transformers 4 knows too, and drop how it was loaded here."""
    settings = json.loads(file.read_text())
    kept = {name: value for name, value in settings.items() if name not in ("backend", "is_local", "local_files_only")}
    file.write_text(json.dumps(kept | {"tokenizer_class": "PreTrainedTokenizerFast"}, indent=2) + "\n")


def generation_config(tokenizer: PreTrainedTokenizerFast) -> GenerationConfig:
    """Greedy, as evaluated; an answer ends at the end of its turn."""
    return GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=[tokenizer.convert_tokens_to_ids(STOP), tokenizer.eos_token_id],
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
    )


def chat_fields(settings: Preprocessing) -> dict[str, Any]:
    """The same settings as OpenGVLab's config.json spells them; transformers' config.json keeps them in one field."""
    view = settings.view
    return {
        "template": OPENGVLAB_TEMPLATES[settings.template],
        "dynamic_image_size": view.dynamic_resolution,
        "use_thumbnail": view.thumbnail,
        "min_dynamic_patch": 1,
        "max_dynamic_patch": view.max_tiles,
        "pad2square": False,
    }


def image_processor(settings: Preprocessing) -> GotOcr2ImageProcessorPil:
    """The stock processor with the same tiling; one tile an image is said by `max_patches`, which the stock processor
    classes obey (they set `crop_to_patches` themselves)."""
    view = settings.view
    several = view.dynamic_resolution and view.max_tiles > 1
    return GotOcr2ImageProcessorPil(
        size={"height": view.tile_size, "width": view.tile_size},
        crop_to_patches=several,
        min_patches=1,
        max_patches=view.max_tiles if several else 1,
        image_mean=list(IMAGE_MEAN),
        image_std=list(IMAGE_STD),
    )


def remarks(settings: Preprocessing, *, custom: bool) -> list[str]:
    """Where stock preprocessing differs from the model's own, one sentence each.

    Args:
        custom: the model has a projector that stock transformers does not know.
    """
    view, found = settings.view, []
    if custom:
        found.append("the `linear` projector is not of stock transformers: load it with models.vlm.load_vlm")
    if view.mode == "canvas":
        found.append(
            f"the stock processor does not stitch: give it the six views as one {6 * view.tile_size}x"
            f"{2 * view.tile_size} canvas"
        )
    if not view.thumbnail and view.dynamic_resolution and view.max_tiles > 1:
        found.append("the stock processor adds a thumbnail, with which the model was not trained")
    if view.camera_max_tiles:
        found.append(
            f"the stock processor gives every image up to {view.max_tiles} tiles; the model was trained with "
            + ", ".join(f"{number} for {camera}" for camera, number in view.camera_max_tiles.items())
        )
    return found
