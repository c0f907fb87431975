import json
import random
import time

import pytest
import sentencepiece
from transformers import AutoTokenizer, InternVLConfig, PreTrainedTokenizerFast

from data_shards.tokenizer import PROTO, TokenizerError, tokenizer_from_sentencepiece, train_sentencepiece
from tests.helpers.tokenizer import drivelm_sentences, tiny_tokenizer

CHAT_TOKENS = ["<|plugin|>", "<|interpreter|>", "<|action_end|>", "<|action_start|>", "<|im_end|>", "<|im_start|>"]
NINE_TOKENS = ["<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>"]

EDGE_TEXTS = (
    "",
    " ",
    "   ",
    "  leading",
    "trailing  ",
    "a\n\nb\n",
    "\n",
    "\t tab",
    "日本 é 🚗 x",
    "aaaaaa    b",
    "12345.6",
)


def fuzz_texts(count, seed):
    rng = random.Random(seed)
    alphabet = " \n\té🚗abcdefthe.,0123<>CAM_" + "".join(drivelm_sentences())
    return ["".join(rng.choice(alphabet) for _ in range(rng.randrange(80))) for _ in range(count)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tokenizer")


@pytest.fixture(scope="module")
def tokenizer(folder):
    return tiny_tokenizer(folder)


@pytest.fixture(scope="module")
def texts():
    return [*drivelm_sentences(), *EDGE_TEXTS, *fuzz_texts(500, seed=1)]


def internlm2_like(path, num_pieces, last=tuple(f"[UNUSED_TOKEN_{i}]" for i in range(141, 147))):
    """A small trained model, filled up with pieces that no text has, and InternLM2's six reserved pieces at the end."""
    train_sentencepiece(drivelm_sentences(), path, vocab_size=400)
    spec = PROTO.ModelProto()
    spec.ParseFromString(path.read_bytes())
    filled = num_pieces - len(last) - len(spec.pieces)
    for text in [*(f"{chr(0x4E00 + i // 1000)}{chr(0xAC00 + i % 1000)}" for i in range(filled)), *last]:
        spec.pieces.add(piece=text, score=-1e6)
    assert len(spec.pieces) == num_pieces
    path.write_bytes(spec.SerializeToString())
    return path


def sentencepiece_ids(model, texts):
    reference = sentencepiece.SentencePieceProcessor(model_file=str(model))
    return [reference.encode(text) for text in texts]


def test_training_takes_under_two_seconds(tmp_path):
    begin = time.process_time()
    tiny_tokenizer(tmp_path)
    assert time.process_time() - begin < 2


def test_training_twice_gives_the_same_bytes(tmp_path):
    files = [train_sentencepiece(drivelm_sentences(), tmp_path / name, vocab_size=400) for name in ("a", "b")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_ids_equal_those_of_the_sentencepiece_library(tokenizer, folder, texts):
    ids = [tokenizer(text)["input_ids"] for text in texts]
    assert ids == sentencepiece_ids(folder / "tokenizer.model", texts)
    assert sum(map(len, ids[:30])) < 0.6 * sum(map(len, texts[:30])), "merges are used"


def test_text_survives_encoding_and_decoding(tokenizer, texts):
    assert [tokenizer.decode(tokenizer(text)["input_ids"]) for text in texts] == texts


def test_each_digit_is_a_token_of_its_own(tokenizer):
    assert tokenizer.tokenize("1088.3")[-6:] == list("1088.3")


def test_special_tokens_follow_the_sentencepiece_vocabulary(tokenizer):
    specials = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>"]
    assert tokenizer.convert_tokens_to_ids(specials) == [0, 1, 2, 512, 513, 514, 515, 516]
    assert len(tokenizer) == 517
    assert tokenizer("".join(specials))["input_ids"] == [0, 1, 2, 512, 513, 514, 515, 516]
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<s>", "</s>", "</s>")


def test_nothing_is_added_to_a_text(tokenizer):
    plain = tokenizer("Yes.", add_special_tokens=False)["input_ids"]
    assert tokenizer("Yes.")["input_ids"] == plain
    assert tokenizer("<|im_end|>Yes.<|im_end|>")["input_ids"] == [513, *plain, 513]


def test_auto_tokenizer_loads_what_was_saved_beside_an_internvl_config(tokenizer, texts, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    InternVLConfig().save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path, trust_remote_code=False)
    assert type(loaded) is PreTrainedTokenizerFast
    chat = "<s><|im_start|>user\n<img><IMG_CONTEXT></img>\nHi<|im_end|>"
    assert [loaded(text)["input_ids"] for text in [*texts, chat]] == [tokenizer(t)["input_ids"] for t in [*texts, chat]]
    assert loaded.chat_template == tokenizer.chat_template
    assert (loaded.start_image_token, loaded.end_image_token, loaded.context_image_token) == (
        "<img>",
        "</img>",
        "<IMG_CONTEXT>",
    )


@pytest.mark.parametrize("num_pieces", [420, 92544])
def test_internlm2s_chat_tokens_and_internvls_nine_have_the_ids_of_the_checkpoints(tmp_path, num_pieces):
    tokenizer = tokenizer_from_sentencepiece(internlm2_like(tmp_path / "tokenizer.model", num_pieces))
    assert tokenizer.convert_tokens_to_ids(CHAT_TOKENS) == list(range(num_pieces - 6, num_pieces))
    assert tokenizer.convert_tokens_to_ids(NINE_TOKENS) == list(range(num_pieces, num_pieces + 9))
    assert len(tokenizer) == num_pieces + 9
    assert tokenizer("".join(NINE_TOKENS))["input_ids"] == list(range(num_pieces, num_pieces + 9))
    assert tokenizer.decode(tokenizer("<ref>car</ref>")["input_ids"], skip_special_tokens=True) == "car"
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    turn = tokenizer("<|im_start|>Yes.<|im_end|><img><IMG_CONTEXT></img>")["input_ids"]
    assert (turn[0], turn[-4:]) == (num_pieces - 1, [num_pieces - 2, num_pieces, num_pieces + 2, num_pieces + 1])
    if num_pieces == 92544:
        assert tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|im_start|>"]) == [92542, 92543]
        assert tokenizer.convert_tokens_to_ids(["<img>", "</img>", "<IMG_CONTEXT>", "</box>"]) == [
            92544,
            92545,
            92546,
            92552,
        ]


def test_a_model_that_names_its_chat_tokens_itself_keeps_their_ids(tmp_path):
    tokenizer = tokenizer_from_sentencepiece(internlm2_like(tmp_path / "m", 420, last=CHAT_TOKENS))
    assert tokenizer.convert_tokens_to_ids([*CHAT_TOKENS, *NINE_TOKENS]) == list(range(414, 429))


def test_a_saved_internlm2_tokenizer_gives_the_ids_of_sentencepiece(texts, tmp_path):
    model = internlm2_like(tmp_path / "tokenizer.model", 3000)
    tokenizer_from_sentencepiece(model).save_pretrained(tmp_path / "saved")
    InternVLConfig().save_pretrained(tmp_path / "saved")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "saved", trust_remote_code=False)
    assert len(texts) > 500
    assert [loaded(text)["input_ids"] for text in texts] == sentencepiece_ids(model, texts)
    assert [loaded.decode(loaded(text)["input_ids"]) for text in texts] == texts
    assert loaded.convert_tokens_to_ids([*CHAT_TOKENS, *NINE_TOKENS]) == list(range(2994, 3009))


def test_added_tokens_of_the_checkpoint_are_checked(tmp_path):
    model = internlm2_like(tmp_path / "tokenizer.model", 420)
    added = tmp_path / "added_tokens.json"
    added.write_text(json.dumps({token: 420 + i for i, token in enumerate(NINE_TOKENS)}))
    tokenizer_from_sentencepiece(model)
    added.write_text(json.dumps({"<img>": 421, "</img>": 421, "<new>": 430}))
    with pytest.raises(TokenizerError, match=r"added_tokens.json.*'<img>': got 420, expected 421; '<new>': got None"):
        tokenizer_from_sentencepiece(model)
    added.write_text("[1, 2]")
    with pytest.raises(TokenizerError, match="added_tokens.json: does not parse"):
        tokenizer_from_sentencepiece(model)


def test_user_symbols_are_one_token_each(tmp_path, texts):
    symbols = ["CAM_FRONT", "CAM_FRONT_LEFT", "<c"]
    model = train_sentencepiece(drivelm_sentences(), tmp_path / "m", vocab_size=450, user_symbols=symbols)
    tokenizer = tokenizer_from_sentencepiece(model)
    assert "CAM_FRONT_LEFT" in tokenizer.tokenize("object <c1,CAM_FRONT_LEFT,1.0,2.0>")
    assert [tokenizer(text)["input_ids"] for text in texts] == sentencepiece_ids(model, texts)
    assert [tokenizer.decode(tokenizer(text)["input_ids"]) for text in texts] == texts


def test_user_symbols_of_spaces_are_found_in_texts(tmp_path):
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(drivelm_sentences()),
        model_prefix=str(tmp_path / "spaces"),
        model_type="bpe",
        vocab_size=400,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        byte_fallback=True,
        user_defined_symbols=["\u2581\u2581", "\u2581\u2581\u2581\u2581", "[X]"],
        minloglevel=2,
    )
    model = tmp_path / "spaces.model"
    tokenizer = tokenizer_from_sentencepiece(model)
    texts = ["a  b", "The car    is [X]  here", "   ", " x", "     end  "]
    assert [tokenizer(text)["input_ids"] for text in texts] == sentencepiece_ids(model, texts)
    assert [tokenizer.decode(tokenizer(text)["input_ids"]) for text in texts] == texts


def test_a_model_with_a_dummy_prefix_converts_to_equal_ids(tmp_path, texts):
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(drivelm_sentences()),
        model_prefix=str(tmp_path / "dummy"),
        model_type="bpe",
        vocab_size=400,
        normalization_rule_name="identity",
        add_dummy_prefix=True,
        remove_extra_whitespaces=False,
        byte_fallback=True,
        minloglevel=2,
    )
    model = tmp_path / "dummy.model"
    tokenizer = tokenizer_from_sentencepiece(model)
    texts = [text for text in texts if text]
    assert [tokenizer(text)["input_ids"] for text in texts] == sentencepiece_ids(model, texts)
    assert [tokenizer.decode(tokenizer(text)["input_ids"]) for text in texts] == texts


def test_a_missing_or_foreign_model_file_is_named(tmp_path):
    with pytest.raises(TokenizerError, match="nowhere.model: no such file"):
        tokenizer_from_sentencepiece(tmp_path / "nowhere.model")
    (tmp_path / "foreign").write_bytes(b"\xff\xff\xff\xff not a model")
    with pytest.raises(TokenizerError, match="foreign.*sentencepiece"):
        tokenizer_from_sentencepiece(tmp_path / "foreign")


def test_a_unigram_model_is_refused_with_its_fields(tmp_path):
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(drivelm_sentences()),
        model_prefix=str(tmp_path / "unigram"),
        model_type="unigram",
        vocab_size=150,
        minloglevel=2,
    )
    with pytest.raises(TokenizerError, match="'model_type': expected BPE.*'byte_fallback'.*'normalizer'"):
        tokenizer_from_sentencepiece(tmp_path / "unigram.model")


@pytest.mark.parametrize(
    ("lines", "options", "message"),
    [
        ([], {"vocab_size": 400}, "no text"),
        (["hello"], {"vocab_size": 400}, "'vocab_size': got 400"),
        (["hello"], {"vocab_size": 10}, "'vocab_size': got 10"),
        (["hello"], {"vocab_size": 300, "user_symbols": ["a b"]}, "'user_symbols': got 'a b'"),
    ],
)
def test_training_that_cannot_work_says_why(tmp_path, lines, options, message):
    with pytest.raises(TokenizerError, match=message):
        train_sentencepiece(lines, tmp_path / "m", **options)
    assert not list(tmp_path.iterdir())
