"""DriveLM annotations and images in; work of a question at full size out, classic packs over shared prefixes, as JSON.

`python -m benchmarks.saved_work --annotations train_sample.json --images FOLDER [--tokenizer models/tiny/language]`

Frames are a canvas of 13 tiles of 256 tokens; lengths are those of their raw questions under the tokenizer. FLOPs are
counted for `drivlm-2b` in stage 2. The frames are repeated, so that packs can be filled as those of a large dataset.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerFast

from data_shards.atomic import write_json
from data_shards.chat import internlm2_chat
from data_shards.cli import main as data_shards
from data_shards.cost import CostModel
from data_shards.index import load_index
from data_shards.lengths import sample_sizes
from data_shards.mixture import MixtureEntry, PackLimits, SizeTable
from data_shards.plan import PackStream
from data_shards.view_layout import ViewLayout
from models.flops import forward_flops
from models.presets import vlm_preset

LIMITS = PackLimits(max_tokens=16384, max_tiles=48)
TOKENS_PER_TILE = 256
REPEATS = 40
VISITS = (1, 8, 16, 32)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print and write the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.saved_work", description=__doc__)
    parser.add_argument("--annotations", type=Path, required=True, help="DriveLM's training JSON")
    parser.add_argument("--images", type=Path, required=True, help="folder that holds nuScenes' samples/")
    parser.add_argument("--tokenizer", type=Path, default=Path("models/tiny/language"))
    parser.add_argument("--out", type=Path, default=Path("runs/bench/saved_work.json"))
    options = parser.parse_args(arguments)
    sizes = real_sizes(options.annotations, options.images, options.tokenizer)
    result: dict[str, float] = {"frames": len(sizes), "questions": len(sizes.tokens), "prefix": int(sizes.prefix.max())}
    result["tokens a question"] = float(sizes.tokens.mean())
    rows = {k: work(SizeTable.joined([sizes] * REPEATS), k) for k in VISITS}
    report = {**result, "a question": rows, "saved": {k: saved(rows[1], rows[k]) for k in VISITS[1:]}}
    write_json(options.out, report)
    print(", ".join(f"{name} {value:.4g}" for name, value in result.items()))
    for k, row in rows.items():
        times = f" ({', '.join(f'{v:.1f} x' for v in saved(rows[1], row).values())} less)" if k > 1 else ""
        print(f"{k:>3} a visit: " + ", ".join(f"{name} {value:.4g}" for name, value in row.items()) + times)
    return 0


def real_sizes(annotations: Path, images: Path, tokenizer: Path) -> SizeTable:
    """Token and tile counts of the raw questions of all frames."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["drivelm", "--form", "raw", "--annotations", str(annotations), "--images", str(images)]
        status = data_shards([*command, "--out", f"{folder}/shards", "--processes", "1"])
        if status:
            raise SystemExit(status)
        return sample_sizes(
            load_index(Path(folder) / "shards"),
            tokenizer=PreTrainedTokenizerFast.from_pretrained(tokenizer, local_files_only=True),
            template=internlm2_chat(),
            layout=ViewLayout(mode="canvas", max_tiles=12),
            tokens_per_tile=TOKENS_PER_TILE,
        )


def cost() -> CostModel:
    """Forward and backward FLOPs of `drivlm-2b` in stage 2."""
    flops = forward_flops(vlm_preset("drivlm-2b"))
    tile = flops.tile + flops.image_token * flops.tokens_per_tile
    return CostModel(token=3 * flops.token, tile=3 * tile, pair=3 * flops.pair)


def work(sizes: SizeTable, questions_per_visit: int) -> dict[str, float]:
    """Language tokens, tiles and TFLOPs of a question, over an epoch of packs."""
    stream = PackStream([MixtureEntry(sizes=sizes)], LIMITS, questions_per_visit, 0, cost=cost())
    sections = [stream.section(number) for number in range(stream.sections)]
    visits = [visit for section in sections for i in range(len(section)) for visit in section[i].visits]
    asked = sum(len(visit.questions) for visit in visits)
    assert asked == len(sizes.tokens), "an epoch asks each question once"
    return {
        "tokens": float(sum(section.shown.sum() for section in sections)) / asked,
        "tiles": float(np.sum(sizes.tiles[[visit.sample for visit in visits]])) / asked,
        "TFLOP": float(sum(section.costs.sum() for section in sections)) / asked / 1e12,
        "questions a visit": asked / len(visits),
    }


def saved(classic: dict[str, float], other: dict[str, float]) -> dict[str, float]:
    """How many times less of each a question takes."""
    return {name: classic[name] / other[name] for name in ("tokens", "tiles", "TFLOP")}


if __name__ == "__main__":
    sys.exit(main())
