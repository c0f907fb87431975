"""Good checkpoints of each kind and layout in, spoilt copies of them and what the converter says to them out."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

from models.convert import convert
from models.convert.cli import main
from tests.helpers.opengvlab import InternLM2, InternVisionModel, InternVLChat, randomised, write_checkpoint
from tests.helpers.opengvlab_configs import TINY_300M, TINY_LANGUAGE, chat_json

ADDED = {"<img>": 44, "</img>": 45, "<IMG_CONTEXT>": 46, "</box>": 49}


def write_checkpoints(root: Path) -> Path:
    """One good tiny checkpoint of each kind in each layout, as folders of `root`."""
    write_checkpoint(randomised(InternVisionModel(TINY_300M)), TINY_300M.json(), root / "vision")
    write_checkpoint(randomised(InternLM2(TINY_LANGUAGE)), TINY_LANGUAGE.json(), root / "language")
    tied = replace(TINY_LANGUAGE, tie_word_embeddings=True)
    write_checkpoint(randomised(InternLM2(tied)), tied.json(), root / "tied")
    chat = randomised(InternVLChat(TINY_300M, TINY_LANGUAGE))
    write_checkpoint(chat, chat_json(TINY_300M, TINY_LANGUAGE), root / "chat")
    (root / "chat" / "added_tokens.json").write_text(json.dumps(ADDED))
    for name in ("vision", "language", "chat"):
        convert(root / name, root / f"stock-{name}")
    return root


def copied(checkpoint: Path, directory: Path, **fields: object) -> Path:
    """A copy to be spoilt; fields given by keyword (`a__b` for b inside a) are changed in its config.json."""
    shutil.copytree(checkpoint, directory)
    file = directory / "config.json"
    content = json.loads(file.read_text())
    for name, value in fields.items():
        part = content
        *path, last = name.split("__")
        for step in path:
            part = part[step]
        part[last] = value
    file.write_text(json.dumps(content))
    return directory


def refusal(directory: Path, capsys, *options: str) -> str:
    """What the command line says, after checks of the status, of the form and of what is left on disk."""
    target = directory.parent / "dst"
    before = sorted(directory.parent.iterdir())
    assert main([str(directory), str(target), *options]) == 2
    assert sorted(directory.parent.iterdir()) == before
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("error: ")
    assert "Traceback" not in err
    return err
