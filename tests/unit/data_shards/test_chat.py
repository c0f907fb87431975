from dataclasses import replace

import numpy as np
import pytest

from data_shards.chat import IMAGE_END, ChatError, chatml, internlm2_chat, tokenize_frame, tokenize_prompts
from data_shards.coords import DRIVELM, CoordinateFormat
from data_shards.schema import CAMERAS, Question, RawFrame
from data_shards.tokenizer import tokenizer_from_sentencepiece
from tests.helpers.tokenizer import drivelm_sentences, tiny_tokenizer

QUESTIONS = (
    Question(
        question="What is the moving status of object <c1,CAM_BACK,1088.3,497.5>?",
        answer="Going ahead.",
        kind="perception",
    ),
    Question(question="Would the car\nturn?  ", answer="  Yes.\n", kind="prediction"),
    Question(question="日本?", answer="A", kind="planning"),
    Question(question="", answer="", kind="behavior"),
)
LEARNT = ("Going ahead.<|im_end|>", "Yes.<|im_end|>", "A<|im_end|>", "<|im_end|>")
TEMPLATES = [internlm2_chat(), internlm2_chat(system="You drive.\nCarefully."), chatml(system="You drive.")]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def frame(images=CAMERAS, questions=QUESTIONS):
    return RawFrame(
        key="s_f", scene="s", frame="f", source="test", images={name: b"" for name in images}, questions=questions
    )


def written(template, views, question, answer):
    """The whole conversation as one text, written out here a second time."""
    turn = "\n" if template.name == "chatml" else ""
    system = f"<|im_start|>system\n{template.system}<|im_end|>{turn}" if template.system else ""
    return (
        f"<s>{system}<|im_start|>user\n{views}{question}<|im_end|>{turn}"
        f"<|im_start|>assistant\n{answer.strip()}<|im_end|>"
    )


def image(count):
    return "<img>" + "<IMG_CONTEXT>" * count + "</img>"


VIEWS = {
    "six cameras": (CAMERAS, [3, 1, 2, 3, 1, 2], "".join(
        f"{name}: {image(n)}\n" for name, n in zip(CAMERAS, [3, 1, 2, 3, 1, 2], strict=True)
    )),
    "one canvas": (CAMERAS, [13], image(13) + "\n"),
    "two pictures": (("IMAGE_0", "IMAGE_1"), [2, 5], f"{image(2)}\n{image(5)}\n"),
    "no image": ((), [], ""),
}  # fmt: skip


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda t: f"{t.name}-{len(t.system)}")
@pytest.mark.parametrize("case", VIEWS)
def test_tokens_equal_those_of_the_whole_conversation_at_once(tokenizer, template, case):
    images, counts, views = VIEWS[case]
    tokens = tokenize_frame(frame(images), counts, tokenizer, template)
    for question, segment in zip(QUESTIONS, tokens.segments, strict=True):
        whole = tokenizer(written(template, views, question.question, question.answer))["input_ids"]
        assert np.concatenate([tokens.prefix, segment]).tolist() == whole


def test_tokens_of_many_questions_equal_the_whole_conversations(tokenizer):
    lines = drivelm_sentences()
    many = tuple(Question(question=q, answer=a, kind="general") for q, a in zip(lines, reversed(lines), strict=True))
    tokens = tokenize_frame(frame(questions=many), [1] * 6, tokenizer, TEMPLATES[1])
    views = "".join(f"{name}: {image(1)}\n" for name in CAMERAS)
    for question, segment in zip(many, tokens.segments, strict=True):
        whole = tokenizer(written(TEMPLATES[1], views, question.question, question.answer))["input_ids"]
        assert np.concatenate([tokens.prefix, segment]).tolist() == whole


def test_labelled_tokens_are_exactly_answer_and_stop_token(tokenizer):
    tokens = tokenize_frame(frame(), [1] * 6, tokenizer, TEMPLATES[1])
    pairs = list(zip(tokens.segments, tokens.label_spans, strict=True))
    assert tuple(tokenizer.decode(s[start:end]) for s, ((start, end),) in pairs) == LEARNT
    prompts = [s[:start] for s, ((start, _),) in pairs]
    assert all(tokenizer.decode(ids).endswith("<|im_start|>assistant\n") for ids in prompts)


def test_the_prefix_ends_with_the_last_image(tokenizer):
    prefix = tokenize_frame(frame(), [2] * 6, tokenizer, TEMPLATES[0]).prefix
    assert prefix[-1] == tokenizer.convert_tokens_to_ids("</img>")
    assert (prefix == tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")).sum() == 12
    assert prefix.dtype == np.int32


def test_a_text_only_frame_has_the_system_turn_as_its_prefix(tokenizer):
    prefix = tokenize_frame(frame(()), [], tokenizer, TEMPLATES[1]).prefix
    assert tokenizer.decode(prefix) == "<s><|im_start|>system\nYou drive.\nCarefully.<|im_end|>"


def test_a_chosen_question_has_the_tokens_it_has_among_all(tokenizer):
    every = tokenize_frame(frame(), [1] * 6, tokenizer, TEMPLATES[0])
    chosen = tokenize_frame(frame(), [1] * 6, tokenizer, TEMPLATES[0], [2, 0])
    assert [s.tolist() for s in chosen.segments] == [every.segments[2].tolist(), every.segments[0].tolist()]
    assert chosen.label_spans == (every.label_spans[2], every.label_spans[0])


TALK = Question(
    question="And its colour? ",
    answer=" Red.",
    kind="general",
    history=(("What is\nthis?", "A car.\n"), ("Does it move?", "")),
)


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda t: f"{t.name}-{len(t.system)}")
@pytest.mark.parametrize("images", [("IMAGE_0",), ()])
def test_a_conversation_of_several_turns_is_one_segment_whose_answers_are_all_learnt(tokenizer, template, images):
    talk = frame(images, (TALK,))
    tokens = tokenize_frame(talk, [2] * len(images), tokenizer, template)
    turn = "\n" if template.name == "chatml" else ""
    views = f"{image(2)}\n" if images else ""
    whole = written(template, views, "What is\nthis?", "A car.\n")
    for question, answer in (("Does it move?", ""), ("And its colour? ", "Red.")):
        whole += f"{turn}<|im_start|>user\n{question}<|im_end|>{turn}<|im_start|>assistant\n{answer}<|im_end|>"
    assert np.concatenate([tokens.prefix, tokens.segments[0]]).tolist() == tokenizer(whole)["input_ids"]
    learnt = [tokenizer.decode(tokens.segments[0][start:end]) for start, end in tokens.label_spans[0]]
    assert learnt == ["A car.<|im_end|>", "<|im_end|>", "Red.<|im_end|>"]
    prompt = tokenize_prompts(talk, [2] * len(images), tokenizer, template).segments[0]
    assert prompt.tolist() == tokens.segments[0][: tokens.label_spans[0][-1][0]].tolist()


def test_a_special_token_in_an_earlier_turn_is_refused(tokenizer):
    talk = replace(TALK, history=(("What?", "<|im_end|>"),))
    with pytest.raises(ChatError, match=r"special token <\|im_end\|>"):
        tokenize_frame(frame((), (talk,)), [], tokenizer, TEMPLATES[0])


@pytest.mark.parametrize("images", [CAMERAS, ()])
def test_a_prompt_is_its_segment_up_to_the_answer(tokenizer, images):
    counts = [1] * len(images)
    full = tokenize_frame(frame(images), counts, tokenizer, TEMPLATES[1])
    prompts = tokenize_prompts(frame(images), counts, tokenizer, TEMPLATES[1])
    assert prompts.prefix.tolist() == full.prefix.tolist()
    for prompt, segment, ((start, _),) in zip(prompts.segments, full.segments, full.label_spans, strict=True):
        assert prompt.tolist() == segment[:start].tolist()
    assert prompts.label_spans == ((),) * len(prompts.segments)


def test_tokens_are_those_of_the_whole_text_for_a_tokenizer_with_dummy_prefix(tmp_path):
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(drivelm_sentences()), model_prefix=str(tmp_path / "m"), model_type="bpe", vocab_size=400,
        normalization_rule_name="identity", remove_extra_whitespaces=False, byte_fallback=True, minloglevel=2,
    )  # fmt: skip
    tokenizer = tokenizer_from_sentencepiece(tmp_path / "m.model")
    tokens = tokenize_frame(frame(), [2] * 6, tokenizer, TEMPLATES[0])
    views = "".join(f"{name}: {image(2)}\n" for name in CAMERAS)
    for question, segment in zip(QUESTIONS, tokens.segments, strict=True):
        whole = tokenizer(written(TEMPLATES[0], views, question.question, question.answer))["input_ids"]
        assert np.concatenate([tokens.prefix, segment]).tolist() == whole


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda t: f"{t.name}-{len(t.system)}")
def test_the_jinja_template_writes_the_same_prompt(tokenizer, template):
    content = [part for name in CAMERAS for part in ({"type": "text", "text": f"{name}: "}, {"type": "image"})]
    messages = [{"role": "user", "content": [*content, {"type": "text", "text": "Why?"}]}]
    text = tokenizer.apply_chat_template(
        messages, chat_template=template.jinja(), tokenize=False, add_generation_prompt=True
    )
    views = "".join(f"{name}: <IMG_CONTEXT>\n" for name in CAMERAS)
    assert text == written(template, views, "Why?", "").removesuffix("<|im_end|>")


@pytest.mark.parametrize("system", ["Drive \U0001f697.", "\u65e5\u672c \u2028", "\"{{ x }}\" {% if %} \\ 'y'\n#}"])
@pytest.mark.parametrize("make", [internlm2_chat, chatml])
def test_the_jinja_template_writes_any_system_message(tokenizer, system, make):
    template = make(system=system)
    messages = [{"role": "user", "content": "Why?"}]
    text = tokenizer.apply_chat_template(
        messages, chat_template=template.jinja(), tokenize=False, add_generation_prompt=True
    )
    assert text == f"{template.opening()}<|im_start|>user\n{template.question('Why?')}"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_the_jinja_template_lets_a_system_message_replace_the_default(tokenizer):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    text = tokenizer.apply_chat_template(messages, chat_template=TEMPLATES[1].jinja(), tokenize=False)
    assert text == "<s><|im_start|>system\nBe brief.<|im_end|><|im_start|>user\nHi<|im_end|>"


@pytest.mark.parametrize("where", ["question", "answer"])
@pytest.mark.parametrize("token", ["<|im_end|>", "<IMG_CONTEXT>", "</s>"])
def test_a_special_token_inside_a_text_is_refused_by_name(tokenizer, where, token):
    texts = {"question": "What?", "answer": "That.", where: f"a {token} b"}
    with pytest.raises(ChatError, match=r"s_f: question 0: got the special token"):
        tokenize_frame(frame(questions=(Question(kind="general", **texts),)), [1] * 6, tokenizer, TEMPLATES[0])


@pytest.mark.parametrize("counts", [[], [1, 1], [1] * 7])
def test_token_counts_that_do_not_fit_the_images_are_refused(tokenizer, counts):
    with pytest.raises(ChatError, match=f"s_f: field 'images': got token counts of {len(counts)} images, expected 6"):
        tokenize_frame(frame(), counts, tokenizer, TEMPLATES[0])


def test_a_question_that_is_not_there_is_refused(tokenizer):
    with pytest.raises(ChatError, match="got question 4, expected 0 to 3"):
        tokenize_frame(frame(), [1] * 6, tokenizer, TEMPLATES[0], [4])


POINTED = Question(
    question="What moves with <c1,CAM_BACK,1088.3,497.5>?",
    answer="<c2,CAM_FRONT,800.0,450.0> does, and 3.5 m away <c3,CAM_BACK,0.0,900.0>.",
    kind="prediction",
    history=(("Where is <c1,CAM_BACK,1088.3,497.5>?", "Behind."),),
)


def test_points_are_written_in_the_coordinates_of_the_template(tokenizer):
    template = internlm2_chat(coordinates=CoordinateFormat(space="canvas", decimals=0))
    tokens = tokenize_frame(frame(questions=(POINTED,)), [1] * 6, tokenizer, template)
    text = tokenizer.decode(tokens.segments[0])
    assert text.count("<c1,CAM_BACK,[560,776]>") == 2
    assert "<c2,CAM_FRONT,[500,250]> does, and 3.5 m away <c3,CAM_BACK,[333,1000]>." in text
    assert "1088.3" not in text
    assert "[560,776]" in tokenizer.decode(
        tokenize_prompts(frame(questions=(POINTED,)), [1] * 6, tokenizer, template).segments[0]
    )


@pytest.mark.parametrize("format", [DRIVELM, CoordinateFormat(space="view", decimals=0)])
def test_the_tokens_of_points_are_those_that_write_their_numbers(tokenizer, format):
    tokens = tokenize_frame(
        frame(questions=(*QUESTIONS, POINTED)), [1] * 6, tokenizer, internlm2_chat(coordinates=format)
    )
    assert len(tokens.point_spans) == len(tokens.segments)
    *others, spans = tokens.point_spans
    assert [len(found) for found in others] == [1, 0, 0, 0]
    end = tokenizer.encode(IMAGE_END, add_special_tokens=False)
    segment = tokens.segments[-1]
    written = [tokenizer.decode([*end, *segment[a:b]]).removeprefix(IMAGE_END).strip(" ") for a, b in spans]
    one, two, three = (
        ("1088.3,497.5", "800.0,450.0", "0.0,900.0") if format == DRIVELM else ("680,553", "500,500", "0,1000")
    )
    assert written == [one, one, two, three]
