"""What is known of an exported model in; its model card out: use, preprocessing, recipe, data and metrics."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from data_shards.coords import DRIVELM, CoordinateFormat, model_text
from data_shards.dataset_file import DATASET_FILE, read_dataset_file
from data_shards.schema import CAMERAS
from data_shards.view_layout import ViewLayout
from trainer.config import Recipe, load_recipe, recipe_to_yaml
from trainer.preprocessing import Preprocessing
from trainer.recipe import DatasetSection

_PROCESSOR = (
    "Stock `transformers` loads it. The processor class is `QianfanOCRProcessor`, transformers' own for the prompts of "
    "InternVL with still images, which needs no torchvision. Where torchvision is installed, transformers resizes with "
    'it, and pixels differ slightly; `AutoImageProcessor.from_pretrained(".", backend="pil")` gives those of Pillow.'
)
_CUSTOM = (
    "Stock `transformers` does not know its `linear` projector: load it with `models.vlm.load_vlm` of the project that "
    "trained it."
)
_OPENGVLAB = (
    "Weights and configuration are in the layout of OpenGVLab's checkpoints, for programs made for those, which bring "
    "their own model code. `python -m models.convert` turns them into transformers' layout."
)
_ELSEWHERE: Mapping[str, str] = MappingProxyType({"opengvlab": _OPENGVLAB, "custom": _CUSTOM})

Layout = Literal["transformers", "opengvlab", "custom"]


@dataclass(frozen=True, kw_only=True)
class ExportFacts:
    """What a model card tells.

    Attributes:
        title: name of the model.
        num_parameters: of the whole model.
        dtype: of the weights.
        settings: how it was shown its frames.
        remarks: where stock preprocessing differs from that.
        recipe: the recipe it was trained with, if it is at hand.
        summary: the run's summary.json, if it is at hand.
        layout: `transformers`; `opengvlab`; or `custom`, which is transformers' with the `linear` projector.
    """

    title: str
    num_parameters: int
    dtype: str
    settings: Preprocessing
    remarks: Sequence[str]
    recipe: Path | None = None
    summary: Path | None = None
    layout: Layout = "transformers"


def model_card(facts: ExportFacts) -> str:
    """Text of README.md.

    Raises:
        ConfigError: the recipe is malformed.
        ShardError: a dataset.json that the recipe names is malformed.
        ValueError: the summary is malformed.
    """
    recipe = load_recipe(facts.recipe)[0] if facts.recipe else None
    parts = [
        "---\nlibrary_name: transformers\npipeline_tag: image-text-to-text\n---",
        f"# {facts.title}",
        f"InternVL architecture, {facts.num_parameters:,} parameters, {facts.dtype}; no code in this directory.",
        "## Use",
        *(_use(facts.settings.view) if facts.layout == "transformers" else [_ELSEWHERE[facts.layout]]),
        "## Preprocessing",
        _preprocessing(facts.settings),
        *(f"- Note: {remark}." for remark in facts.remarks),
        "## Training",
        *(_training(recipe) if recipe else ["The recipe was not at hand when this model was exported."]),
        "## Metrics",
        _metrics(facts.summary),
    ]
    return "\n\n".join(parts) + "\n"


def _use(view: ViewLayout) -> list[str]:
    question = '{"type": "text", "text": "What are the important objects in the current scene?"}'
    ask = (
        'ask = pipeline("image-text-to-text", model=".")  # this directory\n'
        'answer = ask(text=[{"role": "user", "content": content}], max_new_tokens=64, return_full_text=False)\n'
        'print(answer[0]["generated_text"])'
    )
    one = f'content = [{{"type": "image", "path": "picture.jpg"}}, {question}]'
    blocks = [_PROCESSOR, "One image:", _python(f"from transformers import pipeline\n\n{one}\n{ask}")]
    cameras = "cameras = (" + ", ".join(f'"{camera}"' for camera in CAMERAS) + ")"
    if view.mode == "views":
        views = (
            "content = []\nfor camera in cameras:\n"
            '    content += [{"type": "text", "text": f"{camera}: "}, {"type": "image", "path": f"{camera}.jpg"}]\n'
            f"content.append({question})"
        )
        return [
            *blocks,
            "Six cameras, each an image with its name, as in training:",
            _python(f"from transformers import pipeline\n\n{cameras}\n{views}\n{ask}"),
        ]
    return [
        *blocks,
        "Six cameras, stitched to one canvas, as in training:",
        _python(
            "from PIL import Image, ImageDraw, ImageFont\nfrom transformers import pipeline\n\n"
            f"{cameras}\n{_stitching(view)}\n"
            f'content = [{{"type": "image", "image": canvas}}, {question}]\n{ask}'
        ),
    ]


def _stitching(view: ViewLayout) -> str:
    side = view.tile_size
    lines = [
        f'canvas = Image.new("RGB", ({6 * side}, {2 * side}))',
        "for i, camera in enumerate(cameras):",
        '    view = Image.open(f"{camera}.jpg").convert("RGB")',
        f"    view = view.resize(({2 * side}, {side}), Image.Resampling.BICUBIC)",
    ]
    if view.draw_camera_names:
        lines.append(f"    font = ImageFont.load_default(size={max(8, side // 14)})")
        lines.append("    ImageDraw.Draw(view).text((0, 0), camera, fill=(255, 255, 255), font=font)")
    return "\n".join([*lines, f"    canvas.paste(view, (i % 3 * {2 * side}, i // 3 * {side}))"])


def _preprocessing(settings: Preprocessing) -> str:
    view = settings.view
    lines = [
        f"- Tiles of {view.tile_size} pixels, at most {view.max_tiles if view.dynamic_resolution else 1} of "
        f"{'an image' if view.mode == 'views' else 'the canvas'}"
        f"{', and a thumbnail where there are several' if view.thumbnail else ''}; mode `{view.mode}`.",
        f"- Pixels in training: {'those of Pillow' if view.exact else 'libjpeg-turbo, near those of Pillow'}.",
        f"- Points in questions and answers: {_coordinates(settings.coordinates)}.",
        f"- Chat template `{settings.template}`"
        + (f", system message: {json.dumps(settings.system)}." if settings.system else ", no system message."),
    ]
    return "\n".join(lines)


def _coordinates(format: CoordinateFormat) -> str:
    tag = model_text("<c1,CAM_BACK,1088.3,497.5>", format)
    if format == DRIVELM:
        return f"DriveLM's own, pixels of the 1600x900 view, such as `{tag}`"
    return (
        f"space `{format.space}`, {format.decimals} decimals; `<c1,CAM_BACK,1088.3,497.5>` in pixels is `{tag}`; "
        "`predict` rewrites questions and answers, other programs have to"
    )


def _shown(dataset: DatasetSection) -> str:
    if dataset.fraction is not None:
        return f"fraction {dataset.fraction:g}"
    return "default" if dataset.weight is None else f"weight {dataset.weight:g}"


def _training(recipe: Recipe) -> list[str]:
    rows = [
        "| dataset | shown | source | licence | samples | questions | sha256 of dataset.json |",
        "|---|---|---|---|---|---|---|",
    ]
    for dataset in recipe.data.datasets:
        file = dataset.path / DATASET_FILE
        info = read_dataset_file(dataset.path)
        cells = [dataset.name, _shown(dataset)]
        if info is None:
            cells += ["not at hand when exported", "", "", "", ""]
        else:
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            cells += [info.source, info.licence, str(info.num_samples), str(info.num_questions), f"`{digest}`"]
        rows.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    return [
        f"Stage `{recipe.stage}`, {recipe.steps} steps.",
        "\n".join(rows),
        f"The recipe:\n\n```yaml\n{recipe_to_yaml(recipe)}```",
    ]


def _metrics(summary: Path | None) -> str:
    if summary is None or not summary.is_file():
        return "No summary of the run was at hand when this model was exported."
    try:
        record = json.loads(summary.read_text())
        rows = [f"| {name} | {value} |" for name, value in record.items()]
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{summary}: got text that is no JSON object ({error}); run the stage again") from error
    return "\n".join(["| of the run | value |", "|---|---|", *rows])


def _python(code: str) -> str:
    return f"```python\n{code}\n```"
