"""How a model was shown its frames: read from a model directory or its run's recipe, and written beside the weights."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from data_shards.chat import TEMPLATES, ChatTemplate
from data_shards.coords import DRIVELM, CoordinateFormat
from data_shards.view_layout import LayoutError, ViewLayout
from trainer.config import Recipe, load_recipe

PREPROCESSING_FILE = "preprocessing.json"


class PreprocessingError(ValueError):
    """Preprocessing settings that are missing or malformed; the message names file and fix."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """What must be the same in training and in use.

    Attributes:
        view: how images become tiles.
        template: name of the chat template, of `data_shards.chat.TEMPLATES`.
        system: system message; empty for none.
        coordinates: how the points of questions and answers are written.
    """

    view: ViewLayout
    template: str = "internlm2-chat"
    system: str = ""
    coordinates: CoordinateFormat = DRIVELM

    def chat(self) -> ChatTemplate:
        """The chat template with its system message."""
        return TEMPLATES[self.template](system=self.system, coordinates=self.coordinates)


def read_preprocessing(model_dir: Path, recipe: Path | None = None) -> Preprocessing:
    """Settings of a model: of `recipe` where given, else the model's own file, else the recipe of the run that made it.

    Args:
        model_dir: an export, or `RUN_DIR/model`.

    Raises:
        PreprocessingError: none of them is there, or the file is malformed.
        ConfigError: the recipe is malformed.
    """
    own, made_by = model_dir / PREPROCESSING_FILE, model_dir.parent / "recipe.yaml"
    if recipe is None and own.is_file():
        return _read(own)
    if recipe is None and made_by.is_file():
        recipe = made_by
    if recipe is None:
        raise PreprocessingError(
            f"{model_dir}: got neither {PREPROCESSING_FILE} nor {made_by}, expected the settings the model was trained "
            "with; name the recipe it was trained with (--recipe)"
        )
    return recipe_preprocessing(load_recipe(recipe)[0])


def recipe_preprocessing(recipe: Recipe) -> Preprocessing:
    """The settings that a recipe trains with."""
    data = recipe.data
    return Preprocessing(view=data.view, template=data.template, system=data.system, coordinates=data.coordinates)


def chat_template(recipe: Recipe) -> ChatTemplate:
    """The chat template that a recipe trains with."""
    return recipe_preprocessing(recipe).chat()


def write_preprocessing(settings: Preprocessing, model_dir: Path) -> None:
    """Write the settings beside the weights."""
    (model_dir / PREPROCESSING_FILE).write_text(json.dumps(asdict(settings), indent=2) + "\n")


def _read(path: Path) -> Preprocessing:
    try:
        record = json.loads(path.read_text())
        nested = {
            "view": ViewLayout(**record["view"]),
            "coordinates": CoordinateFormat(**record.get("coordinates", {})),  # older files have none
        }
        settings = Preprocessing(**(record | nested))
    except (ValueError, TypeError, KeyError, LayoutError) as error:
        raise PreprocessingError(
            f"{path}: got settings that do not parse ({error}), expected the file that the export wrote; export again"
        ) from error
    if settings.template not in tuple(TEMPLATES):  # JSON may hold what no mapping can look up
        raise PreprocessingError(
            f"{path}: field 'template': got {settings.template!r}, expected {' or '.join(TEMPLATES)}; export again"
        )
    return settings
