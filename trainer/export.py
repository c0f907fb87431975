"""A finished run in, a complete directory out that stock transformers loads: weights, configuration, tokenizer, chat
template, generation and processor settings, a model card, and no code."""

import argparse
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from transformers import InternVLForConditionalGeneration, InternVLVisionModel, PreTrainedTokenizerFast

from data_shards.chat import IMAGE_TOKEN
from data_shards.tokenizer import TokenizerError, load_tokenizer
from models.blanks import stored_vlm
from models.convert import convert
from models.convert.configs import EXTRAS
from models.directories import to_be_made, whole_directory
from models.loading import Blank, model_architectures
from models.projector import LinearProjectorVLM
from models.vlm import tile_side
from trainer.export_card import ExportFacts, Layout, model_card
from trainer.export_processor import chat_fields, generation_config, remarks, write_processor
from trainer.export_weights import num_parameters, size_in_bytes, write_weights
from trainer.preprocessing import Preprocessing, read_preprocessing, write_preprocessing

MAX_SHARD_SIZE = "5GB"


class ExportError(ValueError):
    """A run that cannot be exported as asked; the message names directory, field, got, expected and fix."""


def export(
    source: Path,
    out_dir: Path,
    *,
    allow_custom: bool = False,
    recipe: Path | None = None,
    dtype: str | None = None,
    max_shard_size: str = MAX_SHARD_SIZE,
    to: Literal["transformers", "opengvlab"] = "transformers",
) -> list[str]:
    """Write the model of a run as a directory for stock transformers; whole or not at all.

    `AutoModelForImageTextToText`, `AutoTokenizer`, `AutoProcessor` and `pipeline("image-text-to-text")` load it, with
    or without torchvision. Weights are copied tensor by tensor: a shard of them is held in memory.

    Args:
        source: a run directory with `model/`, or such a model directory itself.
        out_dir: must not exist, or be empty.
        allow_custom: export a model with the `linear` projector, which only `models.vlm.load_vlm` can load.
        recipe: where view, template and system message are read, if not from the run.
        dtype: `float32`, `bfloat16` or `float16`; as saved where None.
        max_shard_size: largest file of weights, such as `5GB` or `500MB`.
        to: `opengvlab` writes the layout of OpenGVLab's checkpoints instead, for programs made for those.

    Returns:
        Remarks for the user: where stock preprocessing differs from the model's own.

    Raises:
        ExportError: a run that is not finished or holds no whole model, a tokenizer that is missing or of another
            model, a non-stock projector without `allow_custom`, an `out_dir` that is in use.
        ModelError, PreprocessingError, ConfigError, ShardError, ConvertError: from reading the parts.
        ValueError: a shard size that is none.
    """
    shard_bytes = size_in_bytes(max_shard_size)
    model_dir = _model_directory(source)
    custom = _check_architecture(model_dir, allow_custom, to)
    out_dir = to_be_made(out_dir, ExportError)
    parts = _read_parts(model_dir, recipe, custom=custom)
    chosen = getattr(torch, dtype) if dtype else None
    with whole_directory(out_dir) as partial:
        if to == "transformers":
            _write(partial, parts, out_dir.name, chosen, shard_bytes)
        else:
            with tempfile.TemporaryDirectory(prefix=f".{out_dir.name}.", dir=out_dir.parent) as beside:
                stock = Path(beside) / "transformers"
                _write(stock, parts, out_dir.name, chosen, shard_bytes)
                _to_opengvlab(stock, partial, parts, out_dir.name, shard_bytes)
    return parts.notes


@dataclass(frozen=True, kw_only=True)
class _Parts:
    """What an export is made of."""

    blank: Blank[InternVLForConditionalGeneration]
    tokenizer: PreTrainedTokenizerFast
    settings: Preprocessing
    recipe: Path | None
    summary: Path | None
    notes: list[str]
    custom: bool

    def card(self, title: str, layout: Layout) -> str:
        """The model card, once the weights are written."""
        model = self.blank.model
        facts = ExportFacts(
            title=title,
            num_parameters=num_parameters(model),
            dtype=str(model.config.dtype).removeprefix("torch."),
            settings=self.settings,
            remarks=self.notes,
            recipe=self.recipe,
            summary=self.summary,
            layout=layout,
        )
        return model_card(facts)


def _read_parts(model_dir: Path, recipe: Path | None, *, custom: bool) -> _Parts:
    settings = read_preprocessing(model_dir, recipe)
    tokenizer, blank = _tokenizer(model_dir), stored_vlm(model_dir)
    _check_fit(model_dir, blank.model, tokenizer, settings)
    return _Parts(
        blank=blank,
        tokenizer=tokenizer,
        settings=settings,
        recipe=recipe or _beside(model_dir, "recipe.yaml"),
        summary=_beside(model_dir, "summary.json"),
        notes=remarks(settings, custom=custom),
        custom=custom,
    )


def _write(directory: Path, parts: _Parts, title: str, dtype: torch.dtype | None, shard_bytes: int) -> None:
    setattr(parts.blank.model.config, EXTRAS, chat_fields(parts.settings))
    generation = generation_config(parts.tokenizer)
    write_weights(parts.blank, directory, generation, dtype=dtype, max_shard_bytes=shard_bytes)
    write_processor(directory, parts.tokenizer, parts.settings, parts.blank.model.config.image_seq_length)
    (directory / "README.md").write_text(
        parts.card(title, "custom" if parts.custom else "transformers"), encoding="utf-8"
    )


def _to_opengvlab(stock: Path, directory: Path, parts: _Parts, title: str, shard_bytes: int) -> None:
    parts.notes.extend(convert(stock, directory, to="opengvlab", max_shard_bytes=shard_bytes))
    write_preprocessing(parts.settings, directory)
    (directory / "README.md").write_text(parts.card(title, "opengvlab"), encoding="utf-8")


def _model_directory(source: Path) -> Path:
    if (source / "model").is_dir():
        return source / "model"
    if (source / "recipe.yaml").is_file() and not (source / "config.json").is_file():
        raise ExportError(
            f"{source}: got a run without `model/`, which is written at its end, expected a finished one; start it "
            "again with its recipe, it goes on from its newest checkpoint; or take the model of a checkpoint, with "
            f"python -m trainer.checkpoint_model {source} latest"
        )
    return source


def _beside(model_dir: Path, name: str) -> Path | None:
    """A file of the run that made a model."""
    file = model_dir.parent / name
    return file if model_dir.name == "model" and file.is_file() else None


def _check_architecture(model_dir: Path, allow_custom: bool, to: str) -> bool:
    """Whether the model has a projector of this project's own."""
    names = model_architectures(model_dir)
    if names == [InternVLVisionModel.__name__]:
        raise ExportError(
            f"{model_dir}: got a vision tower alone, as a distill run leaves it, expected a whole model; run the "
            "stages align and finetune on it and export their run"
        )
    custom = names == [LinearProjectorVLM.__name__]
    if custom and to == "opengvlab":
        raise ExportError(
            f"{model_dir}: got the `linear` projector, expected `mlp`: OpenGVLab's has two linear layers, and one "
            "layer cannot be written as two with a GELU between; leave --to out, or train with model.projector=mlp"
        )
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


def _tokenizer(model_dir: Path) -> PreTrainedTokenizerFast:
    try:
        return load_tokenizer(model_dir)
    except TokenizerError as error:
        raise ExportError(
            f"{error}; the tokenizer belongs beside the weights: copy there the directory that the recipe named as "
            "model.tokenizer"
        ) from error


def _check_fit(
    model_dir: Path,
    model: InternVLForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    settings: Preprocessing,
) -> None:
    image_token = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    rows = model.lm_head.out_features
    if image_token != model.config.image_token_id or len(tokenizer) != rows:
        raise ExportError(
            f"{model_dir}: got a tokenizer of {len(tokenizer)} tokens with {IMAGE_TOKEN} = {image_token}, expected "
            f"{rows}, as many as the embedding has rows, with {IMAGE_TOKEN} = {model.config.image_token_id}; the "
            "tokenizer beside the weights is of another model"
        )
    if settings.view.tile_size != tile_side(model):
        raise ExportError(
            f"{model_dir}: field 'tile_size' of the view: got {settings.view.tile_size}, expected "
            f"{tile_side(model)} as in config.json; name the recipe the model was trained with (--recipe)"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0; with a message 2 where the run cannot be exported, 1 where writing fails or a signal stops it."""
    parser = argparse.ArgumentParser(prog="python -m trainer.export", description=__doc__)
    parser.add_argument("run_dir", type=Path, help="run directory of the stage align or finetune")
    parser.add_argument("out_dir", type=Path, help="directory to write; must not exist")
    parser.add_argument("--allow-custom", action="store_true", help="also export the `linear` projector")
    parser.add_argument("--recipe", type=Path, help="take view, template and system message from this recipe")
    parser.add_argument(
        "--max-shard-size", default=MAX_SHARD_SIZE, help="largest file of weights, such as 500MB (default: %(default)s)"
    )
    parser.add_argument(
        "--to", choices=["transformers", "opengvlab"], default="transformers", help="layout (default: %(default)s)"
    )
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help="as saved where not given")
    args = parser.parse_args(arguments)
    former = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        notes = export(
            args.run_dir,
            args.out_dir,
            allow_custom=args.allow_custom,
            recipe=args.recipe,
            dtype=args.dtype,
            max_shard_size=args.max_shard_size,
            to=args.to,
        )
    except ValueError as error:
        print(f"export: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"export failed, nothing was written: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("export stopped, nothing was written", file=sys.stderr)
        return 1
    finally:
        signal.signal(signal.SIGTERM, former)
    for note in notes:
        print(f"note: {note}")
    print(f"{args.out_dir}: written; its README.md says how to load it")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
