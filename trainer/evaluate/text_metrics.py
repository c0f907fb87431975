"""Tokenised answers and references in, corpus BLEU-1..4, ROUGE_L and CIDEr-D out, as COCO captions are scored.

One reference an answer. Gives the digits of `pycocoevalcap` 1.2, which scores a corpus as a whole, takes ten times as
long, and brings 100 MB and a compiled dependency. Here what each pair adds to a score is kept apart (`PairStatistics`),
so that any selection of pairs, and every resample of an interval, is scored by sums alone.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

MAX_ORDER = 4
_ROUGE_BETA = 1.2
_CIDER_SIGMA = 6.0
_BLEU_TINY, _BLEU_SMALL = 1e-15, 1e-9

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class LanguageScores:
    """Corpus scores: BLEU and ROUGE_L in 0..1, CIDEr-D in 0..10."""

    bleu_1: float
    bleu_2: float
    bleu_3: float
    bleu_4: float
    rouge_l: float
    cider: float


@dataclass(frozen=True, kw_only=True)
class PairStatistics:
    """What each of N pairs of an answer and its reference adds to the corpus scores.

    Attributes:
        guessed: n-grams of the answer, [N, 4].
        correct: those of them that the reference has too, each as often as in both, [N, 4].
        answer_length, reference_length: words, [N].
        rouge_l, cider: scores of the pair, [N]; document frequencies of CIDEr-D come from all N references.
    """

    guessed: Integers
    correct: Integers
    answer_length: Integers
    reference_length: Integers
    rouge_l: Floats
    cider: Floats


@dataclass(frozen=True, kw_only=True)
class _OrderStatistics:
    """For one n: numbers of n-grams guessed and correct, and CIDEr-D's clipped cosine, all [N]."""

    guessed: Integers
    correct: Integers
    cosine: Floats


def language_scores(answers: Sequence[str], references: Sequence[str]) -> LanguageScores:
    """Score tokenised answers (tokens joined by single spaces) against one tokenised reference each.

    Raises:
        ValueError: no answers, or not as many references.
    """
    if not answers:
        raise ValueError("language scores: got 0 answers and references, expected equally many and at least one")
    return corpus_scores(pair_statistics(answers, references))


def pair_statistics(answers: Sequence[str], references: Sequence[str]) -> PairStatistics:
    """Statistics of tokenised answers against one tokenised reference each.

    Raises:
        ValueError: not as many references as answers.
    """
    _check_paired(answers, references)
    answer_length, reference_length = _lengths(answers), _lengths(references)
    orders = list(_order_statistics(answers, references))
    difference = np.maximum(answer_length - 1, 0) - np.maximum(reference_length - 1, 0)
    penalty = np.e ** (-(difference.astype(float) ** 2) / (2 * _CIDER_SIGMA**2))
    return PairStatistics(
        guessed=np.stack([order.guessed for order in orders], axis=1),
        correct=np.stack([order.correct for order in orders], axis=1),
        answer_length=answer_length,
        reference_length=reference_length,
        rouge_l=_rouge_each(answers, references),
        cider=10 * penalty * sum(order.cosine for order in orders) / MAX_ORDER,
    )


def corpus_scores(statistics: PairStatistics) -> LanguageScores:
    """Corpus scores of all pairs; zero where there is none."""
    number = len(statistics.rouge_l)
    bleu = bleu_from_counts(
        statistics.guessed.sum(axis=0),
        statistics.correct.sum(axis=0),
        statistics.answer_length.sum(),
        statistics.reference_length.sum(),
    )
    return LanguageScores(
        **{f"bleu_{order}": float(score) if number else 0.0 for order, score in enumerate(bleu, 1)},
        rouge_l=math.fsum(statistics.rouge_l) / max(1, number),
        cider=math.fsum(statistics.cider) / max(1, number),
    )


def bleu_from_counts(
    guessed: npt.ArrayLike, correct: npt.ArrayLike, answer_length: npt.ArrayLike, reference_length: npt.ArrayLike
) -> Floats:
    """BLEU-1..4 (Papineni et al. 2002) of corpora from their counts, with the smoothing constants of coco-caption.

    Args:
        guessed, correct: n-grams, [..., 4].
        answer_length, reference_length: words, [...].

    Returns:
        [..., 4], in 0..1.
    """
    ratio = (np.asarray(answer_length, float) + _BLEU_TINY) / (np.asarray(reference_length, float) + _BLEU_SMALL)
    with np.errstate(over="ignore", divide="ignore"):
        brevity = np.where(ratio < 1, np.exp(np.minimum(0.0, 1 - 1 / ratio)), 1.0)
    precision = (np.asarray(correct, float) + _BLEU_TINY) / (np.asarray(guessed, float) + _BLEU_SMALL)
    root: Floats = np.cumprod(precision, axis=-1) ** (1 / np.arange(1, MAX_ORDER + 1))
    return root * brevity[..., None]


def corpus_bleu(answers: Sequence[str], references: Sequence[str]) -> tuple[float, ...]:
    """BLEU-1..4 over the corpus, see `bleu_from_counts`."""
    scores = corpus_scores(pair_statistics(answers, references))
    return scores.bleu_1, scores.bleu_2, scores.bleu_3, scores.bleu_4


def rouge_l(answer: str, reference: str) -> float:
    """F-measure of the longest common subsequence (Lin 2004), beta 1.2.

    An empty text is one empty word, as in coco-caption.
    """
    if answer == reference:
        return 1.0
    answer_words, reference_words = answer.split(" "), reference.split(" ")
    common = _longest_common_subsequence(answer_words, reference_words)
    if common == 0:
        return 0.0
    precision, recall = common / len(answer_words), common / len(reference_words)
    return (1 + _ROUGE_BETA**2) * precision * recall / (recall + _ROUGE_BETA**2 * precision)


def cider_d(answers: Sequence[str], references: Sequence[str]) -> list[float]:
    """CIDEr-D of each answer, times 10 (Vedantam et al. 2015), document frequencies from these references."""
    return [float(score) for score in pair_statistics(answers, references).cider]


def _check_paired(answers: Sequence[str], references: Sequence[str]) -> None:
    if len(answers) != len(references):
        raise ValueError(
            f"language scores: got {len(answers)} answers and {len(references)} references, expected equally many"
        )


def _lengths(texts: Sequence[str]) -> Integers:
    return np.fromiter((len(text.split()) for text in texts), np.int64, len(texts))


def _rouge_each(answers: Sequence[str], references: Sequence[str]) -> Floats:
    pairs = list(zip(answers, references, strict=True))
    known = {pair: rouge_l(*pair) for pair in set(pairs)}
    return np.fromiter((known[pair] for pair in pairs), np.float64, len(pairs))


def _order_statistics(answers: Sequence[str], references: Sequence[str]) -> Iterator[_OrderStatistics]:
    """For n = 1..4. N-grams are numbered n by n, as (number of the first n - 1 words, last word)."""
    vocabulary: dict[str, int] = {}
    texts = [*answers, *references]  # document d < N is an answer, d + N its reference
    words = np.fromiter((vocabulary.setdefault(w, len(vocabulary)) for text in texts for w in text.split()), np.int64)
    documents = np.repeat(np.arange(len(texts)), _lengths(texts))
    grams, places = words, np.arange(len(words))
    for order in range(1, MAX_ORDER + 1):
        if order > 1:
            last = places + order - 1
            inside = last < len(words)
            inside[inside] = documents[last[inside]] == documents[places[inside]]
            places, grams = places[inside], grams[inside] * len(vocabulary) + words[last[inside]]
        _, grams = np.unique(grams, return_inverse=True)
        yield _one_order(grams, documents[places], len(answers))


def _one_order(grams: Integers, documents: Integers, num_pairs: int) -> _OrderStatistics:
    """Count and compare the n-grams `grams` of `documents`, both [n-grams in the corpus]."""
    num_documents = 2 * num_pairs
    keys, counts = np.unique(grams * num_documents + documents, return_counts=True)
    gram, document = np.divmod(keys, max(1, num_documents))
    in_reference = document >= num_pairs
    num_grams = int(gram[-1]) + 1 if len(gram) else 0
    frequency = np.bincount(gram[in_reference], minlength=num_grams)
    idf = math.log(max(1, num_pairs)) - np.log(np.maximum(1, frequency))
    weights = counts * idf[gram]
    pair = document % max(1, num_pairs)
    reference_keys = keys[in_reference]
    wanted = keys[~in_reference] + num_pairs
    found = np.searchsorted(reference_keys, wanted)
    is_common = np.zeros(len(wanted), bool)
    if len(reference_keys):
        is_common = reference_keys[np.minimum(found, len(reference_keys) - 1)] == wanted
    partner = found[is_common]
    common_pair = pair[~in_reference][is_common]

    def per_pair(values: npt.NDArray[np.generic], pairs: Integers) -> Floats:
        return np.bincount(pairs, weights=values, minlength=num_pairs).astype(float)  # without n-grams integers

    answer_counts, reference_counts = counts[~in_reference], counts[in_reference]
    answer_weights, reference_weights = weights[~in_reference], weights[in_reference]
    shared = reference_weights[partner]
    dot = per_pair(np.minimum(answer_weights[is_common], shared) * shared, common_pair)
    norm = np.sqrt(per_pair(answer_weights**2, pair[~in_reference]))
    norm *= np.sqrt(per_pair(reference_weights**2, pair[in_reference]))
    return _OrderStatistics(
        guessed=per_pair(answer_counts, pair[~in_reference]).astype(np.int64),
        correct=per_pair(np.minimum(answer_counts[is_common], reference_counts[partner]), common_pair).astype(np.int64),
        cosine=np.divide(dot, norm, out=dot, where=norm > 0),
    )


def _longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of it, bit-parallel (Hyyro 2004): one big-integer step a word of `first`."""
    places: dict[str, int] = {}
    for index, word in enumerate(second):
        places[word] = places.get(word, 0) | 1 << index
    everywhere = (1 << len(second)) - 1
    row = everywhere
    for word in first:
        hits = row & places.get(word, 0)
        row = (row + hits | row - hits) & everywhere
    return len(second) - row.bit_count()
