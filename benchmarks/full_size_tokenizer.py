"""A vocabulary size in; a tokenizer of InternLM2's make with InternVL's nine tokens out, for made-up checkpoints."""

import json
from pathlib import Path

from data_shards.tokenizer import INTERNVL_APPENDED, PROTO, train_sentencepiece

_LINES = ("What are the important objects in the current scene? There is a red bus to the front of the ego vehicle.",)
_TRAINED = 300
_RESERVED = tuple(f"[UNUSED_TOKEN_{number}]" for number in range(141, 147))


def write_tokenizer(directory: Path, vocab_size: int) -> None:
    """Write `tokenizer.model`, filled up with pieces that no text has, and `added_tokens.json`."""
    file = train_sentencepiece(_LINES, directory / "tokenizer.model", vocab_size=_TRAINED)
    spec = PROTO.ModelProto()
    spec.ParseFromString(file.read_bytes())
    first_added = vocab_size - len(INTERNVL_APPENDED)
    missing = first_added - len(_RESERVED) - len(spec.pieces)
    fillers = (f"{chr(0x4E00 + number // 1000)}{chr(0xAC00 + number % 1000)}" for number in range(missing))
    for text in (*fillers, *_RESERVED):
        spec.pieces.add(piece=text, score=-1e6)
    file.write_bytes(spec.SerializeToString())
    added = {token: first_added + number for number, token in enumerate(INTERNVL_APPENDED)}
    (directory / "added_tokens.json").write_text(json.dumps(added, indent=2))
