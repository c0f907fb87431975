"""Texts in, the tokens of `pycocoevalcap`'s PTB tokenizer out; needs Java and that package."""

import importlib.util
import re
import shutil
from collections.abc import Sequence

from trainer.evaluate.ptb_tokenizer import LINE_BREAK

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class TokenizerError(ValueError):
    """What `--tokenizer ptb` needs is not there; the message names it and the way without."""


def check_installed() -> None:
    """Refuse where Java or the package is missing.

    Raises:
        TokenizerError: naming what is missing.
    """
    missing = [] if shutil.which("java") else ["no program java"]
    if importlib.util.find_spec("pycocoevalcap") is None:
        missing.append("no package pycocoevalcap")
    if missing:
        raise TokenizerError(
            f"--tokenizer ptb: got {' and '.join(missing)}, expected a Java runtime and `pip install pycocoevalcap`; "
            "--tokenizer own needs neither and gives the same tokens"
        )


def tokenize_with_java(texts: Sequence[str]) -> list[str]:
    """As `ptb_tokenizer.tokenize_lines`; line breaks within a text are made spaces before, lone surrogates U+FFFD.

    Raises:
        TokenizerError: see `check_installed`.
    """
    check_installed()
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    lines = (_LONE_SURROGATE.sub("\ufffd", LINE_BREAK.sub(" ", text)) for text in texts)
    captions = {place: [{"caption": line}] for place, line in enumerate(lines)}
    tokens = PTBTokenizer().tokenize(captions) if captions else {}
    return [tokens[place][0] for place in captions]
