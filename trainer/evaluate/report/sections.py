"""Scored systems in, the report's tables and charts as HTML out: everything above the gallery."""

from collections.abc import Mapping, Sequence
from typing import Any

from data_shards.schema import CAMERAS
from trainer.evaluate.objects import is_object_question
from trainer.evaluate.report.charts import bars, columns, legend
from trainer.evaluate.report.markup import number, table, text
from trainer.evaluate.report.points import camera_counts
from trainer.evaluate.report.published import PUBLISHED, SOURCE
from trainer.evaluate.report.systems import MEASURES, System, by_template, by_type, confusions, mean_credit
from trainer.evaluate.submission import count_problems

_TEMPLATES_SHOWN, _CONFUSIONS_SHOWN = 12, 8
_CELL_TEXT = 130
_LENGTHS = ((0, 0), (1, 1), (2, 5), (6, 10), (11, 20), (21, 40), (41, 80), (81, 10**9))
_HEADLINE = ("Accuracy", "GPT", "BLEU-1", "BLEU-4", "ROUGE_L", "CIDEr", "Match F1", "Match", "Final")


def headline(systems: Sequence[System], judge: str) -> str:
    """Official and ungated scores of each system, and the published ones."""
    rows = []
    for system in systems:
        official, ungated = system.scores["official"], system.scores["ungated"]
        counts = system.scores["counts"]
        scored = f"{counts['questions'] - counts['gated_out']} of {counts['questions']}"
        name, drawn = f"<b>{text(system.name, 60)}</b>", system.scores["intervals"]
        cells = _score_cells(official, system.scores["match_f1"], drawn["official"])
        rows.append([f"{name} official", scored, *cells])
        cells = _score_cells(ungated, ungated.get("match_f1"), drawn["ungated"])
        rows.append([f"{name} ungated", str(counts["questions"]), *cells])
    for entry in PUBLISHED:
        values = {**vars(entry), "language": vars(entry)}
        rows.append([f"{text(entry.name)} <sup>1</sup>", "server", *_score_cells(values, None)])
    judged = (
        "No judge was asked: GPT, match and final need one (<code>--judge</code>)."
        if judge == "none"
        else f"GPT is the judge <code>{text(judge, 80)}</code> here; the published rows were judged by GPT."
    )
    return (
        table(("System", "Scored", *_HEADLINE), rows, kind="numbers headline")
        + "<p class='note'>Official: DriveLM's graph gate drops every question about a point that the frame's first "
        "answer did not find, so systems are scored on different questions; ungated counts all. Match is the mean of "
        f"100 Match F1 and the judge's rating. Small: 95 % intervals from drawing whole scenes. {judged}</p>"
        f"<p class='note'><sup>1</sup> {text(SOURCE)}. Only scores on the same questions compare.</p>"
    )


def _score_cells(
    values: Mapping[str, Any], match_f1: float | None, intervals: Mapping[str, Any] | None = None
) -> list[str]:
    language, drawn = values.get("language") or {}, intervals or {}
    drawn_language = drawn.get("language") or {}
    return [
        _score(values.get("accuracy"), 4, drawn.get("accuracy")),
        _score(values.get("chatgpt"), 2, drawn.get("chatgpt")),
        *(_score(language.get(name), 4, drawn_language.get(name)) for name in ("bleu_1", "bleu_4", "rouge_l", "cider")),
        _score(match_f1, 4, drawn.get("match_f1")),
        _score(values.get("match"), 2, drawn.get("match")),
        _score(values.get("final"), 4, drawn.get("final")),
    ]


def _score(value: float | None, digits: int, interval: Sequence[float] | None) -> str:
    """A score, and small below it the interval where there is one."""
    if value is None or interval is None:
        return number(value, digits)
    low, high = (number(end, digits - 1) for end in interval)
    return f"{number(value, digits)}<small>{low}–{high}</small>"


def charts(systems: Sequence[System]) -> str:
    """Credit by question type, and lengths of the answers beside those of the references."""
    names = [system.name for system in systems]
    kinds = by_type(systems[0].graded)
    credit = {
        f"{kind}, {MEASURES[bucket]} ({len(kinds[kind, bucket])})": [
            mean_credit(by_type(system.graded)[kind, bucket]) for system in systems
        ]
        for kind, bucket in kinds
    }
    words = [[len(g.question.answer.split()) for g in systems[0].graded]]
    words += [[len(g.answer.split()) for g in system.graded] for system in systems]
    lengths = {
        _length_label(low, high): [sum(low <= count <= high for count in row) / max(1, len(row)) for row in words]
        for low, high in _LENGTHS
    }
    return (
        f"<figure><figcaption>Accuracy (or ROUGE_L, F1) by question type, without the gate</figcaption>{legend(names)}"
        f"{bars(credit, title='Accuracy by question type')}</figure>"
        "<figure><figcaption>Words in an answer, % of all answers</figcaption>"
        f"{legend(['reference', *names], first=-1)}"
        f"{columns(lengths, title='Lengths of the answers in words')}</figure>"
    )


def _length_label(low: int, high: int) -> str:
    return str(low) if low == high else f"{low}+" if high >= 10**9 else f"{low}–{high}"


def failures(systems: Sequence[System]) -> str:
    """Problems by kind, frequent confusions, and the wordings answered worst."""
    wrong = "".join(map(_confusions, systems))
    return f'{_problems(systems)}<div class="matrices">{wrong}</div>{_templates(systems)}'


def _problems(systems: Sequence[System]) -> str:
    counts = [{**system.scores["counts"]["failures"], **count_problems(system.problems)} for system in systems]
    first: dict[str, str] = {}
    for system in systems:
        for problem in system.problems:
            first.setdefault(problem.kind, f"{problem.id}: {problem.detail}")
        for failure in system.scores["failures"]:
            first.setdefault(failure["kind"], f"{failure['id']}: {failure['detail']}")
    kinds = sorted({kind for row in counts for kind in row})
    if not kinds:
        return "<h3>Form of the answers</h3><p>Nothing to report.</p>"
    rows = [
        [f"<code>{text(kind)}</code>", *(str(row.get(kind, 0)) for row in counts), text(first[kind], _CELL_TEXT)]
        for kind in kinds
    ]
    head = ("Problem", *(text(system.name, 60) for system in systems), "First one")
    return f"<h3>Form of the answers</h3>{table(head, rows, kind='numbers text-last')}"


def _confusions(system: System) -> str:
    common = confusions(system.graded).most_common(_CONFUSIONS_SHOWN)
    rows = [
        [text(reference, _CELL_TEXT), text(answer, _CELL_TEXT) or "<i>nothing</i>", str(count)]
        for (reference, answer), count in common
    ]
    body = table(("Reference", "Answer", "Times"), rows, kind="texts") if rows else "<p>No wrong answer.</p>"
    return f"<div><h3>{text(system.name, 60)}: most frequent wrong answers</h3>{body}</div>"


def _templates(systems: Sequence[System]) -> str:
    grouped = [by_template(system.graded) for system in systems]
    lost = {name: len(group) * (1 - mean_credit(group)) for name, group in grouped[0].items()}
    worst = sorted(lost, key=lost.__getitem__, reverse=True)[:_TEMPLATES_SHOWN]
    rows = [
        [
            text(template, _CELL_TEXT),
            MEASURES[grouped[0][template][0].bucket],
            str(len(grouped[0][template])),
            *(number(mean_credit(groups[template]), 3) for groups in grouped),
        ]
        for template in worst
    ]
    head = ("Question", "Measure", "Asked", *(text(system.name, 60) for system in systems))
    title = f"Questions on which {text(systems[0].name, 60)} loses most"
    return f"<h3>{title}</h3>{table(head, rows, kind='numbers text-first')}"


def camera_matrices(systems: Sequence[System]) -> str:
    """For each system which camera an object was named at, by the camera where it is: by class, and by its point."""
    figures = []
    for system in systems:
        name = text(system.name, 60)
        asked = [g for g in system.graded if is_object_question(g.question.question)]
        by_class = camera_counts((g.answer, g.question.answer) for g in asked)
        confusion = system.scores["diagnosis"]["camera_confusion"]
        by_point = {
            (reference, named): count
            for reference, row in zip(CAMERAS, confusion["matrix"], strict=True)
            for named, count in zip(CAMERAS, row, strict=True)
        }
        figures.append(_camera_matrix(by_class, name, "listed objects, paired by class"))
        figures.append(_camera_matrix(by_point, name, "points, paired within 16 pixels"))
    return '<div class="matrices">' + "".join(figures) + "</div>"


def _camera_matrix(counts: Mapping[tuple[str, str], int], name: str, what: str) -> str:
    """The caption says how many of what are at their own camera; `name` is markup already."""
    short = [camera.removeprefix("CAM_").replace("_", " ").capitalize() for camera in CAMERAS]
    rows = []
    for reference, label in zip(CAMERAS, short, strict=True):
        total = sum(counts[reference, named] for named in CAMERAS)
        cells = "".join(
            f'<td style="--p:{100 * counts[reference, named] / total if total else 0:.0f}%"'
            f"{' class=own' if named == reference else ''}>{counts[reference, named] or ''}</td>"
            for named in CAMERAS
        )
        rows.append(f'<tr><th scope="row">{label}</th>{cells}</tr>')
    head = "".join(f'<th scope="col">{label}</th>' for label in short)
    total = sum(counts.values())
    right = sum(counts[camera, camera] for camera in CAMERAS)
    return (
        f"<figure><figcaption>{name}: {right} of {total} {what}</figcaption>"
        f'<div class="scroll"><table class="matrix"><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></figure>"
    )
