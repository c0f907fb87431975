"""Results of the suite in; tables in Markdown, ready for docs/BENCHMARKS.md, out."""

from collections.abc import Mapping, Sequence
from typing import Any

from trainer.memory import GIB

QUESTIONS = 377_956
"""Of an epoch of DriveLM's training set."""

CHECKS, ALONE = "kernels against float64", "kernels alone"
"""Names of the parts that are no stages."""

STOCK = "transformers padded"
"""How parts end whose model and batches are transformers' own."""

_OVER_STOCK = (
    ("questions/s, shared prefixes over transformers padded", "finetune", f"finetune, {STOCK}"),
    ("questions/s, classic packs over transformers padded (aim 1.3)", "finetune, classic packs", f"finetune, {STOCK}"),
    ("questions/s in the mixture, over transformers padded", "mixture", f"mixture, {STOCK}"),
    (
        "questions/s in the mixture, classic packs over transformers padded (aim 1.3)",
        "mixture, classic packs",
        f"mixture, {STOCK}",
    ),
)
"""What the aims against transformers with DeepSpeed are stated in (docs/BENCHMARKS.md), and the parts of each ratio."""


def page(about: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> str:
    """All tables.

    Args:
        about: machine and versions, see `trainer.bench.suite`.
        results: as `trainer.bench.suite.PartResult`, in their order.
    """
    line = ", ".join(f"{name} {value}" for name, value in about.items())
    stages = [row for row in results if row["name"] not in (CHECKS, ALONE) and row["status"] == "done"]
    blocks = [f"`python -m trainer.bench.suite`: {line}", _rates(stages), _ratios(stages), _parts(stages)]
    blocks += [_kernels(row["figures"]) for row in results if row["name"] == ALONE and row["figures"]]
    blocks.append(_status(results))
    return "\n\n".join(block for block in blocks if block) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines)


def _rates(stages: Sequence[Mapping[str, Any]]) -> str:
    head = ["", "step, s", "tokens/s", "tiles/s", "questions/s", "useful MFU", "peak, GiB", "estimated"]
    head += ["data wait", "communication"]
    rows = []
    for row in stages:
        found = row["figures"]
        mfu, peak = found["useful_mfu"], found["memory"]["measured_peak"]
        rates = [f"{found[name]:.4g}" for name in ("tokens_per_s", "tiles_per_s", "questions_per_s")]
        memory = ["-" if peak is None else f"{peak / GIB:.1f}", f"{found['memory']['estimated']['peak'] / GIB:.1f}"]
        shares = [f"{found['shares'].get(name, 0.0):.1%}" for name in ("data wait", "communication")]
        step = f"{found['median_step_seconds']:.3f}"
        rows.append([row["name"], step, *rates, "-" if mfu is None else f"{mfu:.3f}", *memory, *shares])
    return _table(head, rows) if rows else ""


def _ratios(stages: Sequence[Mapping[str, Any]]) -> str:
    """What the aims of docs/BENCHMARKS.md are stated in."""
    figures = {row["name"]: row["figures"] for row in stages}
    wanted = (
        *((*names, "questions_per_s") for names in _OVER_STOCK),
        ("questions/s, shared prefixes over classic packs", "finetune", "finetune, classic packs", "questions_per_s"),
        ("questions/s, shared prefixes over padded batches", "finetune", "finetune, padded", "questions_per_s"),
        ("questions/s in the mixture, over classic packs", "mixture", "mixture, classic packs", "questions_per_s"),
        (
            "tiles/s, cached targets over the online teacher",
            "distill, cached targets",
            "distill, online teacher",
            "tiles_per_s",
        ),
        ("tokens/s, chosen kernels over plain ones", "finetune", "finetune, plain kernels", "tokens_per_s"),
    )
    rows = [
        [label, f"{figures[one][rate] / figures[two][rate]:.2f}"]
        for label, one, two, rate in wanted
        if one in figures and two in figures
    ]
    if "finetune" in figures:
        minutes = QUESTIONS / figures["finetune"]["questions_per_s"] / 60
        rows.append([f"minutes of one GPU for an epoch of {QUESTIONS:,} questions, stage 2", f"{minutes:.1f}"])
    if "align" in figures:
        shares = figures["align"]["flop_shares"].items()
        forward = sum(share for name, share in shares if name.endswith("forward"))
        rows.append(["share of align's useful FLOPs that forward passes are", f"{forward:.3f}"])
    online = figures.get("distill, online teacher")
    if online and online["teacher_mfu"] is not None:
        rows.append(["MFU of the teacher's forward passes", f"{online['teacher_mfu']:.3f}"])
    return _table(["", ""], rows) if rows else ""


def _parts(stages: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [
            row["name"],
            ", ".join(f"{part} {times['median'] * 1e3:.1f}" for part, times in row["figures"]["seconds"].items()),
        ]
        for row in stages
    ]
    return _table(["", "parts of a step, median ms"], rows) if rows else ""


def _kernels(rows: Sequence[Mapping[str, Any]]) -> str:
    shown = []
    for row in rows:
        done = row["seconds"] is not None
        took = f"{row['seconds'] * 1e3:.3f}" if done else row["obstacle"]
        shown.append([row["kernel"], row["implementation"], took, f"{row['tflops']:.4g}" if row["tflops"] else "-"])
    return _table(["kernel", "implementation", "forward and backward, ms", "TFLOP/s"], shown)


def _status(results: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for row in results:
        last = row["said"][-1].replace("|", "/") if row["said"] else ""
        tells = row["status"] != "done" or row["name"] == CHECKS
        rows.append([row["name"], row["status"], f"{row['seconds']:.0f}", last if tells else "", f"`{row['command']}`"])
    return _table(["part", "status", "s", "last line", "command"], rows)
