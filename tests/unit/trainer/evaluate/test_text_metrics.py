"""BLEU, ROUGE_L and CIDEr-D against the digits of the COCO caption tools and against direct computations."""

import importlib.util
import json
import math

import numpy as np
import pytest

from tests.helpers.paths import DRIVELM_EVAL_CASES, needs_drivelm_eval_cases
from trainer.evaluate.text_metrics import cider_d, corpus_bleu, language_scores, rouge_l

CASES = ("case1_repo_output", "case2_repo_submission", "case3_gt_as_prediction")
TOLERANCE = 1e-13  # the largest relative difference seen is 3e-16


def expected_of(case):
    return json.loads((DRIVELM_EVAL_CASES / case / "expected.json").read_text())


@needs_drivelm_eval_cases
@pytest.mark.parametrize("case", CASES)
def test_corpus_scores_have_the_reference_digits(case):
    expected = expected_of(case)
    items = expected["language_items"]
    assert len(items) == 9
    scores = language_scores([i["tokens_pred"] for i in items], [i["tokens_gt"] for i in items])
    for name, value in expected["language"].items():
        assert getattr(scores, name.removeprefix("val/").lower()) == pytest.approx(value, rel=TOLERANCE, abs=0)


@needs_drivelm_eval_cases
@pytest.mark.parametrize("case", CASES)
def test_scores_of_each_answer_have_the_reference_digits(case):
    items = expected_of(case)["language_items"]
    cider = cider_d([i["tokens_pred"] for i in items], [i["tokens_gt"] for i in items])
    for item, score in zip(items, cider, strict=True):
        assert score == pytest.approx(item["CIDEr"], rel=TOLERANCE, abs=0)
        assert rouge_l(item["tokens_pred"], item["tokens_gt"]) == pytest.approx(item["ROUGE_L"], rel=TOLERANCE)
        assert corpus_bleu([item["tokens_pred"]], [item["tokens_gt"]]) == pytest.approx(
            item["sentence_bleu"], rel=TOLERANCE, abs=0
        )


def test_rouge_finds_the_longest_common_subsequence_of_random_texts():
    rng = np.random.default_rng(5)
    for _ in range(100):
        answer, reference = ([str(w) for w in rng.integers(0, 6, rng.integers(1, 30))] for _ in range(2))
        common = table_lcs(answer, reference)
        precision, recall = common / len(answer), common / len(reference)
        expected = (1 + 1.44) * precision * recall / (recall + 1.44 * precision) if common else 0.0
        assert rouge_l(" ".join(answer), " ".join(reference)) == pytest.approx(expected)


def table_lcs(first, second):
    table = np.zeros((len(first) + 1, len(second) + 1), int)
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            table[i + 1, j + 1] = table[i, j] + 1 if a == b else max(table[i, j + 1], table[i + 1, j])
    return table[-1, -1]


@pytest.mark.skipif(importlib.util.find_spec("pycocoevalcap") is None, reason="pycocoevalcap is not installed")
def test_random_corpora_have_the_digits_of_pycocoevalcap():
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    rng = np.random.default_rng(6)
    for size in (1, 3, 40):
        answers, references = (
            [" ".join(map(str, rng.integers(0, 9, rng.integers(0 if size > 3 else 1, 25)))) for _ in range(size)]
            for _ in range(2)
        )
        given, wanted = ({i: [text] for i, text in enumerate(texts)} for texts in (answers, references))
        bleu = Bleu(4).compute_score(wanted, given, verbose=0)[0]
        expected = [*bleu, Rouge().compute_score(wanted, given)[0], Cider().compute_score(wanted, given)[0]]
        assert list(vars(language_scores(answers, references)).values()) == pytest.approx(expected, rel=1e-12, abs=0)


def test_bleu_of_a_small_corpus_by_hand():
    scores = corpus_bleu(["a b c", "a"], ["a b d", "b"])
    brevity = 1.0  # 4 words each
    assert scores[0] == pytest.approx(2 / 4 * brevity)
    assert scores[1] == pytest.approx(math.sqrt(2 / 4 * 1 / 2))


def test_a_short_answer_pays_the_brevity_penalty():
    assert corpus_bleu(["a b"], ["a b c d"])[0] == pytest.approx(math.exp(1 - 2))


def test_cider_of_one_document_is_zero():
    assert cider_d(["a b c d"], ["a b c d"]) == [0.0]


@pytest.mark.parametrize(("answers", "references"), [([""], [""]), (["", "a"], ["b", ""]), (["", ""], ["", ""])])
def test_empty_texts_score_finite(answers, references):
    scores = language_scores(answers, references)
    assert all(math.isfinite(value) for value in vars(scores).values())


def test_a_corpus_without_answers_is_refused():
    with pytest.raises(ValueError, match="expected equally many"):
        language_scores([], [])
