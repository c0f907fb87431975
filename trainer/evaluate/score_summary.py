"""Scores in, the lines `python -m trainer.evaluate score` prints out."""

from typing import Any


def summary(scores: dict[str, Any]) -> str:
    """Official scores with their intervals, what the gate dropped, a comparison, failures by kind."""
    official, counts = scores["official"], scores["counts"]
    intervals = scores["intervals"]["official"]
    language = official["language"] or {}
    rows = {name: (official[name], intervals.get(name)) for name in ("accuracy", "chatgpt", "match", "final")}
    rows |= {name: (value, intervals["language"][name]) for name, value in language.items()}
    if scores["benchmark"] != "drivelm":
        rows = {"accuracy": rows["accuracy"]}
    lines = [f"{name:9} {_number(value)}{_interval(interval)}" for name, (value, interval) in rows.items()]
    if scores["benchmark"] == "drivelm":
        eligible = counts["questions"] - counts["gated_out"]
        lines.append(f"scored after the graph gate: {eligible} of {counts['questions']} questions")
        lines.append(f"without the gate: accuracy {_number(scores['ungated']['accuracy'])}")
        strict = scores["strict"]
        lines.append(f"match F1 {scores['match_f1']:.4f}; same camera and L2: {strict['match_f1']:.4f}")
    if "comparison" in scores:
        lines += _comparison(scores["comparison"], "without the gate" if scores["benchmark"] == "drivelm" else "")
    lines += [f"failures: {number} {kind}" for kind, number in counts["failures"].items()]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "needs a judge" if value is None else f"{value:.4f}"


def _interval(interval: list[float] | None) -> str:
    return f"  [{interval[0]:.4f}, {interval[1]:.4f}]" if interval else ""


def _comparison(comparison: dict[str, Any], title: str) -> list[str]:
    rows = comparison["scores"]
    width = max(map(len, [title, *rows]))
    lines = [f"{title:{width}} {'before':>9} {'after':>9} {'change':>9}"]
    for name, row in rows.items():
        values = f"{row['before']:9.4f} {row['after']:9.4f} {row['difference']:+9.4f}"
        lines.append(f"{name:{width}} {values}{_interval(row['interval'])}")
    lines += [f"failures before: {number} {kind}" for kind, number in comparison["failures"]["before"].items()]
    return lines
