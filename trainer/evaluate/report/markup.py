"""Any text in, text that is safe inside HTML out; answers come from models and files, and are never trusted."""

import html
import re
from collections.abc import Iterable, Sequence

MAX_SHOWN = 700
"""Characters of a question or an answer that are shown, and up to a quarter more; a longer rest is counted."""

_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def text(value: object, limit: int = MAX_SHOWN) -> str:
    """Escaped text, for element content and quoted attributes alike; control characters become U+FFFD."""
    shown = str(value)
    rest = len(shown) - limit
    if rest > limit // 4:
        shown = f"{shown[:limit]} … ({rest:,} more characters)"
    return html.escape(_UNPRINTABLE.sub("\ufffd", shown), quote=True)


def number(value: float | None, digits: int) -> str:
    """A number with its decimals, a dash for none."""
    return "–" if value is None else f"{value:.{digits}f}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, kind: str = "") -> str:
    """A table of cells that are markup already; the first of each row heads it."""
    heads = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>' for row in rows
    )
    return (
        f'<div class="scroll"><table class="{kind}"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'
    )
