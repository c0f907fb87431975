"""Scored systems and frames in, one self-contained HTML page out: it requests nothing and runs only its own script."""

import base64
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_shards.schema import RawFrame
from trainer.evaluate.report.gallery import FrameRows, Pictures, frame_markup, group_by_frame, spread
from trainer.evaluate.report.markup import text
from trainer.evaluate.report.modes import centre_points, failure_modes
from trainer.evaluate.report.sections import camera_matrices, charts, failures, headline
from trainer.evaluate.report.systems import RIGHT_FROM, System, by_type

MAX_PAGE = 9_600_000
"""Bytes; what texts leave of it is shared among the pictures."""

_MAX_TEXTS = 5_500_000
_MAX_TOP, _SMALLEST_PICTURE = 300_000, 12_000
_HERE = Path(__file__).parent

FindFrame = Callable[[str], RawFrame | None]
"""Key of a frame in, the frame with its images out; None where the data have none."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """The page, how many frames of how many its gallery shows, and the views that could not be shown."""

    html: bytes
    num_frames: int
    num_all_frames: int
    problems: tuple[str, ...]


def make_page(systems: Sequence[System], find_frame: FindFrame, *, max_frames: int, judge: str, title: str) -> Page:
    """Put the page together, below 10 MB: long texts are cut, pictures are made as small as their number asks for.

    Args:
        systems: at least one, graded on the same questions.
        find_frame: where the pictures come from.
        max_frames: most frames of the gallery, evenly spaced among all.
        judge: name of the judge that was asked.
        title: heading.
    """
    everything = group_by_frame(systems)
    names = [system.name for system in systems]
    frames = _that_fit(spread(everything, max_frames), names)
    top = _top(systems, judge=judge, title=title, shown=len(frames), num_frames=len(everything))
    texts = sum(len(frame_markup(frame, names, "").encode()) for frame in frames)
    budget = (MAX_PAGE - len(top.encode()) - texts) * 3 // 4 // max(1, len(frames))
    pictures = Pictures(budget)
    parts = [top]
    for frame in frames:
        found = find_frame(frame.key)
        parts.append(frame_markup(frame, names, pictures.uri(found) if found and found.images else ""))
    parts.append(f"</section></main><script>{_script()}</script></body></html>\n")
    return Page(
        html="".join(parts).encode(),
        num_frames=len(frames),
        num_all_frames=len(everything),
        problems=tuple(pictures.problems),
    )


def _that_fit(frames: Sequence[FrameRows], names: Sequence[str]) -> list[FrameRows]:
    """As many frames, evenly spaced, as the page has room for, with texts and the smallest pictures."""
    sizes = [len(frame_markup(frame, names, "").encode()) for frame in frames]
    count = min(len(frames), (MAX_PAGE - _MAX_TOP) // _SMALLEST_PICTURE)

    def texts() -> int:
        return sum(sizes[place * len(frames) // count] for place in range(count))

    while count > 1 and texts() > min(_MAX_TEXTS, MAX_PAGE - _MAX_TOP - count * _SMALLEST_PICTURE):
        count -= 1
    return spread(frames, count)


def _top(systems: Sequence[System], *, judge: str, title: str, shown: int, num_frames: int) -> str:
    questions = len(systems[0].graded)
    script_hash = base64.b64encode(hashlib.sha256(_script().encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{script_hash}'"
    style = (_HERE / "page.css").read_text(encoding="utf-8")
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>{text(title)}</title>
<style>{style}</style></head><body><main>
<h1>{text(title)}</h1>
<p class="lead">{questions:,} questions on {num_frames:,} key frames; {text(", ".join(s.name for s in systems))}</p>
<nav><a href="#scores">Scores</a><a href="#failures">Failures</a><a href="#cameras">Cameras</a>
<a href="#points">Points</a><a href="#gallery">Gallery</a></nav>
<h2 id="scores">Scores</h2>{headline(systems, judge)}
<h2>By question type</h2><div class="charts">{charts(systems)}</div>
<h2 id="failures">Failures</h2>{failure_modes(systems)}{failures(systems)}
<h2 id="cameras">Cameras</h2><p class="lead">Rows: where an object of the reference is. Columns: the camera it was named
at.</p>{camera_matrices(systems)}
<div id="points">{centre_points(systems)}</div>
<section id="gallery"><h2>Gallery</h2>{_filters(systems)}
<p class="lead">{shown:,} of {num_frames:,} frames. Right is: equal to the reference where accuracy is scored,
F1 or ROUGE_L of at least {RIGHT_FROM} elsewhere. Choose a question to see its points.</p>{_KEY}
"""


_KEY = """<p class="key"><span><svg viewBox="0 0 16 16"><circle cx="8" cy="8" r="6" fill="none" stroke="#1fb573"
stroke-width="2.5"/></svg>reference point</span><span><svg viewBox="0 0 16 16"><path d="M3 3L13 13M3 13L13 3"
stroke="#e8930c" stroke-width="2.5"/></svg>predicted point</span><span><svg viewBox="0 0 16 16"><rect x="2" y="2"
width="12" height="12" fill="none" stroke="#2a9fd8" stroke-width="2.5"/></svg>point of the question</span></p>
"""


def _filters(systems: Sequence[System]) -> str:
    names = "".join(f'<option value="{place}">{text(system.name, 60)}</option>' for place, system in enumerate(systems))
    types = by_type(systems[0].graded)
    kinds = dict.fromkeys(kind for kind, _ in types)
    options = "".join(
        f'<option value="{text(kind)}">{text(kind)}</option>'
        + "".join(
            f'<option value="{text(kind)}-{bucket}">{text(kind)}: {bucket}</option>'
            for other, bucket in types
            if other == kind
        )
        for kind in kinds
    )
    return f"""<div class="filters"><label>System <select id="system">{names}</select></label>
<label>Type <select id="type"><option value="">all</option>{options}</select></label>
<label>Outcome <select id="outcome"><option value="">all</option><option>right</option><option>wrong</option></select>
</label>
<label>Text <input id="text" type="search" size="18"></label><span id="shown"></span></div>"""


def _script() -> str:
    return (_HERE / "page.js").read_text(encoding="utf-8")
