"""One row of a LLaVA, ShareGPT or InternVL file in, its images and turns out; what is unknown is refused by field."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from data_shards.schema import is_text

PLACEHOLDER = "<image>"
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_OTHER_MEDIA = ("video", "videos", "audio", "audios")
_RESERVED = (
    "<|im_start|>",
    "<|im_end|>",
    "<img>",
    "</img>",
    "<IMG_CONTEXT>",
    "<video>",
    "<audio>",
    "<s>",
    "</s>",
    "<unk>",
)
_AT_BEGINNING = re.compile(rf"\s*(?:{PLACEHOLDER}\s*)*")


class RowError(ValueError):
    """A row that cannot become a conversation."""

    def __init__(self, field: str, got: str, expected: str) -> None:
        super().__init__(f"field {field!r}: got {got}, expected {expected}")
        self.field, self.got, self.expected = field, got, expected


@dataclass(frozen=True, kw_only=True)
class RowRules:
    """What is done with rows that are not plain.

    Attributes:
        move_placeholders: take `<image>` out of the middle of user texts and show the images first; else refused.
        drop_system: leave system messages out; else refused, as the system message belongs to the chat template.
    """

    move_placeholders: bool = False
    drop_system: bool = False


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """A row: image paths relative to the image folder, and turns, each the user's text and the assistant's."""

    images: tuple[str, ...]
    turns: tuple[tuple[str, str], ...]


def parse_row(row: Any, rules: RowRules, *, num_images: int | None = None) -> Conversation:
    """Read a row.

    Images go before the first question, in the order of the row. `<image>` may stand at the beginning or the end of the
    first user text, once an image, or nowhere; an end is moved to the beginning, as LLaVA's own loader does.

    Args:
        row: `{"image" | "images", "conversations": [{"from", "value"}]}` or `{"images", "messages": [{"role",
            "content"}]}`; other fields are left alone.
        rules: what may be changed.
        num_images: where the images do not come from the row but from beside it; its own image field is then not read.

    Raises:
        RowError: the first field that is wrong.
    """
    if not isinstance(row, dict):
        raise RowError("row", type(row).__name__, "a JSON object")
    media = next((name for name in _OTHER_MEDIA if row.get(name)), None)
    if media:
        raise RowError(media, _short(row[media]), "images or text only")
    images = _images(row) if num_images is None else ()
    turns = _turns(row, rules)
    expected = len(images) if num_images is None else num_images
    return Conversation(images=images, turns=_without_placeholders(turns, expected, rules))


def _images(row: Mapping[str, Any]) -> tuple[str, ...]:
    given = [name for name in ("image", "images") if row.get(name)]
    if len(given) > 1:
        raise RowError("image", "both 'image' and 'images'", "one of the two")
    if not given:
        return ()
    value = row[given[0]]
    paths = value if isinstance(value, list) else [value]
    return tuple(_path(item.get("path") if isinstance(item, dict) else item, given[0]) for item in paths)


def _path(text: Any, field: str) -> str:
    if not isinstance(text, str) or not text or not is_text(text):
        raise RowError(field, _short(text), "the path of an image file below --images")
    if "://" in text or text.startswith("data:"):
        raise RowError(field, _short(text), "a file below --images, not an address")
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or "\0" in text or not path.parts:
        raise RowError(field, _short(text), "a path relative to --images without '..'")
    return str(path)


def _turns(row: Mapping[str, Any], rules: RowRules) -> list[tuple[str, str]]:
    field = "messages" if "messages" in row and "conversations" not in row else "conversations"
    items = row.get(field)
    if not isinstance(items, list) or not items:
        raise RowError(field, _short(items) if field in row else "nothing", "a list of turns")
    messages = [_message(item, f"{field}[{i}]") for i, item in enumerate(items)]
    system = [text for role, text in messages[:1] if role == "system"]
    if row.get("system"):
        system.append(str(row["system"]))
    if system and not rules.drop_system:
        raise RowError(
            "system", _short(system[0]), "none: it belongs to the chat template; --drop-system leaves it out"
        )
    messages = messages[1:] if messages[0][0] == "system" else messages
    for i, (role, _) in enumerate(messages):
        wanted = ("user", "assistant")[i % 2]
        if role != wanted:
            raise RowError(
                f"{field}[{len(items) - len(messages) + i}]", f"a turn of the {role}", f"one of the {wanted}"
            )
    if len(messages) % 2 or not messages:
        raise RowError(field, f"{len(messages)} turns", "an even number: each question with its answer")
    return [(messages[i][1], messages[i + 1][1]) for i in range(0, len(messages), 2)]


def _message(item: Any, where: str) -> tuple[str, str]:
    if not isinstance(item, dict):
        raise RowError(where, type(item).__name__, "an object with 'from' and 'value'")
    role, text = item.get("from", item.get("role")), item.get("value", item.get("content"))
    if not isinstance(role, str) or role not in _ROLES:
        raise RowError(f"{where}.from", _short(role), f"one of {', '.join(_ROLES)}")
    if not isinstance(text, str):
        raise RowError(f"{where}.value", type(text).__name__, "text")
    if not is_text(text):
        raise RowError(f"{where}.value", "half of a surrogate pair", "text that UTF-8 can write")
    found = next((token for token in _RESERVED if token in text), None)
    if found:
        raise RowError(f"{where}.value", f"{found} inside the text", "no special token")
    return _ROLES[role], text


def _without_placeholders(
    turns: Sequence[tuple[str, str]], num_images: int, rules: RowRules
) -> tuple[tuple[str, str], ...]:
    count = sum(question.count(PLACEHOLDER) for question, _ in turns)
    if count not in (0, num_images):
        raise RowError("conversations", f"{count} times {PLACEHOLDER}", f"{num_images}, one for each image, or none")
    cleaned = []
    for i, (question, answer) in enumerate(turns):
        if PLACEHOLDER in answer:
            raise RowError(f"answer {i}", f"{PLACEHOLDER} in it", "text only")
        text = _without_ends(question) if i == 0 and count else question
        if PLACEHOLDER in text and not rules.move_placeholders:
            raise RowError(
                f"question {i}",
                f"{PLACEHOLDER} at {text[: text.index(PLACEHOLDER)][-20:]!r}",
                "it at the beginning or the end of the first question only; --move-placeholders shows the images first",
            )
        text = re.sub(rf"\n?{PLACEHOLDER}", "", text)
        if not answer.strip() or not (text.strip() or (i == 0 and num_images)):
            raise RowError(f"turn {i}", "an empty text", "a question and an answer")
        cleaned.append((text.strip() if i == 0 else text, answer))
    return tuple(cleaned)


def _without_ends(question: str) -> str:
    """The question without the placeholders at its beginning and its end."""
    text = _AT_BEGINNING.sub("", question, count=1)
    while text.rstrip().endswith(PLACEHOLDER):
        text = text.rstrip().removesuffix(PLACEHOLDER)
    return text


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
