"""Names of presets and model directories in, blanks and tokenizers out; a missing one says which command makes it."""

from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import (
    InternVLForConditionalGeneration,
    InternVLVisionModel,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from data_shards.chat import IMAGE_TOKEN
from data_shards.coords import CoordinateFormat
from data_shards.tokenizer import APPENDED_SPECIALS, TokenizerError, load_tokenizer
from models.blanks import drawn_language, drawn_vision, drawn_vlm, stored_language, stored_vision, stored_vlm
from models.loading import Blank
from models.presets import TEXT_PRESETS, VISION_PRESETS, VLM_PRESETS, text_config, vision_config, vlm_preset
from trainer.config import ConfigError
from trainer.preprocessing import PREPROCESSING_FILE, PreprocessingError, read_preprocessing

FORMER_STAGE: Mapping[str, str] = {"model.vision": "distill", "model.vlm": "align"}


class StageError(ValueError):
    """A stage that cannot start; the message names recipe field, got, and the command that helps."""


def points_note(field: str, model: str, coordinates: CoordinateFormat) -> tuple[str, ...]:
    """What to announce where a model learnt points in another form than this run writes them in; empty otherwise.

    Args:
        field: recipe field that names the model.
        model: its directory, or a preset.
        coordinates: of this run.
    """
    directory = Path(model)
    if not directory.is_dir():
        return ()
    if not (directory / PREPROCESSING_FILE).is_file() and not (directory.parent / "recipe.yaml").is_file():
        return ()
    try:
        own = read_preprocessing(directory).coordinates
    except (PreprocessingError, ConfigError) as error:
        return (f"data.coordinates: in which form {field} {model} learnt points cannot be told: {error}",)
    if own == coordinates:
        return ()
    return (
        f"data.coordinates: {field} {model} learnt points as {_written(own)}, this run writes {_written(coordinates)}; "
        "give its own where it is frozen or shall not learn them anew",
    )


def _written(coordinates: CoordinateFormat) -> str:
    return f"{{space: {coordinates.space}, decimals: {coordinates.decimals}}}"


def vision_from(field: str, name: str, generator: torch.Generator) -> Blank[InternVLVisionModel]:
    """A tower from a directory, or fresh from a preset.

    Args:
        field: recipe field, for messages.
        name: directory or preset.
        generator: of fresh weights.

    Raises:
        StageError: neither a preset nor a directory with a model.
    """
    if name in VISION_PRESETS:
        return drawn_vision(vision_config(name), generator)
    return stored_vision(model_directory(field, name, VISION_PRESETS))


def language_from(field: str, name: str, vocab_size: int, generator: torch.Generator) -> Blank[LlamaForCausalLM]:
    """A language model from a directory, or fresh from a preset.

    Args:
        vocab_size: of the tokenizer; a preset with a larger vocabulary of its own keeps that.

    Raises:
        StageError: as `vision_from`.
    """
    if name in TEXT_PRESETS:
        return drawn_language(text_config(name, vocab_size=_vocabulary(name, vocab_size)), generator)
    return stored_language(model_directory(field, name, TEXT_PRESETS))


def vlm_from(
    field: str, name: str, tokenizer: PreTrainedTokenizerFast, generator: torch.Generator, projector: str
) -> Blank[InternVLForConditionalGeneration]:
    """A whole model from a directory, or fresh from a preset, as `language_from`.

    Raises:
        StageError: as `vision_from`.
    """
    if name not in VLM_PRESETS:
        return stored_vlm(model_directory(field, name, VLM_PRESETS))
    vocab_size = _vocabulary(VLM_PRESETS[name][1], len(tokenizer))
    image_token = int(tokenizer.get_vocab()[IMAGE_TOKEN])
    return drawn_vlm(
        vlm_preset(name, vocab_size=vocab_size, image_token_id=image_token), generator, projector=projector
    )


def _vocabulary(preset: str, tokens: int) -> int:
    return max(int(TEXT_PRESETS[preset].get("vocab_size", 0)), tokens)


def tokenizer_from(field: str, name: str) -> PreTrainedTokenizerFast:
    """A fast tokenizer from a directory.

    Raises:
        StageError: no tokenizer there, or one without the tokens that prompts are written with.
    """
    try:
        tokenizer = load_tokenizer(Path(name))
    except TokenizerError as error:
        raise StageError(f"{field}: {error}") from error
    absent = [token for token in APPENDED_SPECIALS if token not in tokenizer.get_vocab()]
    if absent:
        raise StageError(
            f"{field}: got {name}, whose tokenizer lacks {', '.join(absent)}, expected one with InternVL's tokens; "
            "copy the tokenizer files that belong to the checkpoint, added_tokens.json included"
        )
    return tokenizer


def model_directory(field: str, name: str, presets: Mapping[str, object] | None = None) -> Path:
    """The directory of a saved model.

    Raises:
        StageError: it holds no model; says which stage makes it, and how to start that.
    """
    path = Path(name)
    if (path / "config.json").is_file():
        return path
    known = f" nor one of the presets {', '.join(presets)}" if presets else ""
    message = f"{field}: got {name}, which is no directory with a saved model (no config.json){known}"
    former = FORMER_STAGE.get(field)
    if former is None:
        raise StageError(f"{message}; give the directory that holds config.json and the weights")
    run_dir = path.parent if path.name == "model" else path
    command = (
        f"deepspeed --num_gpus N trainer/run.py --ds_config DS_CONFIG.json --recipe A_{former.upper()}_RECIPE.yaml "
        f"run_dir={run_dir}"
    )
    if (run_dir / "recipe.yaml").is_file():
        message += f"; the {former} run in {run_dir} did not reach its end: start it again, it continues"
    raise StageError(f"{message}; stage {former!r} writes it to RUN_DIR/model: {command}")
