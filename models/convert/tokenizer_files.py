"""A checkpoint's directory in, what its tokenizer files say about token ids out; no code of the checkpoint is run."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import sentencepiece

from models.convert.errors import ConvertError
from models.safetensors_format import parse_json

C = TypeVar("C", list[Any], dict[str, Any])

IMAGE_TOKEN = "<IMG_CONTEXT>"
SENTENCEPIECE = "tokenizer.model"
COPIED = (
    SENTENCEPIECE,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
)
"""Files beside the weights that are copied as they are."""


def token_ids(directory: Path) -> dict[str, int]:
    """Ids of the tokens that the directory's tokenizer files name; empty without tokenizer files.

    Of a sentencepiece model only the last piece is named: the others lie below it.

    Raises:
        ConvertError: a file that does not parse, or two files that give a token different ids.
    """
    ids: dict[str, int] = {}
    for file, token, number in _tokens(directory):
        if not isinstance(token, str) or type(number) is not int or number < 0:
            raise ConvertError(
                f"{file}: got token {token!r} with id {number!r}, expected a text and a number from 0 on"
            )
        if ids.setdefault(token, number) != number:
            raise ConvertError(
                f"{file}: token {token!r}: got id {number}, expected {ids[token]} as in another tokenizer file of "
                f"{directory}; copy the files of one tokenizer"
            )
    return ids


def check_vocabulary(directory: Path, ids: dict[str, int], vocab_size: int) -> None:
    """Raise `ConvertError` unless the tokenizer, if there is one, has as many ids as the embedding has rows."""
    count = max(ids.values(), default=-1) + 1
    if not ids or count == vocab_size:
        return
    highest = max(ids, key=lambda token: ids[token])
    problem = "ids beyond the embedding" if count > vocab_size else "fewer tokens than the embedding has rows"
    raise ConvertError(
        f"{directory}: the tokenizer has {problem}: got {count} ids (the last is {highest!r}), expected {vocab_size}, "
        "the config's vocab_size; use the tokenizer files that belong to this checkpoint, added_tokens.json included, "
        "or convert without tokenizer files"
    )


def _tokens(directory: Path) -> Iterator[tuple[Path, Any, Any]]:
    file = directory / SENTENCEPIECE
    if file.is_file():
        yield file, *_last_piece(file)
    file = directory / "tokenizer.json"
    if file.is_file():
        content = parse_json(file, file.read_bytes())
        model = content.get("model")
        vocab = model.get("vocab") if isinstance(model, dict) else None
        for token, number in vocab.items() if isinstance(vocab, dict) else ():
            yield file, token, number
        for entry in _field(file, content, "added_tokens", list):
            yield file, *_named(entry, "content", "id")
    file = directory / "added_tokens.json"
    if file.is_file():
        for token, number in parse_json(file, file.read_bytes()).items():
            yield file, token, number
    file = directory / "tokenizer_config.json"
    if file.is_file():
        decoder = _field(file, parse_json(file, file.read_bytes()), "added_tokens_decoder", dict)
        for number, entry in decoder.items():
            yield file, *_named(entry, "content"), int(number) if number.isdecimal() else number


def _field(file: Path, content: Mapping[str, Any], name: str, kind: type[C]) -> C:
    """A list or an object in a file; empty where it is absent or null."""
    value = content.get(name)
    if value is not None and not isinstance(value, kind):
        raise ConvertError(f"{file}: field '{name}': got {value!r:.80}, expected a {kind.__name__}; copy it again")
    return kind() if value is None else value


def _named(entry: Any, *names: str) -> list[Any]:
    """These fields of an entry; None for each that is not there."""
    return [entry.get(name) if isinstance(entry, dict) else None for name in names]


def _last_piece(file: Path) -> tuple[str, int]:
    try:
        processor = sentencepiece.SentencePieceProcessor(model_file=str(file))
    except (RuntimeError, OSError) as error:
        raise ConvertError(f"{file}: got no sentencepiece model ({error}), expected one; copy it again") from error
    last = processor.get_piece_size() - 1
    return processor.id_to_piece(last), last
