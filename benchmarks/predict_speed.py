"""A model and shards in, questions/s out: shared prefixes against one question at a time, the same answers checked.

    python benchmarks/predict_speed.py --model models/tiny/teacher-vlm --data SHARDS --frames 4 --out speed.json

`stock` is transformers' `generate` for each question, `alone` this project's decoding with one question a batch, and
`shared` all questions of the frames together. Preprocessing is part of each.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_shards.asked import question_order  # noqa: E402
from data_shards.atomic import write_json
from data_shards.chat import STOP, tokenize_prompts
from data_shards.index import load_index
from data_shards.read import read_frame
from data_shards.schema import RawFrame
from data_shards.tiling import tile_jpegs
from models.vision import normalise_tiles
from models.vlm import load_vlm
from trainer.dist import compute_device
from trainer.evaluate.predict import answer_frames
from trainer.preprocessing import Preprocessing, read_preprocessing

Answers = list[list[str]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; exit status 1 where the answers differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="shards with tagged questions")
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--max-new-tokens", type=int, default=200)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    result = measure(options.model, options.data, options.frames, options.max_new_tokens)
    print(json.dumps(result, indent=2))
    if options.out:
        write_json(options.out, result)
    return 0 if result["same_answers"] else 1


def measure(model_dir: Path, data: Path, num_frames: int, limit: int) -> dict[str, Any]:
    """Questions/s of each way, and whether all gave the same answers."""
    settings = read_preprocessing(model_dir)
    device = compute_device()
    model: Any = load_vlm(model_dir, torch.bfloat16 if device.type == "cuda" else torch.float32)
    model = model.to(device).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(model_dir, local_files_only=True)
    index = load_index(data)
    frames = [read_frame(index, position) for position in range(min(num_frames, len(index)))]
    asked = [question_order(frame) for frame in frames]

    def stock() -> Answers:
        return [
            [stock_answer(model, tokenizer, frame, number, settings, limit) for number in numbers]
            for frame, numbers in zip(frames, asked, strict=True)
        ]

    def batched(rows: int) -> Answers:
        return answer_frames(
            model,
            tokenizer,
            frames,
            question_ids=asked,
            template=settings.chat(),
            layout=settings.view,
            max_new_tokens=limit,
            batch_rows=rows,
        )

    batched(256)  # warm up
    questions = sum(map(len, asked))
    ways: dict[str, Callable[[], Answers]] = {
        "shared": lambda: batched(256),
        "alone": lambda: batched(1),
        "stock": stock,
    }
    rates, cpu, answers = {}, {}, {}
    for name, way in ways.items():
        started, started_cpu = time.perf_counter(), time.process_time()
        answers[name] = way()
        rates[name] = questions / (time.perf_counter() - started)
        cpu[name] = time.process_time() - started_cpu
    return {
        "model": model_dir.name,
        "frames": len(frames),
        "questions": questions,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "questions_per_s": {name: round(rate, 2) for name, rate in rates.items()},
        "cpu_s": {name: round(seconds, 2) for name, seconds in cpu.items()},
        "shared_over_stock": round(rates["shared"] / rates["stock"], 2),
        "shared_over_alone": round(rates["shared"] / rates["alone"], 2),
        "same_answers": answers["shared"] == answers["alone"] == answers["stock"],
    }


def stock_answer(
    model: Any,
    tokenizer: PreTrainedTokenizerFast,
    frame: RawFrame,
    number: int,
    settings: Preprocessing,
    limit: int,
) -> str:
    """One question of a frame through transformers' own generation."""
    tiles, tiles_per_image = tile_jpegs(frame.images, settings.view)
    counts = [tiles_of_one * model.config.image_seq_length for tiles_of_one in tiles_per_image]
    tokens = tokenize_prompts(frame, counts, tokenizer, settings.chat(), (number,))
    ids = torch.tensor(np.concatenate([tokens.prefix, tokens.segments[0]])).long()[None].to(model.device)
    pixels = normalise_tiles(torch.from_numpy(tiles).to(model.device))
    out = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=pixels.to(model.dtype),
        do_sample=False,
        max_new_tokens=limit,
        eos_token_id=[tokenizer.convert_tokens_to_ids(STOP), tokenizer.eos_token_id],
        pad_token_id=tokenizer.pad_token_id,
    )
    return str(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)).strip()


if __name__ == "__main__":
    sys.exit(main())
