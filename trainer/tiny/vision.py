"""Rendered views and their cells in words in, the tiny teacher tower out: it learns to name what image tokens show."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import InternVLVisionConfig, InternVLVisionModel

from data_shards.decode import decode_jpeg
from data_shards.schema import CAMERAS
from data_shards.sources.synthetic import scene_frames
from data_shards.sources.synthetic.describe import Cell, scene_cells
from data_shards.sources.synthetic.general import draw_picture, make_picture, picture_cells
from data_shards.sources.synthetic.render import render_scene
from data_shards.tiling import tile_images
from data_shards.view_layout import ViewLayout
from models.presets import vision_config
from models.vision import normalise_tiles
from models.vlm import build_vision
from trainer.tiny.language import learning_rate_factor
from trainer.tiny.texts import GRID

LAYOUT = ViewLayout(tile_size=112, max_tiles=1, thumbnail=False)


@dataclass(frozen=True, kw_only=True)
class NamedTiles:
    """Tiles with what they show: T tiles, C cells of a tile, W words.

    Attributes:
        tiles: uint8 [T, S, S, 3].
        words: float [T, C, W], 1 where the word applies to the cell.
        centres: float [T, C, 2], the object's centre in shares of the view; NaN where the cell shows none.
        vocabulary: the W words.
    """

    tiles: torch.Tensor
    words: torch.Tensor
    centres: torch.Tensor
    vocabulary: tuple[str, ...]


def render_named_tiles(seed: int, *, num_scenes: int, num_pictures: int, image_width: int) -> NamedTiles:
    """Draw scenes and general pictures. Of the views without any object three in four are left out."""
    rng = np.random.default_rng(seed)
    tiles: list[np.ndarray] = []
    cells: list[list[Cell]] = []
    for number in range(num_scenes):
        scene, scene_rng = next(iter(scene_frames(seed, number, 1)))
        views, named = render_scene(scene, scene_rng, width=image_width), scene_cells(scene, GRID)
        for name in CAMERAS:
            if any(cell.centre for cell in named[name]) or rng.random() < 0.25:
                tiles.append(tile_images([decode_jpeg(views[name])], LAYOUT)[0])
                cells.append(named[name])
    for _ in range(num_pictures):
        picture = make_picture(rng)
        tiles.append(tile_images([decode_jpeg(draw_picture(picture, image_width))], LAYOUT)[0])
        cells.append(picture_cells(picture, GRID))
    vocabulary = tuple(sorted({word for view in cells for cell in view for word in cell.words}))
    words = [[[float(word in cell.words) for word in vocabulary] for cell in view] for view in cells]
    centres = [[cell.centre or (np.nan, np.nan) for cell in view] for view in cells]
    return NamedTiles(
        tiles=torch.from_numpy(np.stack(tiles)),
        words=torch.tensor(words),
        centres=torch.tensor(centres),
        vocabulary=vocabulary,
    )


def train_teacher(
    data: NamedTiles,
    *,
    steps: int,
    batch: int,
    seed: int,
    report: Callable[[int, float, float], None],
    config: InternVLVisionConfig | None = None,
) -> InternVLVisionModel:
    """Train a tower under two linear heads on its pixel-shuffled features, which are then dropped.

    Args:
        config: of the tower; that of the tiny teacher where it is not given.
        report: called every 50 steps with the step, the loss, and the share of object cells with every word right.
    """
    generator = torch.Generator().manual_seed(seed)
    config = config or vision_config("tiny-teacher")
    tower = build_vision(config, generator)
    width, num_words = 4 * config.hidden_size, len(data.vocabulary)
    head = nn.Linear(width, num_words + 2)
    for parameter in head.parameters():
        nn.init.uniform_(parameter, -(width**-0.5), width**-0.5, generator=generator)
    parameters = [*tower.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.05)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * learning_rate_factor(step, steps)
        chosen = torch.randint(len(data.tiles), (batch,), generator=generator)
        logits = head(token_features(tower, data.tiles[chosen]))
        loss = _naming_loss(logits, data.words[chosen], data.centres[chosen])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0 or step == steps - 1:
            with torch.no_grad():
                shown = ~data.centres[chosen, :, 0].isnan()
                right = ((logits[..., :-2] > 0) == (data.words[chosen] > 0)).all(-1)[shown].float().mean()
            report(step, loss.item(), right.item())
    return tower


def token_features(tower: InternVLVisionModel, tiles: torch.Tensor) -> torch.Tensor:
    """uint8 tiles [T, S, S, 3] to the 2x2 patches of each image token side by side, [T, GRID * GRID, 4 D]."""
    patches = tower(pixel_values=normalise_tiles(tiles)).last_hidden_state[:, 1:]
    blocks = patches.unflatten(1, (GRID, 2, GRID, 2))
    return blocks.permute(0, 1, 3, 2, 4, 5).flatten(3).flatten(1, 2)


def _naming_loss(logits: torch.Tensor, words: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    shown = ~centres[..., 0].isnan()
    weight = 1.0 + 4.0 * shown.float()[..., None]  # objects cover a small part of the views
    named = functional.binary_cross_entropy_with_logits(logits[..., :-2], words, weight=weight)
    placed = functional.smooth_l1_loss(logits[..., -2:][shown], centres[shown], beta=0.02)
    return 4.0 * named + placed
