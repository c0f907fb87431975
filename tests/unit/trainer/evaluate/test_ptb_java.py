"""The Java tokenizer: refused with what is missing, or wired to the package where it is there."""

import importlib.util
import shutil
import sys
import types

import pytest

from trainer.evaluate.ptb_java import TokenizerError, check_installed, tokenize_with_java
from trainer.evaluate.ptb_tokenizer import tokenize_lines

has_java = shutil.which("java") is not None and importlib.util.find_spec("pycocoevalcap") is not None


@pytest.fixture
def pretended(monkeypatch):
    """A package of the same form whose tokenizer makes words lower-case."""

    class PTBTokenizer:
        def tokenize(self, captions):
            return {
                place: [row["caption"].lower().encode().decode() for row in rows] for place, rows in captions.items()
            }

    for name in ("pycocoevalcap", "pycocoevalcap.tokenizer", "pycocoevalcap.tokenizer.ptbtokenizer"):
        module = types.ModuleType(name)
        module.__spec__ = importlib.util.spec_from_loader(name, None)
        monkeypatch.setitem(sys.modules, name, module)
    sys.modules["pycocoevalcap.tokenizer.ptbtokenizer"].PTBTokenizer = PTBTokenizer
    monkeypatch.setattr(shutil, "which", lambda program: f"/bin/{program}")


@pytest.mark.parametrize("missing", ["java", "pycocoevalcap"])
def test_what_is_missing_is_named_with_the_way_without(missing, pretended, monkeypatch):
    if missing == "java":
        monkeypatch.setattr(shutil, "which", lambda program: None)
    else:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TokenizerError, match=f"no .*{missing}.*--tokenizer own"):
        check_installed()


def test_line_breaks_are_spaces_before_the_package_sees_them(pretended):
    assert tokenize_with_java(["A\rB", "C"]) == ["a b", "c"]
    assert tokenize_with_java([]) == []


def test_what_is_no_text_in_any_encoding_does_not_end_the_run(pretended):
    assert tokenize_with_java(["A\ud83dB", "C"]) == ["a\ufffdb", "c"]


@pytest.mark.skipif(not has_java, reason="Java or pycocoevalcap is not installed")
def test_java_gives_the_tokens_of_our_own():
    texts = ["A car <c1,CAM_FRONT,1.0,2.0>.", "Don't stop.", "", "Keep going, at 12 m/s."]
    assert tokenize_with_java(texts) == tokenize_lines(texts)
