"""A frame's questions and the token count of each image come in; one shared prefix and a segment for each question come
out, cut at a special token, so that prefix + segment are the ids of the whole conversation tokenised at once."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from transformers import PreTrainedTokenizerFast

from data_shards.coords import DRIVELM, CoordinateFormat, model_text, point_spans
from data_shards.schema import CAMERAS, Question, RawFrame

TURN_START, STOP = "<|im_start|>", "<|im_end|>"
IMAGE_START, IMAGE_END, IMAGE_TOKEN = "<img>", "</img>", "<IMG_CONTEXT>"
BEGIN = "<s>"


class ChatError(ValueError):
    """A frame that cannot be written as a conversation; the message names key, field, got, expected and fix."""


@dataclass(frozen=True, kw_only=True)
class ChatTemplate:
    """How a conversation is written.

    Attributes:
        name: of `TEMPLATES`.
        system: system message; empty for none.
        turn_break: text after each `<|im_end|>`.
        coordinates: how the points of questions and answers are written.
    """

    name: str
    system: str = ""
    turn_break: str = ""
    coordinates: CoordinateFormat = DRIVELM

    def opening(self) -> str:
        """Everything before the user's turn."""
        return BEGIN + (f"{TURN_START}system\n{self.system}{STOP}{self.turn_break}" if self.system else "")

    def question(self, text: str) -> str:
        """The rest of the user's turn and the opening of the assistant's."""
        return f"{text}{STOP}{self.turn_break}{TURN_START}assistant\n"

    def jinja(self) -> str:
        """The same template for `tokenizer.chat_template`; an image item becomes one image token and a newline."""
        turn_break, opening = (json.dumps(text, ensure_ascii=False) for text in (self.turn_break, self.opening()))
        image, text = f"{{{{ '{IMAGE_TOKEN}\\n' }}}}", "{{ item['text'] }}"
        return (
            f"{{% if not messages or messages[0]['role'] != 'system' %}}{{{{ {opening} }}}}"
            f"{{% else %}}{{{{ '{BEGIN}' }}}}{{% endif %}}"
            "{% for message in messages %}"
            f"{{{{ '{TURN_START}' + message['role'] + '\\n' }}}}"
            "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
            "{% for item in message['content'] %}"
            f"{{% if item['type'] == 'image' %}}{image}{{% else %}}{text}{{% endif %}}"
            "{% endfor %}{% endif %}"
            f"{{{{ '{STOP}' + {turn_break} }}}}{{% endfor %}}"
            f"{{% if add_generation_prompt %}}{{{{ '{TURN_START}assistant\\n' }}}}{{% endif %}}"
        )


def internlm2_chat(*, system: str = "", coordinates: CoordinateFormat = DRIVELM) -> ChatTemplate:
    """InternLM2's template: no newline after `<|im_end|>`."""
    return ChatTemplate(name="internlm2-chat", system=system, coordinates=coordinates)


def chatml(*, system: str = "", coordinates: CoordinateFormat = DRIVELM) -> ChatTemplate:
    """ChatML: the same turns with a newline after each `<|im_end|>`."""
    return ChatTemplate(name="chatml", system=system, turn_break="\n", coordinates=coordinates)


TEMPLATES: Mapping[str, Callable[..., ChatTemplate]] = MappingProxyType(
    {"internlm2-chat": internlm2_chat, "chatml": chatml}
)
"""By the name that recipes and preprocessing files give."""

Spans = tuple[tuple[tuple[int, int], ...], ...]
"""(start, end) of some tokens, for each segment."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenSegments:
    """One frame as tokens: `prefix + segments[i]` is the conversation of question i.

    Attributes:
        prefix: int32 [P], ends after the last `</img>`, or after the system turn where there is no image.
        segments: int32 [n_i] for each question, in the order asked for.
        label_spans: (start, end) in each segment of the tokens to be learnt: one span for every answer in it.
        point_spans: (start, end) in each segment of the tokens that write a point; () where they were not looked for.
    """

    prefix: np.ndarray
    segments: tuple[np.ndarray, ...]
    label_spans: Spans
    point_spans: Spans = ()


def tokenize_frame(
    frame: RawFrame,
    tokens_per_image: Sequence[int],
    tokenizer: PreTrainedTokenizerFast,
    template: ChatTemplate,
    question_ids: Sequence[int] | None = None,
) -> TokenSegments:
    """Tokens of a frame with answers; what is learnt is every answer (whitespace around it removed) and its
    `<|im_end|>`, also those of the earlier turns of a question's conversation.

    Args:
        tokens_per_image: image tokens of each image of the frame, or one number where all views share one canvas.
        question_ids: which questions, by index; all where None.

    Raises:
        ChatError: a number of images or a question index that does not fit, or a special token inside a text.
    """
    return _tokenize(frame, tokens_per_image, tokenizer, template, question_ids, with_answers=True)


def tokenize_prompts(
    frame: RawFrame,
    tokens_per_image: Sequence[int],
    tokenizer: PreTrainedTokenizerFast,
    template: ChatTemplate,
    question_ids: Sequence[int] | None = None,
) -> TokenSegments:
    """As `tokenize_frame`, without last answers: a segment ends where the model begins to write; nothing is learnt."""
    return _tokenize(frame, tokens_per_image, tokenizer, template, question_ids, with_answers=False)


def prefix_text(frame: RawFrame, num_images: int, template: ChatTemplate) -> str:
    """Text of the prefix, with one image token standing for each image's tokens."""
    image = IMAGE_START + IMAGE_TOKEN + IMAGE_END
    if num_images == 0:
        return template.opening()
    names = list(frame.images) if num_images == len(frame.images) else [""] * num_images
    views = [f"{name}: {image}" if name in CAMERAS else image for name in names]
    return f"{template.opening()}{TURN_START}user\n" + "\n".join(views)


def segment_texts(question: Question, template: ChatTemplate, *, after_image: bool) -> list[str]:
    """A question's segment in pieces: prompt, answer, and for each further turn prompt and answer.

    Points are written in the template's coordinates.
    """
    pieces = []
    opening = "\n" if after_image else f"{TURN_START}user\n"
    for asked, answer in question.turns:
        asked, answer = (model_text(text, template.coordinates) for text in (asked, answer.strip()))
        pieces += [opening + template.question(asked), answer + STOP]
        opening = f"{template.turn_break}{TURN_START}user\n"
    return pieces


def _tokenize(
    frame: RawFrame,
    tokens_per_image: Sequence[int],
    tokenizer: PreTrainedTokenizerFast,
    template: ChatTemplate,
    question_ids: Sequence[int] | None,
    *,
    with_answers: bool,
) -> TokenSegments:
    chosen = range(len(frame.questions)) if question_ids is None else question_ids
    _check(frame, tokens_per_image, tokenizer, chosen)
    prefix = encode(tokenizer, prefix_text(frame, len(tokens_per_image), template))
    if len(tokens_per_image):
        repeats = np.ones(len(prefix), np.int64)
        repeats[prefix == tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)] = tokens_per_image
        prefix = np.repeat(prefix, repeats)
    pieces = [segment_texts(frame.questions[i], template, after_image=bool(len(tokens_per_image))) for i in chosen]
    if not with_answers:
        segments, _, _ = encode_segments(tokenizer, [["".join(parts[:-1])] for parts in pieces], where=frame.key)
        return TokenSegments(prefix=prefix, segments=segments, label_spans=((),) * len(segments))
    segments, labels, points = encode_segments(tokenizer, pieces, where=frame.key)
    return TokenSegments(prefix=prefix, segments=segments, label_spans=labels, point_spans=points)


def encode(tokenizer: PreTrainedTokenizerFast, text: str) -> np.ndarray:
    """Token ids of a text, int32 [n], with nothing added to it."""
    return np.asarray(tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids, dtype=np.int32)


def encode_segments(
    tokenizer: PreTrainedTokenizerFast, pieces: Sequence[Sequence[str]], *, where: str
) -> tuple[tuple[np.ndarray, ...], Spans, Spans]:
    """Tokens of segments, int32 [n_i] each, as they are behind a special token, the spans of their answers and of their
    points.

    Args:
        pieces: of each segment: prompt, answer, prompt, answer, ...
        where: for messages.

    Raises:
        ChatError: a token that spans the border between prompt and answer.
    """
    # A special token in front and dropped again: behind it no tokenizer treats the segment as the start of a text.
    texts = [IMAGE_END + "".join(parts) for parts in pieces]
    segments, labels, points = [], [], []
    for text, parts, encoding in zip(
        texts, pieces, tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False), strict=True
    ):
        borders = np.cumsum([len(IMAGE_END), *map(len, parts)])
        begins = [begin for begin, _ in encoding.offsets]
        tokens = np.searchsorted(begins, borders)
        for answer, border, token in zip(parts[1::2], borders[1::2], tokens[1::2], strict=False):
            if begins[token : token + 1] != [border]:
                raise ChatError(f"{where}: answer {answer[:40]!r}: its first characters join the prompt's last token")
        segments.append(np.asarray(encoding.ids[1:], dtype=np.int32))
        ends = (tokens - 1).tolist()
        labels.append(tuple(zip(ends[1::2], ends[2::2], strict=False)))
        points.append(_token_spans(begins, point_spans(text)))
    return tuple(segments), tuple(labels), tuple(points)


def _token_spans(begins: Sequence[int], spans: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Spans of characters as spans of the tokens that begin in them; the token in front of the segment not counted."""
    found = np.searchsorted(begins, np.array(spans, np.int64).reshape(-1, 2)) - 1
    return tuple((int(start), int(end)) for start, end in found)


def _check(
    frame: RawFrame, tokens_per_image: Sequence[int], tokenizer: PreTrainedTokenizerFast, chosen: Sequence[int]
) -> None:
    if len(tokens_per_image) not in (len(frame.images), 1) or (len(tokens_per_image) and not frame.images):
        raise ChatError(
            f"{frame.key}: field 'images': got token counts of {len(tokens_per_image)} images, "
            f"expected {len(frame.images)}, or 1 for a canvas of all views"
        )
    specials = tokenizer.all_special_tokens
    for i in chosen:
        if not 0 <= i < len(frame.questions):
            raise ChatError(f"{frame.key}: got question {i}, expected 0 to {len(frame.questions) - 1}")
        question = frame.questions[i]
        text = "\0".join(part for turn in question.turns for part in turn)
        found = [token for token in specials if token in text]
        if found:
            raise ChatError(f"{frame.key}: question {i}: got the special token {found[0]} inside its text; remove it")
