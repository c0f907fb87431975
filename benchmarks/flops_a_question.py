"""What packs cost at full size: `python -m benchmarks.flops_a_question` counts the FLOPs that a question of stage 2 and
a tile of distillation need, for limits of a pack and for questions a visit, beside those of classic packs.

Lengths are drawn as in `trainer.bench.packs`. FLOPs alone: how fast a GPU does them is another matter.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from data_shards.atomic import write_json
from trainer.bench.packs import random_batches
from trainer.bench.parts import useful_flops
from trainer.bench.settings import PRESETS, BenchSettings, bench_recipe, pack_settings, write_codebook
from trainer.stages import make_stage

LIMITS = (12288, 16384, 18432)
VISITS = (1, 16, 32)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Means over packs.

    Attributes:
        tflops: that the loss of a pack needs.
        tokens, labels, tiles, questions: of a pack.
    """

    tflops: float
    tokens: float
    labels: float
    tiles: float
    questions: float

    @property
    def a_question(self) -> float:
        """TFLOP of a question."""
        return self.tflops / self.questions

    @property
    def a_tile(self) -> float:
        """TFLOP of a tile."""
        return self.tflops / self.tiles


def cost(settings: BenchSettings, packs: int) -> Cost:
    """Of so many packs, spread over a plan."""
    with tempfile.TemporaryDirectory() as directory:
        recipe = bench_recipe(settings, Path(directory))
        if settings.cached:
            write_codebook(recipe, settings.preset)
        stage = make_stage(recipe, torch.bfloat16, loaded=False)
    batches = random_batches(pack_settings(stage, settings), stage.cost(), packs)
    return Cost(
        tflops=sum(useful_flops(stage, batch) for batch in batches) / packs / 1e12,
        tokens=sum(len(batch.input_ids) for batch in batches) / packs,
        labels=sum(len(batch.label_targets) for batch in batches) / packs,
        tiles=sum(batch.meta.num_tiles for batch in batches) / packs,
        questions=sum(batch.meta.num_questions for batch in batches) / packs,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Count, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flops_a_question", description=__doc__)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="drivlm-2b")
    parser.add_argument("--packs", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("runs/bench/flops_a_question.json"))
    options = parser.parse_args(arguments)
    base = BenchSettings(preset=options.preset, stage="finetune", ds_config=Path("zero1.json"))
    rows = {name: cost(settings, options.packs) for name, settings in _cases(base)}
    for name, found in rows.items():
        classic = rows.get(name.rpartition(",")[0] + ", 1 a visit")
        ratio = f"{classic.a_question / found.a_question:>7.2f} x less than classic" if classic else ""
        unit = f"{found.a_question:>8.3f} TFLOP a question" if found.questions else f"{found.a_tile:>8.3f} TFLOP a tile"
        sizes = (
            f"{found.tflops:>8.1f} TFLOP, {found.tokens:.0f} tokens, {found.labels:.0f} labels, {found.tiles:.1f} tiles"
        )
        print(f"{name:<40}{unit}{ratio}; a pack: {sizes}, {found.questions:.1f} questions")
    online, cached = rows["distill, online teacher"], rows["distill, cached targets"]
    print(f"cached targets: {online.a_tile / cached.a_tile:.2f} x less a tile than with the teacher online")
    write_json(options.out, {name: vars(found) for name, found in rows.items()})
    return 0


def _cases(base: BenchSettings) -> Iterator[tuple[str, BenchSettings]]:
    for kind, general in (("driving", 0.0), ("driving and general 4 : 1", 0.25)):
        for tokens in LIMITS:
            for visit in VISITS:
                name = f"{kind}, {tokens} tokens, {visit} a visit"
                yield name, replace(base, tokens=tokens, questions_per_visit=visit, general=general)
    distill = replace(base, stage="distill")
    yield "distill, online teacher", distill
    yield "distill, cached targets", replace(distill, cached=True)


if __name__ == "__main__":
    sys.exit(main())
