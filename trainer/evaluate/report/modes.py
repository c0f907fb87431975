"""Scored systems in, the report's tables of failure modes and of centre points as HTML out."""

from collections.abc import Mapping, Sequence
from typing import Any

from data_shards.schema import CAMERAS
from trainer.evaluate.report.charts import bars, legend
from trainer.evaluate.report.markup import number, table, text
from trainer.evaluate.report.systems import System
from trainer.evaluate.tags import MATCH_DISTANCE

_RULES = {
    "same_question": "one question of a frame, two answers",
    "listed_noticed": "noticed first, but not among the listed objects",
    "status_noticed": "two motions of one object",
    "sign_listed": "a sign or barrier that is listed as a vehicle, or the reverse",
    "behaviour_action": "steers left and is to turn right, or the reverse",
    "safe_collision": "an action both safe and leading to a collision",
}
_KINDS = {
    "integer": "whole-numbered tags",
    "spaced": "spaced tags",
    "bracketed": "tags in other brackets",
    "bare": "tags without brackets",
    "truncated": "tags cut off",
    "unknown_camera": "tags with an unknown camera",
    "out_of_view": "points outside of the view",
    "other_form": "tags of another form",
    "duplicate_id": "answers that use one id for two objects",
    "letter": "letters that were not offered",
    "yes_no": "other forms of yes and no",
    "loop": "answers that end in a loop",
    "line_break": "answers with a line break",
    "empty": "empty answers",
    "long": "answers too long to be read whole",
}

Cell = tuple[int, int | None, Sequence[str]]
"""How often, of how many (None: not out of anything), ids of the first questions."""


def failure_modes(systems: Sequence[System]) -> str:
    """One row a mode: what share of the answers, tags or objects fails, and the first question where it does."""
    listed = [_modes(system.scores["diagnosis"]) for system in systems]
    rows = []
    for name in dict.fromkeys(name for modes in listed for name in modes):
        cells = [modes.get(name, (0, 0, ())) for modes in listed]
        example = next((ids[0] for _, _, ids in cells if ids), "")
        rows.append(
            [text(name, 120), *map(_cell, cells), f"<code>{text(_short(example), 60)}</code>" if example else ""]
        )
    head = ("Failure mode", *(text(system.name, 60) for system in systems), "First one")
    return (
        f"<h3>Failure modes</h3>{table(head, rows, kind='numbers text-first text-last')}"
        "<p class='note'>Without the graph gate. Hallucination: tags without a partner in the reference within "
        f"{MATCH_DISTANCE:g} pixels; omission: reference tags without one. In brackets after a contradiction or copied "
        "tags: how often the references do the same.</p>"
    )


def _modes(diagnosis: Mapping[str, Any]) -> dict[str, Cell]:
    syntax, confusion, objects = diagnosis["syntax"], diagnosis["camera_confusion"], diagnosis["objects"]
    modes: dict[str, Cell] = {"Syntax: tag-like spans that are no tag": (syntax["failing"], syntax["spans"], ())}
    for kind, label in _KINDS.items():
        if kind in syntax["kinds"]:
            found = syntax["kinds"][kind]
            modes[f"Syntax: {label}"] = (found["count"], None, found["examples"])
    modes["Camera: matched points named at another camera"] = (
        confusion["wrong_camera"],
        confusion["matched"],
        confusion["examples"],
    )
    for kind, of in (("hallucination", "predicted"), ("omission", "reference")):
        for how, label in (("anywhere", "at any camera"), ("strictly", "same camera, L2")):
            found = objects[kind][how]
            modes[f"{kind.capitalize()}: {label}"] = (found["count"], objects[of], found["examples"])
    for name, found in diagnosis["attributes"].items():
        modes[f"Attribute: {name} of objects found"] = (found["wrong"], found["checked"], found["examples"])
    for rule, found in diagnosis["contradictions"].items():
        label = f"Contradiction: {_RULES[rule]}{_own(found['references'])}"
        modes[label] = (found["contradictory"], found["checked"], found["examples"])
    copied = diagnosis["copied_tags"]
    modes[f"Tags copied from the question{_own(copied['references'])}"] = (
        copied["copied"],
        copied["predicted"],
        copied["examples"],
    )
    return modes


def _own(share: float | None) -> str:
    return "" if share is None else f" ({100 * share:.0f} %)"


def _cell(cell: Cell) -> str:
    count, of, _ = cell
    if of is None:
        return str(count)
    return f"{100 * count / of:.1f} % <small>{count} of {of}</small>" if of else "–"


def _short(name: str) -> str:
    """An id whose scene and frame are cut to eight characters each."""
    return "_".join(part[:8] for part in name.split("_"))


def centre_points(systems: Sequence[System]) -> str:
    """Errors of points in pixels by camera and by distance of the object."""
    measured = [system.scores["diagnosis"]["centre_points"] for system in systems]
    groups = list(measured[0]["by_distance"])
    charts = _within([points["by_camera"] for points in measured], CAMERAS, "by camera", systems)
    if groups != ["unknown"]:
        charts += _within([points["by_distance"] for points in measured], groups, "by distance", systems)
    rows = [["<b>all</b>", *_errors([points["all"] for points in measured])]]
    rows += [[_camera(camera), *_errors([points["by_camera"][camera] for points in measured])] for camera in CAMERAS]
    rows += [[text(group), *_errors([points["by_distance"][group] for points in measured])] for group in groups]
    names = [text(system.name, 60) for system in systems]
    head = ("Points", *(f"{name}, {what}" for name in names for what in ("paired", "median px", "90 % px")))
    return (
        "<h3>Centre points</h3><p class='lead'>Every reference point with the nearest answered one at the same camera, "
        "however far that is.</p>"
        f'<div class="charts">{charts}</div>{table(head, rows, kind="numbers points")}'
    )


def _within(measured: Sequence[Mapping[str, Any]], groups: Sequence[str], by: str, systems: Sequence[System]) -> str:
    """A chart of the share of points that were hit, by group."""
    title = f"Points answered within {MATCH_DISTANCE:g} pixels, {by}"
    shares = {
        f"{_camera(group)} ({measured[0][group]['points']})": [points[group]["within"] or 0.0 for points in measured]
        for group in groups
    }
    names = legend([system.name for system in systems])
    return f"<figure><figcaption>{title}</figcaption>{names}{bars(shares, title=title)}</figure>"


def _errors(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        cell
        for row in rows
        for cell in (f"{row['paired']} of {row['points']}", number(row["median"], 1), number(row["p90"], 1))
    ]


def _camera(camera: str) -> str:
    return camera.removeprefix("CAM_").replace("_", " ").capitalize()
