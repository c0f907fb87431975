"""A prediction's paths and settings in, what they name read and checked out: everything wrong is said at once."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from data_shards.asked import question_order
from data_shards.chat import IMAGE_TOKEN, STOP
from data_shards.index import DatasetIndex, load_index
from data_shards.read import read_frame
from models.loading import model_architectures
from models.safetensors_format import read_header
from trainer.evaluate.perturb import Perturbation
from trainer.evaluate.predict import PredictError
from trainer.evaluate.sampling import Sampling
from trainer.evaluate.submission import SubmissionHeader
from trainer.preprocessing import Preprocessing, read_preprocessing

_FINGERPRINT_BYTES = 1 << 16
"""Read of each tensor to tell models apart."""


@dataclass(frozen=True, kw_only=True)
class PredictJob:
    """What is answered, and how.

    Attributes:
        model, data, out: model directory, shard directory, file to write.
        recipe: where view, template and system message come from, in place of the model's own.
        max_frames: only the first frames; all where None.
        perturbation, sampling, max_new_tokens, batch_rows: see `predict.Asking`.
        permute_options: seed of another order of the options of every multiple choice; their own where None.
        header: what the rows are wrapped in for the evaluation server; plain rows where None.
        restart: drop answers kept from a killed run.
    """

    model: Path
    data: Path
    out: Path
    recipe: Path | None = None
    max_frames: int | None = None
    max_new_tokens: int = 512
    batch_rows: int = 256
    perturbation: Perturbation | None = None
    sampling: Sampling | None = None
    permute_options: int | None = None
    header: SubmissionHeader | None = None
    restart: bool = False


@dataclass(frozen=True, kw_only=True)
class PredictInputs:
    """What a job names, read.

    Attributes:
        preprocessing: how frames are shown.
        index: of the data.
        questions: position of each frame that asks something, to its questions in the order of ids.
    """

    preprocessing: Preprocessing
    index: DatasetIndex
    questions: dict[int, list[int]]


def read_inputs(job: PredictJob) -> PredictInputs:
    """Read settings, index and questions, and check that model, tokenizer and shards are there.

    Raises:
        PredictError: everything that is missing or does not fit, a line each.
        BadSample: a damaged shard.
    """
    problems: list[str] = []
    preprocessing = _attempt(problems, lambda: read_preprocessing(job.model, job.recipe))
    _attempt(problems, lambda: model_architectures(job.model))
    if (job.model / "config.json").is_file():
        problems += _model_problems(job.model)
    index = _attempt(problems, lambda: load_index(job.data))
    questions = _attempt(problems, lambda: _asked(index, job)) if index else None
    if job.out.is_dir():
        problems.append(f"--out: got {job.out}, which is a directory, expected a file to write")
    if problems or preprocessing is None or index is None or questions is None:
        raise PredictError("\n".join(problems))
    return PredictInputs(preprocessing=preprocessing, index=index, questions=questions)


def _attempt(problems: list[str], act: Callable[[], Any]) -> Any:
    """What `act` gives; None, and its message among the problems, where it refuses."""
    try:
        return act()
    except ValueError as error:
        problems.append(str(error))
        return None


def _model_problems(directory: Path) -> list[str]:
    """Missing parts of a model directory, and a tokenizer that is not the model's."""
    problems = []
    listed, tokenizer_file = directory / "model.safetensors.index.json", directory / "tokenizer.json"
    try:
        weights = sorted(set(json.loads(listed.read_text())["weight_map"].values())) if listed.is_file() else []
        image_token_id = json.loads((directory / "config.json").read_text()).get("image_token_id")
        if tokenizer_file.is_file():
            json.loads(tokenizer_file.read_text(encoding="utf-8"))["added_tokens"]
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        return [
            f"{directory}: got an index, configuration or tokenizer that does not parse ({error!r}); export the model "
            "again"
        ]
    missing = [name for name in weights or ["model.safetensors"] if not (directory / name).is_file()]
    if missing:
        problems.append(f"{directory}: got no {', '.join(missing)}, expected the model's weights; export it again")
    if not tokenizer_file.is_file():
        return [
            *problems,
            f"{tokenizer_file}: no such file, expected the model's tokenizer; export the model again, or "
            "copy it from where the model was trained",
        ]
    tokenizer = PreTrainedTokenizerFast.from_pretrained(directory, local_files_only=True)
    vocabulary = tokenizer.get_vocab()
    if STOP not in vocabulary or vocabulary.get(IMAGE_TOKEN) != image_token_id:
        problems.append(
            f"{tokenizer_file}: got {IMAGE_TOKEN} as token {vocabulary.get(IMAGE_TOKEN)} and "
            f"{STOP} as {vocabulary.get(STOP)}, expected {image_token_id} as in config.json and any number; "
            "is the tokenizer of another model?"
        )
    return problems


def _asked(index: DatasetIndex, job: PredictJob) -> dict[int, list[int]]:
    total = min(len(index), job.max_frames or len(index))
    orders = ((i, question_order(read_frame(index, i, with_images=False))) for i in range(total))
    questions = {position: order for position, order in orders if order}
    if not questions:
        raise PredictError(
            f"{job.data}: got frames without tagged or general questions, expected DriveLM's test form; write "
            "the shards with --form test or --form both"
        )
    return questions


def deciding_settings(job: PredictJob, inputs: PredictInputs) -> dict[str, Any]:
    """What decides an answer, for comparison with that of kept ones."""
    members = [[e.key, *(span.sha256 for span in e.members.values())] for e in inputs.index.samples]
    return {
        "model": _fingerprint(job.model),
        "data": hashlib.sha256(json.dumps(members).encode()).hexdigest()[:16],
        "preprocessing": asdict(inputs.preprocessing),
        "max_new_tokens": job.max_new_tokens,
        "perturbation": asdict(job.perturbation) if job.perturbation else None,
        "sampling": asdict(job.sampling) if job.sampling else None,
        "permute_options": job.permute_options,
    }


def _fingerprint(directory: Path) -> str:
    """Digest of a model's settings and of the beginning of each tensor: tells models apart without all their weights.

    Of models that differ in a few trained parts alone, files begin and end alike.
    """
    digest = hashlib.sha256()
    for path in sorted(directory.glob("*.json")):
        digest.update(f"{path.name} {path.stat().st_size}\n".encode() + path.read_bytes())
    for path in sorted(directory.glob("*.safetensors")):
        with path.open("rb") as file:
            for name, entry in read_header(path).items():
                file.seek(entry.start)
                digest.update(f"{name} {entry.size} {entry.dtype} {entry.shape}\n".encode())
                digest.update(file.read(min(entry.size, _FINGERPRINT_BYTES)))
    return digest.hexdigest()[:16]
