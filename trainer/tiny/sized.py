"""Width and layers in, a teacher tower of that size out, trained like that of models/tiny: to compare teachers with.

python -m trainer.tiny.sized --width 64 --layers 2 --steps 300 --scenes 200 --out runs/teacher-small
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from transformers import InternVLVisionConfig

from models.presets import vision_config
from models.saving import save_model
from trainer.tiny.vision import render_named_tiles, train_teacher

HEAD_WIDTH = 32


def main(arguments: Sequence[str] | None = None) -> int:
    """Train one tower, where it is not there yet."""
    options = _parser().parse_args(arguments)
    try:
        config = sized_config(options.width, options.layers)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if (options.out / "config.json").is_file():
        print(f"{options.out}: already there")
        return 0
    make_sized_teacher(config, options.out, steps=options.steps, num_scenes=options.scenes, seed=options.seed)
    return 0


def sized_config(width: int, layers: int) -> InternVLVisionConfig:
    """The tiny teacher's configuration in another size.

    Raises:
        ValueError: a width that heads of 32 do not divide, or no layers.
    """
    if width < HEAD_WIDTH or width % HEAD_WIDTH:
        raise ValueError(f"--width: got {width}, expected a multiple of {HEAD_WIDTH}, the width of a head")
    if layers < 1:
        raise ValueError(f"--layers: got {layers}, expected 1 or more")
    config = vision_config("tiny-teacher")
    config.hidden_size, config.intermediate_size = width, 4 * width
    config.num_hidden_layers, config.num_attention_heads = layers, width // HEAD_WIDTH
    return config


def make_sized_teacher(config: InternVLVisionConfig, out: Path, *, steps: int, num_scenes: int, seed: int) -> None:
    """Render scenes and half as many general pictures, train a tower to name what they show, and save it."""
    tiles = render_named_tiles(seed, num_scenes=num_scenes, num_pictures=num_scenes // 2, image_width=400)
    tower = train_teacher(tiles, steps=steps, batch=32, seed=seed, report=_report, config=config)
    save_model(tower, out)


def _report(step: int, loss: float, right: float) -> None:
    print(f"teacher: step {step}, loss {loss:.3f}, right {right:.3f}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trainer.tiny.sized", description=__doc__)
    parser.add_argument("--width", type=int, required=True, help=f"of the tower, a multiple of {HEAD_WIDTH}")
    parser.add_argument("--layers", type=int, required=True, help="of the tower")
    parser.add_argument("--steps", type=int, default=300, help="of training, 32 tiles each (default: %(default)s)")
    parser.add_argument("--scenes", type=int, default=200, help="drawn for training (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=7, help="of the scenes and the weights (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="directory of the tower")
    return parser


if __name__ == "__main__":
    sys.exit(main())
