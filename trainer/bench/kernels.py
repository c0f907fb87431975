"""Times kernels by themselves: `python -m trainer.bench.kernels --preset drivlm-2b --tokens 16384 --out FILE`.

Attention of a random pack of driving frames by every backend that works here, and the fused operations by every
implementation; forward and backward passes, on the device's own clock. Prints a table and writes JSON.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig

from data_shards.atomic import write_json
from data_shards.cost import CostModel
from models.attention import AttentionError, choose_backend, pack_layout
from models.attention.choose import ORDER as BACKENDS
from models.fused import FusedError, choose_fused
from models.fused.choose import ORDER as KERNELS
from models.presets import text_config
from trainer.bench.checks import kernels_problems, unwritable
from trainer.bench.packs import PackSettings, random_batches
from trainer.bench.settings import PRESETS
from trainer.dist import compute_device
from trainer.loggers import announce, report_failure
from trainer.utilisation import visible_pairs

_LABELS = 512
"""Rows of logits: as many as the head computes at a time."""

_VOCABULARY = 1000
"""Any: there are no words here."""


@dataclass(frozen=True, kw_only=True)
class Timed:
    """One kernel: median seconds of a forward and a backward pass, or why it does not run here.

    Attributes:
        tflops: useful ones a second: visible pairs only, backward 2.5 times the forward pass; None for other kernels.
    """

    kernel: str
    implementation: str
    seconds: float | None = None
    tflops: float | None = None
    obstacle: str = ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Time all kernels; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m trainer.bench.kernels", description=__doc__)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="drivlm-2b")
    parser.add_argument("--tokens", type=int, default=16384, help="of the pack")
    parser.add_argument("--repeat", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("runs/bench/kernels.json"))
    options = parser.parse_args(arguments)
    problems = kernels_problems(options) + unwritable(options.out)
    if problems:
        report_failure("\n".join(problems), on_all_ranks=True)
        return 2
    device = compute_device()
    config = text_config(PRESETS[options.preset].language, vocab_size=_VOCABULARY)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    timer = _Timer(device, options.repeat)
    rows = [*_attention(config, options.tokens, dtype, timer), *_operations(config, options.tokens, dtype, timer)]
    announce("\n".join(map(_line, rows)))
    write_json(options.out, [vars(row) for row in rows])
    return 0


class _Timer:
    """Median seconds of a call, after some that do not count."""

    def __init__(self, device: torch.device, repeat: int) -> None:
        self.device = device
        self._repeat = repeat

    def __call__(self, run: Callable[[], object]) -> float:
        for _ in range(3):
            run()
        return statistics.median(self._once(run) for _ in range(self._repeat))

    def _once(self, run: Callable[[], object]) -> float:
        if self.device.type != "cuda":
            begin = time.perf_counter()
            run()
            return time.perf_counter() - begin
        begin_event, end_event = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin_event.record()
        run()
        end_event.record()
        end_event.synchronize()
        return float(begin_event.elapsed_time(end_event)) / 1e3


def _attention(config: LlamaConfig, tokens: int, dtype: torch.dtype, timer: _Timer) -> Iterator[Timed]:
    settings = PackSettings(
        max_tokens=tokens,
        max_tiles=48,
        questions_per_visit=32,
        padded=False,
        tile_size=1,
        tokens_per_tile=max(1, tokens // 64),
        image_token=_VOCABULARY - 1,
    )
    (batch,) = random_batches(settings, CostModel(token=1.0, tile=0.0), 1)
    heads, kv_heads, width = _heads(config)
    shapes = [(1, n, len(batch.input_ids), width) for n in (heads, kv_heads, kv_heads)]
    states = [_drawn(*shape, device=timer.device, dtype=dtype) for shape in shapes]
    for name in BACKENDS:
        try:
            backend = choose_backend(name, timer.device, dtype, width)
        except AttentionError as refused:
            yield Timed(kernel="attention", implementation=name, obstacle=str(refused))
            continue
        layout = pack_layout(batch.groups, batch.segment_ids, backend).to(timer.device)

        def attend(*qkv: torch.Tensor, layout: Any = layout) -> torch.Tensor:
            return layout.plan.attend(*qkv, scale=width**-0.5, dropout=0.0)

        seconds = timer(_both_passes(attend, states))
        flops = 3.5 * 4 * heads * width * visible_pairs(layout)
        yield Timed(kernel="attention", implementation=name, seconds=seconds, tflops=flops / seconds / 1e12)


def _operations(config: LlamaConfig, tokens: int, dtype: torch.dtype, timer: _Timer) -> Iterator[Timed]:
    drawn = partial(_drawn, device=timer.device, dtype=dtype)
    heads, kv_heads, width = _heads(config)
    query, key = drawn(1, tokens, heads, width), drawn(1, tokens, kv_heads, width)
    norm = (drawn(1, tokens, config.hidden_size), torch.nn.Parameter(drawn(config.hidden_size).detach()))
    gates = [drawn(1, tokens, config.intermediate_size) for _ in range(2)]
    logits = drawn(min(tokens, _LABELS), config.vocab_size)
    targets = torch.zeros(len(logits), dtype=torch.int64, device=timer.device)
    angles = [drawn(1, tokens, width).detach() for _ in range(2)]
    for name in KERNELS:
        try:
            kernels = choose_fused(name, timer.device)
        except FusedError as refused:
            yield Timed(kernel="operations", implementation=name, obstacle=str(refused))
            continue

        def turned(q: torch.Tensor, k: torch.Tensor, rotary: Any = kernels.rotary) -> Any:
            return rotary(q.transpose(1, 2) * 1, k.transpose(1, 2) * 1, *angles)

        def normed(x: torch.Tensor, weight: torch.Tensor, rms_norm: Any = kernels.rms_norm) -> Any:
            return rms_norm(x, weight, 1e-5)

        def gated(gate: torch.Tensor, up: torch.Tensor, swiglu: Any = kernels.swiglu) -> Any:
            return swiglu(gate * 1, up * 1)  # Liger's writes gradients over its inputs

        def counted(scores: torch.Tensor, cross_entropy: Any = kernels.cross_entropy) -> Any:
            return cross_entropy(scores, targets)

        calls: dict[str, tuple[Callable[..., Any], Sequence[torch.Tensor]]] = {
            "RMSNorm": (normed, norm),
            "SwiGLU": (gated, gates),
            "rotary": (turned, (query, key)),
            "cross-entropy": (counted, (logits,)),
        }
        for kernel, (call, inputs) in calls.items():
            yield Timed(kernel=kernel, implementation=name, seconds=timer(_both_passes(call, inputs)))


def _heads(config: LlamaConfig) -> tuple[int, int, int]:
    """Query heads, key-value heads, and their width."""
    assert config.head_dim is not None
    assert config.num_key_value_heads is not None
    return config.num_attention_heads, config.num_key_value_heads, config.head_dim


def _drawn(*shape: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(*shape, device=device, dtype=dtype, requires_grad=True)


def _both_passes(call: Callable[..., Any], inputs: Sequence[torch.Tensor]) -> Callable[[], object]:
    def run() -> object:
        outs = call(*inputs)
        outs = outs if isinstance(outs, tuple) else (outs,)
        return torch.autograd.grad(outs, inputs, [torch.ones_like(out) for out in outs])

    return run


def _line(row: Timed) -> str:
    if row.seconds is None:
        return f"{row.kernel:<14}{row.implementation:<10}{row.obstacle}"
    rate = "" if row.tflops is None else f"{row.tflops:>10.4g} TFLOP/s"
    return f"{row.kernel:<14}{row.implementation:<10}{row.seconds * 1e3:>12.3f} ms{rate}"


if __name__ == "__main__":
    sys.exit(main())
