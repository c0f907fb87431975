"""Seeds in, models/tiny out: tokenizer, language model, and the teacher as a whole model, with a manifest.

`make tiny-assets` takes hours on two cores, and nothing where the manifest's files are all there. It can be stopped and
called again; `--anew` makes every part again. `--refresh` trains the stored parts on for a while, after a change of the
world that leaves most of its words and looks as they are.
"""

import argparse
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from data_shards.atomic import write_json
from data_shards.chat import internlm2_chat
from models.saving import save_model
from models.vlm import load_language
from trainer.demo import ROOT, TINY, run_command, train_stage
from trainer.export import export
from trainer.stages.sources import tokenizer_from
from trainer.tiny.language import Round, train_language, train_tokenizer
from trainer.tiny.vision import render_named_tiles, train_teacher

SEED = 7
REFRESH_SEED = SEED + 200
LANGUAGE_SITTINGS = (
    (
        Round(steps=3000, peak=2e-3, listing_odds=0.2),
        Round(steps=1200, peak=1.5e-3, listing_odds=2.0),
        Round(steps=1400, peak=1.5e-3, listing_odds=8.0),
    ),
    (Round(steps=1000, peak=1.5e-3, listing_odds=12.0),),
)
"""Rounds of the language model's training; each sitting ends with a file from which the next one starts."""

REFRESH_ROUND = Round(steps=800, peak=1e-3, listing_odds=6.0)
REFRESH_STEPS = 400
"""Of the teacher's second stage, on the refreshed world."""

TOWER_STEPS = 2600
MAX_BYTES = 10_000_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Make what is missing of the tiny parts, then write the manifest; exit status 2 where only some are stored."""
    parser = argparse.ArgumentParser(prog="python -m trainer.tiny", description=__doc__)
    parser.add_argument("--work-dir", type=Path, default=Path("runs/tiny"), help="data and runs (default: %(default)s)")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--anew", action="store_true", help="make every part again")
    how.add_argument(
        "--refresh", action="store_true", help="train the stored parts on, for a world that has changed a little"
    )
    options = parser.parse_args(arguments)
    os.chdir(ROOT)  # what is written names no path of this machine
    work, out = options.work_dir, TINY
    if options.refresh:
        refresh_language(out / "language")
        refresh_teacher(work, out / "teacher-vlm")
        write_manifest(out, refreshed=True)
        return 0
    if options.anew:
        shutil.rmtree(out, ignore_errors=True)
        shutil.rmtree(work, ignore_errors=True)
    elif (out / "manifest.json").exists():
        return _say_stored(out)
    make_language(work, out / "language")
    make_tower(work / "tower")
    make_teacher_vlm(work, out / "teacher-vlm")
    write_manifest(out, refreshed=False)
    return 0


def _say_stored(out: Path) -> int:
    """Exit status where there is a manifest; parts of other sittings are not mixed, since it speaks of all of them."""
    missing = [name for name in json.loads((out / "manifest.json").read_text())["sha256"] if not (out / name).exists()]
    if missing:
        print(f"{out}: {', '.join(missing)} of its manifest missing; --anew makes every part again", file=sys.stderr)
        return 2
    print(f"{out}: every part is there; --anew makes them again, --refresh trains them on")
    return 0


def make_language(work: Path, out: Path) -> None:
    """The tokenizer and the language model."""
    if (out / "config.json").exists():
        return
    tokenizer = train_tokenizer(out / "tokenizer.model", SEED)
    model = None
    for number, rounds in enumerate(LANGUAGE_SITTINGS):
        stored = work / f"language-{number}"
        if not (stored / "config.json").exists():
            model = train_language(
                tokenizer,
                internlm2_chat(),
                rounds=rounds,
                seed=SEED + 100 * number,
                report=_reporter("language"),
                start=model,
            )
            save_model(model.half(), stored)
        model = load_language(stored)
    tokenizer.save_pretrained(out)
    assert model is not None
    save_model(model.half(), out)


def make_tower(out: Path) -> None:
    """The teacher tower, before it has seen a question."""
    if (out / "config.json").exists():
        return
    tiles = render_named_tiles(SEED, num_scenes=3000, num_pictures=1200, image_width=400)
    save_model(train_teacher(tiles, steps=TOWER_STEPS, batch=64, seed=SEED, report=_reporter("tower")), out)


def refresh_language(out: Path) -> None:
    """Train the stored language model on, with its own tokenizer."""
    tokenizer = tokenizer_from("tokenizer", str(out))
    model = train_language(
        tokenizer,
        internlm2_chat(),
        rounds=[REFRESH_ROUND],
        seed=REFRESH_SEED,
        report=_reporter("language"),
        start=load_language(out),
    )
    save_model(model.half(), out)


def refresh_teacher(work: Path, out: Path) -> None:
    """Fine-tune the stored teacher further."""
    shutil.rmtree(work, ignore_errors=True)
    paths = _make_data(work / "data")
    stored = [f"run_dir={work / 'refresh'}", f"model.vlm={out}", f"steps={REFRESH_STEPS}", "loss_weight=square"]
    train_stage("finetune", [*paths, *stored])
    shutil.rmtree(out)
    export(work / "refresh", out, dtype="float16")


def make_teacher_vlm(work: Path, out: Path) -> None:
    """The teacher tower joined to the language model by the project's own stages."""
    if (out / "config.json").exists():
        return
    paths = _make_data(work / "data")
    train_stage("align", [*paths, f"run_dir={work / 'align'}", f"model.vision={work / 'tower'}", "steps=200"])
    aligned = f"model.vlm={work / 'align' / 'model'}"
    train_stage("finetune", [*paths, f"run_dir={work / 'finetune'}", aligned, "steps=800", "loss_weight=square"])
    export(work / "finetune", out, dtype="float16")


def _make_data(data: Path) -> list[str]:
    """Shards for the teacher's stages, as overrides of their recipes."""
    make = [sys.executable, "-m", "data_shards", "synthetic", "--seed", str(SEED)]
    driving = ["--scenes", "1500", "--frames-per-scene", "1", "--image-width", "400"]
    run_command([*make, "--out", str(data / "driving" / "train"), *driving])
    general = ["--family", "general", "--scenes", "300", "--frames-per-scene", "1", "--image-width", "224"]
    run_command([*make, "--out", str(data / "general"), *general])
    return [f"data.datasets.0.path={data / 'driving' / 'train'}", f"data.datasets.1.path={data / 'general'}"]


def write_manifest(out: Path, *, refreshed: bool) -> None:
    """Checksums of every file, and how they were made.

    Args:
        refreshed: the files were made before, for an earlier form of the world, and trained on now.

    Raises:
        ValueError: the parts are larger than the repository should hold.
    """
    files = sorted(path for path in out.rglob("*") if path.is_file() and path.name != "manifest.json")
    total = sum(path.stat().st_size for path in files)
    if total > MAX_BYTES:
        raise ValueError(f"{out}: got {total} bytes, expected at most {MAX_BYTES}; make the tiny models smaller")
    manifest = {
        "script": "python -m trainer.tiny (make tiny-assets)",
        "seed": SEED,
        "language_rounds": [[asdict(one) for one in sitting] for sitting in LANGUAGE_SITTINGS],
        "tower_steps": TOWER_STEPS,
        "refreshed": {"language": asdict(REFRESH_ROUND), "teacher_steps": REFRESH_STEPS} if refreshed else None,
        "torch": torch.__version__,
        "sha256": {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files},
    }
    write_json(out / "manifest.json", manifest)


def _reporter(part: str) -> Callable[[int, float, float], None]:
    started = time.monotonic()

    def report(step: int, loss: float, right: float) -> None:
        print(
            f"{part}: step {step}, loss {loss:.3f}, right {right:.3f}, {time.monotonic() - started:.0f} s", flush=True
        )

    return report


if __name__ == "__main__":
    sys.exit(main())
