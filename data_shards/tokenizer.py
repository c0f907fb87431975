"""Text lines or a sentencepiece `tokenizer.model` come in; a stock transformers fast tokenizer with the project's
special tokens comes out, token for token equal to the sentencepiece library on plain text."""

import io
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import sentencepiece
from google.protobuf.message import DecodeError
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Tokenizer, decoders, normalizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from data_shards.atomic import write_atomically
from data_shards.chat import IMAGE_END, IMAGE_START, IMAGE_TOKEN, STOP, TURN_START, internlm2_chat

BOS, EOS, UNKNOWN = "<s>", "</s>", "<unk>"
APPENDED_SPECIALS = (TURN_START, STOP, IMAGE_START, IMAGE_END, IMAGE_TOKEN)
"""Special tokens that follow the sentencepiece vocabulary, in this order, unless it already holds them."""

INTERNLM2_PIECES = 92544
"""Size of InternLM2's sentencepiece vocabulary."""

INTERNLM2_RENAMED = ("<|plugin|>", "<|interpreter|>", "<|action_end|>", "<|action_start|>", STOP, TURN_START)
"""InternLM2's chat tokens: they take the place of the last six pieces, ids 92538 to 92543 of its 92544."""

INTERNVL_APPENDED = (IMAGE_START, IMAGE_END, IMAGE_TOKEN, "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>")
"""What InternVL adds behind InternLM2's vocabulary, ids 92544 to 92552."""

_RESERVED_PIECE = re.compile(r"\[UNUSED_TOKEN_\d+\]")

PROTO: Any = sentencepiece_model_pb2
"""The sentencepiece file format; its classes are made when it is imported, where type checkers do not see them."""

SPACE = "\u2581"
"""Sentencepiece writes a space as this character."""


class TokenizerError(ValueError):
    """A tokenizer that cannot be trained or converted; the message names file, field, got, expected and fix."""


def train_sentencepiece(lines: Iterable[str], out: Path, *, vocab_size: int, user_symbols: Sequence[str] = ()) -> Path:
    """Train a BPE sentencepiece model and write it as `out`.

    Identity normalisation, digits split, byte fallback (so that any text, newlines included, survives), one thread: the
    same lines give the same bytes.

    Args:
        lines: training texts; a newline inside one ends a training sentence.
        out: path of the `tokenizer.model` to write.
        vocab_size: pieces in all: 3 control pieces, 256 bytes, the characters seen, `user_symbols`, and merges.
        user_symbols: pieces that are always one token; no whitespace in them.

    Raises:
        TokenizerError: no text, a user symbol with whitespace, or a `vocab_size` the text cannot fill.
    """
    sentences = [part for line in lines for part in line.split("\n") if part.strip()]
    if not sentences:
        raise TokenizerError(f"{out}: got no text to train on, expected at least one line with a letter in it")
    _check_user_symbols(user_symbols, out)
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            user_defined_symbols=list(user_symbols),
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            split_digits=True,
            byte_fallback=True,
            character_coverage=1.0,
            max_sentence_length=1 << 20,
            num_threads=1,
            unk_id=0,
            bos_id=1,
            eos_id=2,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise TokenizerError(
            f"{out}: field 'vocab_size': got {vocab_size}, which does not fit the text ({error}); choose another size"
        ) from error
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, model.getvalue())
    return out


def load_tokenizer(directory: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a model directory: its `tokenizer.json`, or else its `tokenizer.model`, converted.

    Raises:
        TokenizerError: neither is there, or one that cannot be used.
    """
    if (directory / "tokenizer.json").is_file():
        try:
            return PreTrainedTokenizerFast.from_pretrained(directory, local_files_only=True)
        except (OSError, ValueError) as error:
            raise TokenizerError(f"{directory / 'tokenizer.json'}: does not load ({error}); copy it again") from error
    if (directory / "tokenizer.model").is_file():
        return tokenizer_from_sentencepiece(directory / "tokenizer.model")
    raise TokenizerError(
        f"{directory}: got no tokenizer.json and no tokenizer.model, expected one of them, as a saved tokenizer has"
    )


def tokenizer_from_sentencepiece(model: Path) -> PreTrainedTokenizerFast:
    """Convert a sentencepiece BPE model to a stock transformers fast tokenizer.

    Ids of the pieces are kept. Of InternLM2, known by its 92544 pieces or by its reserved last six
    (`[UNUSED_TOKEN_141]` to `[UNUSED_TOKEN_146]`), these six become `INTERNLM2_RENAMED` and `INTERNVL_APPENDED` follow,
    as in the checkpoints of InternVL2; behind any other model's pieces come `APPENDED_SPECIALS`. Padding is `</s>`;
    nothing is added to a text (the chat template writes `<s>`). The attributes that transformers' processors for
    InternVL read are set.

    Raises:
        TokenizerError: the file is missing or no sentencepiece model, not BPE, without byte fallback, or rewrites text;
            an `added_tokens.json` beside it gives its tokens other ids.
    """
    spec = _read_model(model)
    renamed = _reserve_chat_tokens(spec)
    specials = (*renamed, *(INTERNVL_APPENDED if renamed else APPENDED_SPECIALS))
    vocab = {piece.piece: i for i, piece in enumerate(spec.pieces)}
    core = Tokenizer(
        BPE(vocab=vocab, merges=_merges(spec, vocab), unk_token=UNKNOWN, byte_fallback=True, fuse_unk=True)
    )
    # A dummy prefix is written before each stretch of text between special tokens, as transformers' own conversions do.
    dummy = spec.normalizer_spec.add_dummy_prefix
    spaces = normalizers.Replace(" ", SPACE)
    core.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), spaces]) if dummy else spaces
    restore = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    core.decoder = decoders.Sequence([*restore, decoders.Strip(" ", 1, 0)] if dummy else restore)
    user_defined = PROTO.ModelProto.SentencePiece.USER_DEFINED
    symbols = [piece.piece for piece in spec.pieces if piece.type == user_defined and len(piece.piece) > 1]
    # One with spaces is looked for where spaces are written as the pieces have them.
    core.add_tokens([AddedToken(symbol, normalized=SPACE in symbol) for symbol in symbols])
    core.add_special_tokens([AddedToken(t, normalized=False) for t in (UNKNOWN, BOS, EOS, *specials)])
    _check_added_tokens(core, model)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNKNOWN,
        pad_token=EOS,
        extra_special_tokens={
            "start_image_token": IMAGE_START,
            "end_image_token": IMAGE_END,
            "context_image_token": IMAGE_TOKEN,
            "video_token": UNKNOWN,
            "turn_start_token": TURN_START,
            "stop_token": STOP,
        },
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = internlm2_chat().jinja()
    return tokenizer


def _check_user_symbols(user_symbols: Sequence[str], out: Path) -> None:
    for symbol in user_symbols:
        if not symbol or any(c.isspace() or c == SPACE for c in symbol):
            raise TokenizerError(f"{out}: field 'user_symbols': got {symbol!r}, expected a piece without whitespace")


def _read_model(model: Path) -> Any:
    spec = PROTO.ModelProto()
    try:
        spec.ParseFromString(model.read_bytes())
    except FileNotFoundError:
        raise TokenizerError(f"{model}: no such file, expected a sentencepiece tokenizer.model") from None
    except DecodeError as error:
        raise TokenizerError(f"{model}: does not parse ({error}), expected a sentencepiece model") from error
    train, norm = spec.trainer_spec, spec.normalizer_spec
    expected = (
        ("model_type", train.model_type == PROTO.TrainerSpec.BPE, "BPE"),
        ("byte_fallback", train.byte_fallback, "true"),
        ("normalizer", not norm.precompiled_charsmap, "identity, which leaves the text as it is"),
        ("remove_extra_whitespaces", not norm.remove_extra_whitespaces, "false"),
        ("escape_whitespaces", norm.escape_whitespaces, "true"),
        ("pieces", [p.piece for p in spec.pieces[:3]] == [UNKNOWN, BOS, EOS], f"{UNKNOWN} {BOS} {EOS} first"),
    )
    wrong = [f"field {name!r}: expected {what}" for name, good, what in expected if not good]
    if wrong:
        raise TokenizerError(f"{model}: {'; '.join(wrong)}; another kind of model would not give the same tokens")
    return spec


def _reserve_chat_tokens(spec: Any) -> tuple[str, ...]:
    """Rename InternLM2's last pieces to its chat tokens, in place; none where the model is another."""
    last = list(zip(spec.pieces[-len(INTERNLM2_RENAMED) :], INTERNLM2_RENAMED, strict=True))
    reserved = all(_RESERVED_PIECE.fullmatch(piece.piece) or piece.piece == token for piece, token in last)
    if not reserved and len(spec.pieces) != INTERNLM2_PIECES:
        return ()
    for piece, token in last:
        piece.piece, piece.type = token, PROTO.ModelProto.SentencePiece.CONTROL
    return INTERNLM2_RENAMED


def _check_added_tokens(core: Tokenizer, model: Path) -> None:
    file = model.with_name("added_tokens.json")
    if not file.is_file():
        return
    try:
        expected = {str(token): int(number) for token, number in json.loads(file.read_bytes()).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise TokenizerError(f"{file}: does not parse ({error}), expected token names and their ids") from error
    wrong = [
        f"{token!r}: got {core.token_to_id(token)}, expected {number}"
        for token, number in expected.items()
        if core.token_to_id(token) != number
    ]
    if wrong:
        raise TokenizerError(
            f"{file}: other ids than the tokens of {model.name} have: {'; '.join(wrong)}; only InternLM2's tokenizer "
            "with InternVL's nine tokens is known: is the file of another checkpoint?"
        )


def _merges(spec: Any, vocab: dict[str, int]) -> list[tuple[str, str]]:
    """Pairs that make a learnt piece, best piece first: sentencepiece merges whatever gives the best-scored piece."""
    learnt = [p for p in spec.pieces if p.type == PROTO.ModelProto.SentencePiece.NORMAL]
    names = {p.piece for p in learnt}
    merges = []
    for piece in sorted(learnt, key=lambda p: (-p.score, vocab[p.piece])):
        text = piece.piece
        merges += [(text[:i], text[i:]) for i in range(1, len(text)) if text[:i] in names and text[i:] in names]
    return merges
