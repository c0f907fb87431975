"""Synthetic lengths in; fill, balance over ranks, work saved and planning time of the pack plan out, as JSON.

`python -m benchmarks.pack_plan [--frames 4000] [--samples 10000000] [--out runs/bench/pack_plan.json]`

Lengths are drawn as measured on real frames at full size: 13 tiles of 256 tokens and 80 to 99 questions of some 77
tokens a driving frame; general samples of 0 to 13 tiles and one answer. FLOPs are those of `drivlm-2b`.
"""

import argparse
import resource
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from data_shards.atomic import write_json
from data_shards.cost import CostModel
from data_shards.mixture import MixtureEntry, PackLimits, SizeTable
from data_shards.plan import PackStream

LIMITS = PackLimits(max_tokens=16384, max_tiles=48)
COST = CostModel(token=6 * 1.7e9, tile=3 * 0.63e12, pair=24 * 2048 * 4 * 3)
QUESTIONS_PER_VISIT = 32
OPEN_BUFFERS = 20
"""Open packs of first-fit packing, as in InternVL's packed dataset."""


def driving(count: int, seed: int = 0) -> SizeTable:
    """Driving frames."""
    rng = np.random.default_rng(seed)
    questions = rng.integers(80, 100, count)
    return SizeTable(
        prefix=np.full(count, 3380, np.int32),
        tiles=np.full(count, 13, np.int32),
        first=np.concatenate([[0], np.cumsum(questions)]),
        tokens=(40 + rng.gamma(1.5, 25, int(questions.sum()))).astype(np.int32),
    )


def general(count: int, seed: int = 1) -> SizeTable:
    """General samples with one answer each."""
    rng = np.random.default_rng(seed)
    tiles = rng.integers(0, 14, count).astype(np.int32)
    return SizeTable(
        prefix=30 + 256 * tiles,
        tiles=tiles,
        first=np.arange(count + 1),
        tokens=(60 + rng.gamma(1.5, 200, count)).astype(np.int32),
    )


def first_fit(samples: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Tokens and tiles of packs filled as InternVL does: first fit over open buffers, fullest of tiles first."""
    packs: list[tuple[int, int]] = []
    buffers: list[tuple[int, int]] = []
    for tokens, tiles in samples:
        fitting = (
            i for i, (a, b) in enumerate(buffers) if a + tokens <= LIMITS.max_tokens and b + tiles <= LIMITS.max_tiles
        )
        place = next(fitting, None)
        if place is None:
            buffers.append((tokens, tiles))
        else:
            buffers[place] = (buffers[place][0] + tokens, buffers[place][1] + tiles)
        buffers.sort(key=lambda buffer: -buffer[1])
        if len(buffers) > OPEN_BUFFERS:
            packs.append(buffers.pop(0))
    return packs


def describe(stream: PackStream, mixture: list[MixtureEntry]) -> dict[str, float]:
    """Fill and balance of the first section of a plan."""
    section = stream.section(0)
    tokens, tiles = [], []
    for i in range(len(section)):
        visits = [(mixture[v.dataset].sizes[v.sample], v.questions) for v in section[i].visits]
        tokens.append(sum(s.prefix_tokens + sum(s.question_tokens[q] for q in asked) for s, asked in visits))
        tiles.append(sum(s.tiles for s, _ in visits))
    return {
        "packs": len(section),
        "fill_tokens": float(np.mean(tokens)) / LIMITS.max_tokens,
        "fill_tiles": float(np.mean(tiles)) / LIMITS.max_tiles,
        **{f"imbalance_{ranks}": imbalance(section.costs, ranks) for ranks in (8, 64, 512)},
    }


def imbalance(costs: np.ndarray, ranks: int) -> float:
    """Mean over steps of the dearest rank's cost over the mean cost."""
    steps = costs[: len(costs) // ranks * ranks].reshape(-1, ranks)
    return float((steps.max(axis=1) / steps.mean(axis=1)).mean()) if len(steps) else float("nan")


def describe_first_fit(mixture: list[MixtureEntry], seed: int = 0) -> dict[str, float]:
    """The same for first-fit packing of single questions."""
    samples = np.concatenate(
        [
            np.stack([np.repeat(s.prefix, np.diff(s.first)) + s.tokens, np.repeat(s.tiles, np.diff(s.first))], axis=1)
            for s in (entry.sizes for entry in mixture)
        ]
    )
    shuffled = np.random.default_rng(seed).permutation(samples)[:60000]
    packs = np.array(first_fit(map(tuple, shuffled.tolist())))
    costs = COST.token * packs[:, 0] + COST.tile * packs[:, 1]
    return {
        "packs": len(packs),
        "fill_tokens": float(packs[:, 0].mean()) / LIMITS.max_tokens,
        "fill_tiles": float(packs[:, 1].mean()) / LIMITS.max_tiles,
        **{f"imbalance_{ranks}": imbalance(costs, ranks) for ranks in (8, 64, 512)},
    }


def saved_work(frames: SizeTable) -> dict[str, float]:
    """Language tokens, tiles and FLOPs of a question, classic packing over shared prefixes."""
    ratios: dict[str, float] = {}
    mixture = [MixtureEntry(sizes=frames)]
    cost = {}
    for k in (1, 8, 16, QUESTIONS_PER_VISIT):
        section = PackStream(mixture, LIMITS, k, 0, cost=COST).section(0)
        plans = [section[i] for i in range(len(section))]
        asked = sum(len(v.questions) for pack in plans for v in pack.visits)
        visits = sum(len(pack.visits) for pack in plans)
        text = sum(frames[v.sample].question_tokens[q] for pack in plans for v in pack.visits for q in v.questions)
        cost[k] = (
            (3380 * visits + text) / asked,
            13 * visits / asked,
            float(section.costs.sum()) / asked,
        )
        names = ("tokens", "tiles", "flops")
        ratios |= {f"{name}_saved_at_{k}": a / b for name, a, b in zip(names, cost[1], cost[k], strict=True)}
    return ratios


def large_plan(samples: int) -> dict[str, float]:
    """Processor seconds and memory to plan a large dataset and to resume at nine tenths of an epoch."""
    mixture = [MixtureEntry(sizes=general(samples), shards=np.arange(samples) // 1000)]
    begin = time.process_time()
    stream = PackStream(mixture, LIMITS, QUESTIONS_PER_VISIT, 0, cost=COST)
    stream.pack(stream.start)
    built = time.process_time() - begin
    position = (int(stream.sections * 0.9) << 32) | 5
    begin = time.process_time()
    PackStream(mixture, LIMITS, QUESTIONS_PER_VISIT, 0, cost=COST).pack(position)
    return {
        "samples": samples,
        "sections": stream.sections,
        "first_pack_cpu_s": built,
        "resume_cpu_s": time.process_time() - begin,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pack_plan", description=__doc__)
    parser.add_argument("--frames", type=int, default=4000)
    parser.add_argument("--samples", type=int, default=10_000_000)
    parser.add_argument("--out", type=Path, default=Path("runs/bench/pack_plan.json"))
    options = parser.parse_args()
    frames = driving(options.frames)
    results: dict[str, Any] = {}
    mixtures = {
        "driving": [MixtureEntry(sizes=frames)],
        "mixture": [MixtureEntry(sizes=frames), MixtureEntry(sizes=general(len(frames.tokens) // 4))],
    }
    for name, mixture in mixtures.items():
        stream = PackStream(mixture, LIMITS, QUESTIONS_PER_VISIT, 0, cost=COST)
        results[name] = describe(stream, mixture)
        results[f"{name}, first fit"] = describe_first_fit(mixture)
    results["saved work"] = saved_work(driving(500))
    results["large plan"] = large_plan(options.samples)
    write_json(options.out, results)
    for name, values in results.items():
        print(name, ", ".join(f"{key} {value:.4g}" for key, value in values.items()))


if __name__ == "__main__":
    main()
