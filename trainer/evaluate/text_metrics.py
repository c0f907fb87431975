"""Tokenised answers and references in, corpus BLEU-1..4, ROUGE_L and CIDEr-D out, as COCO captions are scored.

One reference an answer. Gives the digits of `pycocoevalcap` 1.2, which brings 100 MB and a compiled dependency.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

MAX_ORDER = 4
_ROUGE_BETA = 1.2
_CIDER_SIGMA = 6.0
_BLEU_TINY, _BLEU_SMALL = 1e-15, 1e-9

Ngram = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class LanguageScores:
    """Corpus scores: BLEU and ROUGE_L in 0..1, CIDEr-D in 0..10."""

    bleu_1: float
    bleu_2: float
    bleu_3: float
    bleu_4: float
    rouge_l: float
    cider: float


def language_scores(answers: Sequence[str], references: Sequence[str]) -> LanguageScores:
    """Score tokenised answers (tokens joined by single spaces) against one tokenised reference each.

    Raises:
        ValueError: no answers, or not as many references.
    """
    if not answers or len(answers) != len(references):
        raise ValueError(
            f"language scores: got {len(answers)} answers and {len(references)} references, expected equally many"
        )
    bleu = corpus_bleu(answers, references)
    rouge = [rouge_l(answer, reference) for answer, reference in zip(answers, references, strict=True)]
    cider = cider_d(answers, references)
    return LanguageScores(
        **{f"bleu_{order}": score for order, score in enumerate(bleu, 1)},
        rouge_l=sum(rouge) / len(rouge),
        cider=sum(cider) / len(cider),
    )


def corpus_bleu(answers: Sequence[str], references: Sequence[str]) -> tuple[float, ...]:
    """BLEU-1..4 over the corpus (Papineni et al. 2002), with the smoothing constants of coco-caption."""
    num_guessed, num_correct = [0] * MAX_ORDER, [0] * MAX_ORDER
    answer_length = reference_length = 0
    for answer, reference in zip(answers, references, strict=True):
        answer_words, reference_words = answer.split(), reference.split()
        answer_length += len(answer_words)
        reference_length += len(reference_words)
        for n in range(1, MAX_ORDER + 1):
            guessed = _ngrams(answer_words, n)
            num_guessed[n - 1] += max(0, len(answer_words) - n + 1)
            num_correct[n - 1] += (guessed & _ngrams(reference_words, n)).total()
    ratio = (answer_length + _BLEU_TINY) / (reference_length + _BLEU_SMALL)
    brevity = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    scores, product = [], 1.0
    for n in range(1, MAX_ORDER + 1):
        product *= (num_correct[n - 1] + _BLEU_TINY) / (num_guessed[n - 1] + _BLEU_SMALL)
        scores.append(product ** (1 / n) * brevity)
    return tuple(scores)


def rouge_l(answer: str, reference: str) -> float:
    """F-measure of the longest common subsequence (Lin 2004), beta 1.2.

    An empty text is one empty word, as in coco-caption.
    """
    answer_words, reference_words = answer.split(" "), reference.split(" ")
    common = _longest_common_subsequence(answer_words, reference_words)
    if common == 0:
        return 0.0
    precision, recall = common / len(answer_words), common / len(reference_words)
    return (1 + _ROUGE_BETA**2) * precision * recall / (recall + _ROUGE_BETA**2 * precision)


def cider_d(answers: Sequence[str], references: Sequence[str]) -> list[float]:
    """CIDEr-D of each answer, times 10 (Vedantam et al. 2015), document frequencies from these references."""
    answer_counts = [_all_ngrams(answer) for answer in answers]
    reference_counts = [_all_ngrams(reference) for reference in references]
    frequency = Counter(ngram for counts in reference_counts for ngram in counts)
    log_documents = math.log(len(references))
    idf = {ngram: log_documents - math.log(count) for ngram, count in frequency.items()}
    return [
        10 * sum(_cider_similarities(answer, reference, idf, log_documents)) / MAX_ORDER
        for answer, reference in zip(answer_counts, reference_counts, strict=True)
    ]


def _cider_similarities(
    answer: Counter[Ngram], reference: Counter[Ngram], idf: dict[Ngram, float], unseen_idf: float
) -> list[float]:
    """Clipped cosine of the tf-idf vectors for each n, times a Gaussian of the difference of bigram counts."""
    dot, answer_square, reference_square = [0.0] * MAX_ORDER, [0.0] * MAX_ORDER, [0.0] * MAX_ORDER
    length_difference = 0
    for ngram, count in answer.items():
        order = len(ngram) - 1
        weight = count * idf.get(ngram, unseen_idf)
        answer_square[order] += weight**2
        if ngram in reference:
            reference_weight = reference[ngram] * idf[ngram]
            dot[order] += min(weight, reference_weight) * reference_weight
        length_difference += count if order == 1 else 0
    for ngram, count in reference.items():
        reference_square[len(ngram) - 1] += (count * idf[ngram]) ** 2
        length_difference -= count if len(ngram) == 2 else 0
    penalty = math.e ** (-(length_difference**2) / (2 * _CIDER_SIGMA**2))
    norms = [math.sqrt(a) * math.sqrt(r) for a, r in zip(answer_square, reference_square, strict=True)]
    return [penalty * (product / norm if norm else product) for product, norm in zip(dot, norms, strict=True)]


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


def _ngrams(words: Sequence[str], n: int) -> Counter[Ngram]:
    return Counter(zip(*(words[start:] for start in range(n)), strict=False))


def _all_ngrams(text: str) -> Counter[Ngram]:
    words = text.split()
    counts: Counter[Ngram] = Counter()
    for n in range(1, MAX_ORDER + 1):
        counts.update(_ngrams(words, n))
    return counts
