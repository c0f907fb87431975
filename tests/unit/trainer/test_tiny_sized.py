"""Teachers of other sizes: what they are made of, and that a size which makes no tower is refused."""

import pytest
import torch

from models.vlm import load_vision
from trainer.tiny.sized import main, sized_config


def test_a_teacher_of_the_asked_size_is_made_once_and_the_seed_decides_its_weights(tmp_path, capsys):
    size = ["--width", "64", "--layers", "2", "--steps", "1", "--scenes", "2"]
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert main([*size, "--seed", seed, "--out", str(tmp_path / name)]) == 0
    towers = [load_vision(tmp_path / name) for name in "abc"]
    assert (towers[0].config.hidden_size, towers[0].config.num_hidden_layers) == (64, 2)
    first, same, other = (torch.cat([p.flatten() for p in tower.parameters()]) for tower in towers)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    capsys.readouterr()
    assert main([*size, "--out", str(tmp_path / "a")]) == 0
    assert "already there" in capsys.readouterr().out


@pytest.mark.parametrize(("width", "layers", "said"), [(48, 2, "--width: got 48"), (64, 0, "--layers: got 0")])
def test_sizes_that_make_no_tower_are_refused(width, layers, said, capsys, tmp_path):
    with pytest.raises(ValueError, match=said):
        sized_config(width, layers)
    assert main(["--width", str(width), "--layers", str(layers), "--out", str(tmp_path / "x")]) == 2
    assert said in capsys.readouterr().err
