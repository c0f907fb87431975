"""A model is written whole, as stock code writes it, or not at all."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from models.presets import vision_config
from models.saving import save_model
from models.vlm import build_vision
from trainer.write_model import write_model


class _Alone:
    is_main = True

    def on_main(self, act):
        return act()


def test_a_model_is_written_whole_or_not_at_all(tmp_path):
    model = build_vision(vision_config("tiny-student"), torch.Generator().manual_seed(0))
    save_model(model, tmp_path / "stock")

    def fail(directory: Path) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_model(model, _Alone(), tmp_path / "model", fail)
    assert not (tmp_path / "model").exists()
    write_model(model, _Alone(), tmp_path / "model", lambda directory: (directory / "extra").touch())
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("model", "stock"))
    assert all(torch.equal(one[name], other[name]) for name in other)
    assert {path.name for path in tmp_path.iterdir()} == {"stock", "model"}
    assert (tmp_path / "model" / "extra").exists()
