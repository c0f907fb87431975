"""A checkpoint in one layout in, the same model in another layout out, tensor by tensor."""

import json
import shutil
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PreTrainedConfig

from models.convert.errors import ConvertError
from models.convert.plan import Plan, check_tensors, main_dtype, plan_conversion
from models.convert.source import Source, open_source
from models.convert.tokenizer_files import COPIED, SENTENCEPIECE
from models.directories import to_be_made, whole_directory
from models.sharded_safetensors import ShardedWriter

SHARD_BYTES = 1_000_000_000


def convert(
    source: Path,
    out_dir: Path,
    *,
    to: Literal["transformers", "opengvlab"] = "transformers",
    allow_pickle: bool = False,
    max_shard_bytes: int = SHARD_BYTES,
) -> list[str]:
    """Write the checkpoint `source` in another layout as the directory `out_dir`, whole or not at all.

    Names, shapes and configuration are checked before the first tensor is read. In memory is at most one
    OpenGVLab tensor with its parts; types are kept, and going back gives the same bits.

    Args:
        source: a safetensors file with config.json beside it, or a directory of one model.
        out_dir: a directory that does not exist or is empty.
        to: the layout to write. CLIP becomes a student tower in transformers layout.
        allow_pickle: read `.bin` files too, with `weights_only`.
        max_shard_bytes: size of a shard; one larger tensor makes a larger shard.

    Returns:
        Remarks: what the written model lacks or takes for granted.

    Raises:
        ConvertError: `out_dir` is in use, an architecture without rules, or configuration, tokenizer and weights that
            do not fit together.
        WeightsFileError: weights that are damaged.
    """
    out_dir = to_be_made(out_dir, ConvertError)
    opened = open_source(source, allow_pickle=allow_pickle)
    plan = plan_conversion(opened, to)
    check_tensors(opened, plan)
    with whole_directory(out_dir) as partial:
        _write_weights(opened, plan, partial, max_shard_bytes)
        _write_config(plan, main_dtype(opened.reader), partial / "config.json")
        return [*plan.remarks, *_copy_tokenizer(opened.directory, partial, to)]


def _write_weights(source: Source, plan: Plan, directory: Path, max_shard_bytes: int) -> None:
    held = {alias: name for name, alias in plan.aliases.items()}
    with ShardedWriter(directory, max_shard_bytes=max_shard_bytes) as writer:
        for step in plan.steps:
            written = step.apply([source.reader.tensor(held[name]) for name in step.sources])
            for (name, shape), tensor in zip(step.targets.items(), written, strict=True):
                assert tuple(tensor.shape) == shape, name
                writer.add(name, tensor)


def _write_config(plan: Plan, dtype: torch.dtype, file: Path) -> None:
    config = plan.config
    values: dict[str, Any]
    if isinstance(config, PreTrainedConfig):
        config.architectures = [plan.architecture]
        for part in (config, *(getattr(config, name) for name in config.sub_configs)):
            part.dtype = dtype
        values = json.loads(config.to_json_string())
    else:
        name = str(dtype).removeprefix("torch.")
        values = {**config, "torch_dtype": name}
        for part in {"vision_config", "llm_config"} & config.keys():
            values[part] = {**config[part], "torch_dtype": name}
    file.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")


def _copy_tokenizer(directory: Path, out_dir: Path, to: str) -> list[str]:
    copied = [name for name in COPIED if (directory / name).is_file()]
    for name in copied:
        shutil.copyfile(directory / name, out_dir / name)
    remarks = [f"copied as they are: {', '.join(copied)}"] if copied else []
    if to == "transformers" and SENTENCEPIECE in copied and "tokenizer.json" not in copied:
        remarks.append(
            f"{SENTENCEPIECE} is a sentencepiece model, which stock AutoTokenizer can take for another kind: "
            "docs/CHECKPOINTS.md has the line that saves it as tokenizer.json"
        )
    return remarks
