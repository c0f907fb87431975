"""A finished run in, a complete directory out that stock transformers loads: weights, configuration, tokenizer, chat
template, generation and processor settings, and no code."""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import (
    GenerationConfig,
    InternVLForConditionalGeneration,
    InternVLVisionModel,
    PreTrainedTokenizerFast,
)
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from data_shards.atomic import TEMPORARY_SUFFIX
from data_shards.chat import IMAGE_TOKEN, STOP
from models.projector import LinearProjectorVLM
from models.vision import IMAGE_MEAN, IMAGE_STD
from models.vlm import load_vlm, model_architectures, save_model, tile_side
from trainer.preprocessing import Preprocessing, read_preprocessing, write_preprocessing


class ExportError(ValueError):
    """A run that cannot be exported as asked; the message names directory, field, got, expected and fix."""


def export(
    source: Path, out_dir: Path, *, allow_custom: bool = False, recipe: Path | None = None, dtype: str | None = None
) -> list[str]:
    """Write the model of a run as a directory for stock transformers; whole or not at all.

    `AutoModelForImageTextToText`, `AutoTokenizer` and `AutoImageProcessor` load it; `AutoProcessor` as well where
    torchvision is installed, which transformers' InternVL video processor needs.

    Args:
        source: a run directory with `model/`, or such a model directory itself.
        out_dir: must not exist, or be empty.
        allow_custom: export a model with the `linear` projector, which only `models.vlm.load_vlm` can load.
        recipe: where view, template and system message are read, if not from the run.
        dtype: `float32`, `bfloat16` or `float16`; as saved where None.

    Returns:
        Remarks for the user: where stock preprocessing differs from the model's own.

    Raises:
        ExportError: a run that holds no whole model, a tokenizer that is missing or of another model, a non-stock
            projector without `allow_custom`, an `out_dir` that is in use.
        ModelError, PreprocessingError, ConfigError: from reading the parts.
    """
    model_dir = source / "model" if (source / "model").is_dir() else source
    custom = _check_architecture(model_dir, allow_custom)
    _check_free(out_dir)
    settings = read_preprocessing(model_dir, recipe)
    tokenizer = _tokenizer(model_dir)
    model = load_vlm(model_dir, _dtype(model_dir, dtype))
    _check_fit(model_dir, model, tokenizer, settings)

    out_dir.parent.mkdir(parents=True, exist_ok=True)
    partial = out_dir.with_name(f".{out_dir.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
    try:
        _write(partial, model, tokenizer, settings)
        if out_dir.is_dir():
            out_dir.rmdir()
        partial.rename(out_dir)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return _remarks(settings, custom)


def _check_architecture(model_dir: Path, allow_custom: bool) -> bool:
    """Whether the model has a projector of this project's own."""
    names = model_architectures(model_dir)
    if names == [InternVLVisionModel.__name__]:
        raise ExportError(
            f"{model_dir}: got a vision tower alone, as a distill run leaves it, expected a whole model; run the "
            "stages align and finetune on it and export their run"
        )
    custom = names == [LinearProjectorVLM.__name__]
    if custom and not allow_custom:
        raise ExportError(
            f"{model_dir}: got the `linear` projector, expected `mlp`, the only one that stock transformers knows; "
            "train with model.projector=mlp, or give --allow-custom for a directory that only this project loads"
        )
    if not custom and names != [InternVLForConditionalGeneration.__name__]:
        raise ExportError(
            f"{model_dir / 'config.json'}: field 'architectures': got {names}, expected "
            f"{InternVLForConditionalGeneration.__name__}; name a run of the stage align or finetune"
        )
    return custom


def _check_free(out_dir: Path) -> None:
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise ExportError(
            f"{out_dir}: got a path in use, expected none or an empty directory; name another or remove it"
        )


def _tokenizer(model_dir: Path) -> PreTrainedTokenizerFast:
    if not (model_dir / "tokenizer.json").is_file():
        raise ExportError(
            f"{model_dir}: got no tokenizer.json, expected the tokenizer beside the weights; copy there the "
            "directory that the recipe named as model.tokenizer"
        )
    return PreTrainedTokenizerFast.from_pretrained(model_dir, local_files_only=True)


def _dtype(model_dir: Path, name: str | None) -> torch.dtype:
    record = json.loads((model_dir / "config.json").read_text())
    return getattr(torch, name or record.get("dtype") or "float32")


def _check_fit(
    model_dir: Path,
    model: InternVLForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    settings: Preprocessing,
) -> None:
    image_token = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    if image_token != model.config.image_token_id or len(tokenizer) > model.lm_head.out_features:
        raise ExportError(
            f"{model_dir}: got a tokenizer of {len(tokenizer)} tokens with {IMAGE_TOKEN} = {image_token}, expected at "
            f"most {model.lm_head.out_features} with {IMAGE_TOKEN} = {model.config.image_token_id}; the "
            "tokenizer beside the weights is of another model"
        )
    if settings.view.tile_size != tile_side(model):
        raise ExportError(
            f"{model_dir}: field 'tile_size' of the view: got {settings.view.tile_size}, expected "
            f"{tile_side(model)} as in config.json; name the recipe the model was trained with (--recipe)"
        )


def _write(
    directory: Path,
    model: InternVLForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    settings: Preprocessing,
) -> None:
    directory.mkdir(parents=True)
    model.generation_config = _generation_config(tokenizer)
    save_model(model, directory)
    tokenizer.chat_template = settings.chat().jinja()
    # InternVLProcessor takes every video token of a prompt for a video: it must not be the image token.
    tokenizer.video_token = tokenizer.unk_token
    tokenizer.save_pretrained(directory)
    _image_processor(settings).save_pretrained(directory)
    processor = {"processor_class": "InternVLProcessor", "image_seq_length": model.config.image_seq_length}
    (directory / "processor_config.json").write_text(json.dumps(processor, indent=2) + "\n")
    write_preprocessing(settings, directory)


def _generation_config(tokenizer: PreTrainedTokenizerFast) -> GenerationConfig:
    """Greedy, as evaluated; an answer ends at the end of its turn."""
    return GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=[tokenizer.convert_tokens_to_ids(STOP), tokenizer.eos_token_id],
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
    )


def _image_processor(settings: Preprocessing) -> GotOcr2ImageProcessorPil:
    """The stock processor with the same tiling; one tile an image is said by `max_patches`, which InternVL's stock
    processor class obeys (it sets `crop_to_patches` itself)."""
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


def _remarks(settings: Preprocessing, custom: bool) -> list[str]:
    view, remarks = settings.view, []
    if custom:
        remarks.append("the `linear` projector is not of stock transformers: load it with models.vlm.load_vlm")
    if view.mode == "canvas":
        remarks.append(
            f"the stock processor does not stitch: give it the six views as one {6 * view.tile_size}x"
            f"{2 * view.tile_size} canvas"
        )
    if not view.thumbnail and view.dynamic_resolution and view.max_tiles > 1:
        remarks.append("the stock processor adds a thumbnail, with which the model was not trained")
    return remarks


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0, or 2 with a message where the run cannot be exported."""
    parser = argparse.ArgumentParser(prog="python -m trainer.export", description=__doc__)
    parser.add_argument("run_dir", type=Path, help="run directory of the stage align or finetune")
    parser.add_argument("out_dir", type=Path, help="directory to write; must not exist")
    parser.add_argument("--allow-custom", action="store_true", help="also export the `linear` projector")
    parser.add_argument("--recipe", type=Path, help="take view, template and system message from this recipe")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help="as saved where not given")
    args = parser.parse_args(arguments)
    try:
        remarks = export(
            args.run_dir, args.out_dir, allow_custom=args.allow_custom, recipe=args.recipe, dtype=args.dtype
        )
    except ValueError as error:
        print(f"export: {error}", file=sys.stderr)
        return 2
    for remark in remarks:
        print(f"note: {remark}")
    print(f"{args.out_dir}: written; load it with AutoModelForImageTextToText.from_pretrained")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
