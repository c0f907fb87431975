"""Tokenizer files beside the weights: which the converter takes, and which it refuses by name with status 2."""

import json

import pytest
import sentencepiece

from models.convert import ConvertError, convert
from tests.helpers.checkpoints import ADDED, copied, refusal, write_checkpoints


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    return write_checkpoints(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture
def source(checkpoints, tmp_path):
    """Makes a copy of one of the checkpoints, to be spoilt."""
    return lambda kind, **fields: copied(checkpoints / kind, tmp_path / "src", **fields)


@pytest.mark.parametrize(
    ("kind", "file", "content", "said"),
    [
        ("language", "added_tokens.json", {"<x>": 50}, "ids beyond the embedding: got 51 ids (the last is '<x>')"),
        ("language", "added_tokens.json", {"<x>": 48}, "fewer tokens than the embedding has rows: got 49 ids"),
        ("chat", "added_tokens.json", ADDED | {"<x>": 50}, "got 51 ids (the last is '<x>'), expected 50"),
        ("stock-language", "added_tokens.json", {"<x>": 60}, "got 61 ids"),
        ("stock-chat", "tokenizer.json", {"model": {"vocab": {"a": 77}}, "added_tokens": []}, "got 78 ids"),
        ("stock-chat", "tokenizer_config.json", {"added_tokens_decoder": {"50": {"content": "<y>"}}}, "got 51 ids"),
        ("chat", "tokenizer.json", {"added_tokens": [{"id": 3, "content": "<IMG_CONTEXT>"}]}, "got id 46, expected 3"),
        ("chat", "added_tokens.json", {"</box>": 49}, "got no id of <IMG_CONTEXT>"),
        ("chat", "added_tokens.json", {"</box>": "49"}, "got token '</box>' with id '49'"),
        ("chat", "added_tokens.json", {"<IMG_CONTEXT>": -3, "</box>": 49}, "got token '<IMG_CONTEXT>' with id -3"),
        ("chat", "added_tokens.json", "{", "added_tokens.json: got no JSON"),
        ("language", "tokenizer.json", {"added_tokens": ["x"]}, "got token None with id None, expected a text"),
        ("language", "tokenizer.json", {"added_tokens": 3}, "field 'added_tokens': got 3, expected a list"),
        (
            "language",
            "tokenizer_config.json",
            {"added_tokens_decoder": [1]},
            "'added_tokens_decoder': got [1], expected",
        ),
        ("language", "tokenizer_config.json", {"added_tokens_decoder": {"1": "a"}}, "got token None with id 1"),
        ("language", "tokenizer_config.json", {"added_tokens_decoder": {"x": {"content": "a"}}}, "'a' with id 'x'"),
    ],
)
def test_a_tokenizer_that_does_not_fit_the_embedding_is_refused(source, capsys, kind, file, content, said):
    directory = source(kind)
    (directory / file).write_text(content if isinstance(content, str) else json.dumps(content))
    to = ("--to", "opengvlab") if kind.startswith("stock") else ()
    assert said in refusal(directory, capsys, *to)


def test_a_sentencepiece_model_counts_as_tokenizer(source, capsys):
    directory = source("language")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a b c d e f g h"] * 4),
        model_prefix=str(directory / "tokenizer"),
        vocab_size=14,
        model_type="bpe",
        minloglevel=2,
    )
    (directory / "tokenizer.vocab").unlink()
    assert "fewer tokens than the embedding has rows: got 14 ids" in refusal(directory, capsys)
    (directory / "added_tokens.json").write_text(json.dumps({f"<{i}>": i for i in range(14, 50)}))
    remarks = convert(directory, directory.parent / "dst")
    assert any("sentencepiece model" in remark for remark in remarks)
    assert (directory.parent / "dst" / "tokenizer.model").read_bytes() == (directory / "tokenizer.model").read_bytes()
    (directory / "tokenizer.model").write_bytes(b"no model")
    with pytest.raises(ConvertError, match="got no sentencepiece model"):
        convert(directory, directory.parent / "other")


def test_without_tokenizer_files_the_image_token_must_be_known(source, capsys, checkpoints, tmp_path):
    directory = source("chat")
    (directory / "added_tokens.json").unlink()
    assert "got no id of <IMG_CONTEXT>, expected it in added_tokens.json" in refusal(directory, capsys)
    convert(checkpoints / "stock-chat", tmp_path / "back", to="opengvlab")
    (tmp_path / "back" / "added_tokens.json").unlink()
    convert(tmp_path / "back", tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["image_token_id"] == 46
