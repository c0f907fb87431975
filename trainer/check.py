"""A list of runs (JSON on standard input) in, what is wrong with their settings out: `python -m trainer.check`.

Neither data nor models are looked at: the steps of a pipeline are checked so before the first of them has written any.
Exit status: 0 nothing is wrong, 2 each line is a problem.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.config import load_recipe
from trainer.ds_config import load_ds_config, resolve
from trainer.typed_yaml import ConfigError


def main(text: str) -> int:
    """Check a list of runs; see `problems`."""
    lines = [f"{run['name']}: {line}" for run in json.loads(text) for line in problems(run)]
    print("\n".join(lines))
    return 2 if lines else 0


def problems(run: Mapping[str, Any]) -> list[str]:
    """What is wrong with a run.

    Args:
        run: `recipe`, `ds_config` (paths), `overrides` (texts), `world_size`.
    """
    recipe_path, config_path = Path(run["recipe"]), Path(run["ds_config"])
    try:
        recipe, _ = load_recipe(recipe_path, run["overrides"])
        config = load_ds_config(config_path)
        resolve(config, recipe, world_size=run["world_size"], config_path=config_path, recipe_path=recipe_path)
    except ConfigError as error:
        return str(error).splitlines()
    return []


if __name__ == "__main__":
    sys.exit(main(sys.stdin.read()))
