"""What a student is told by the k likeliest codebook entries of a patch, against all of them.

    python -m benchmarks.top_k_gap --out runs/bench/top_k_gap.json

The teacher of `models/tiny` teaches `tiny-student` from all entries of the default codebook size; at its start and
later the loss and its gradient are compared with those from the likeliest entries, in two ways: `tail` counts all
others as one entry, which is what training does; `renormalised` leaves them out.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cosine_similarity, log_softmax

from data_shards.atomic import write_json
from data_shards.index import load_index
from data_shards.read import read_frame
from data_shards.tiling import tile_jpegs
from data_shards.view_layout import ViewLayout
from models.distill_heads import Codebook, DistillStudent, spherical_kmeans
from models.presets import vision_config
from models.vision import normalise_tiles, patch_features
from models.vlm import build_vision, load_vision
from trainer.losses import patch_kl, top_patch_kl
from trainer.recipe import DistillSection
from trainer.targets.teach import likeliest

ROOT = Path(__file__).resolve().parents[1]
KEPT = (8, 32, 0)
FRAMES = 8
VIEW = ViewLayout(tile_size=112, max_tiles=1, thumbnail=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, default=Path("runs/bench/top_k_gap"))
    parser.add_argument("--steps", type=int, default=30, help="of the student")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    os.chdir(ROOT)
    result = measure(_tiles(options.work_dir), options.steps)
    print(json.dumps(result, indent=2))
    if options.out:
        write_json(options.out, result)
    return 0


def measure(pixels: torch.Tensor, steps: int) -> list[dict[str, Any]]:
    """Gaps of a student on tiles [T, 3, S, S], while it learns from all entries."""
    settings = DistillSection()
    teacher = load_vision(ROOT / "models" / "tiny" / "teacher-vlm")
    generator = torch.Generator().manual_seed(0)
    tower = build_vision(vision_config("tiny-student"), generator)
    student = DistillStudent(tower, teacher.config.hidden_size, 1, generator)
    with torch.no_grad():
        features = patch_features(teacher, pixels, 1)[0][:, 1:]
    prototypes = spherical_kmeans(features.flatten(0, 1), settings.codebook_size, 10, generator)
    codebook = Codebook(prototypes)
    target = codebook(features, settings.codebook_temperature)
    optimizer = torch.optim.AdamW(student.parameters(), lr=2e-3)
    rows = []
    for step in range(steps + 1):
        own = codebook(student(pixels)[0][:, 1:], settings.codebook_temperature)
        if step in (0, steps // 4, steps):
            rows.append({"step": step, "entries": len(prototypes), **_gaps(own, target)})
        optimizer.zero_grad()
        patch_kl(own, target, 1.0).mean().backward()
        optimizer.step()
    return rows


def renormalised_kl(student_logits: torch.Tensor, values: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """The other way to do without the entries that are not kept: both distributions over the kept ones alone."""
    return patch_kl(student_logits.gather(-1, indices), values[..., :-1].float(), 1.0).sum()


def _gaps(own: torch.Tensor, teacher: torch.Tensor) -> dict[str, Any]:
    """The loss from all entries, and each shorter one's difference to it and angle of its gradient."""
    logits = own.detach().requires_grad_()
    full = patch_kl(logits, teacher, 1.0).sum()
    (direction,) = torch.autograd.grad(full, logits)
    found: dict[str, Any] = {"kl_per_tile": round(full.item() / len(own), 4)}
    for k in KEPT:
        kept, places = likeliest(log_softmax(teacher, dim=-1), k)
        values = torch.from_numpy(kept)
        indices = None if places is None else torch.from_numpy(places).long()
        losses = {"tail": top_patch_kl(logits, values, indices, 1.0).sum()}
        if indices is not None:
            losses["renormalised"] = renormalised_kl(logits, values, indices)
        for name, loss in losses.items():
            (gradient,) = torch.autograd.grad(loss, logits, retain_graph=True)
            cosine = cosine_similarity(gradient.double().flatten(), direction.double().flatten(), dim=0)
            found[f"k={k or 'all'} {name}"] = {
                "loss_gap": round((loss.item() - full.item()) / full.item(), 5),
                "gradient_cosine": round(cosine.item(), 5),
            }
    return found


def _tiles(work: Path) -> torch.Tensor:
    """Pixels of a few rendered frames."""
    make = ["-m", "data_shards", "synthetic", "--scenes", str(FRAMES), "--frames-per-scene", "1"]
    subprocess.run([sys.executable, *make, "--image-width", "400", "--out", str(work), "--processes", "1"], check=True)
    index = load_index(work)
    tiles = [torch.from_numpy(tile_jpegs(read_frame(index, i).images, VIEW)[0]) for i in range(FRAMES)]
    return normalise_tiles(torch.cat(tiles))


if __name__ == "__main__":
    sys.exit(main())
