"""What others report on DriveLM: the rows that a report's headline table sets its own beside."""

from dataclasses import dataclass

SOURCE = (
    "DriveLM's evaluation server (v1.1 validation frames, answers withheld, GPT as judge), as printed in the papers of "
    "Mini-InternVL (Gao et al. 2024, arXiv 2410.16261; DA 1B to 4B) and of InternVL4Drive-v2 (Li et al. 2024, "
    "arXiv 2412.07247; 26B)"
)


@dataclass(frozen=True, kw_only=True)
class PublishedScores:
    """One system; accuracy, BLEU and ROUGE_L in 0..1, GPT and match in 0..100, CIDEr-D in 0..10."""

    name: str
    accuracy: float
    chatgpt: float
    bleu_1: float
    bleu_4: float
    rouge_l: float
    cider: float
    match: float
    final: float


PUBLISHED = (
    PublishedScores(
        name="InternVL4Drive-v2 26B",
        accuracy=0.7339,
        chatgpt=65.25,
        bleu_1=0.7787,
        bleu_4=0.6059,
        rouge_l=0.7449,
        cider=0.2061,
        match=47.65,
        final=0.6002,
    ),
    PublishedScores(
        name="Mini-InternVL-DA 2B",
        accuracy=0.7628,
        chatgpt=65.23,
        bleu_1=0.7616,
        bleu_4=0.5908,
        rouge_l=0.7447,
        cider=0.1914,
        match=43.24,
        final=0.5958,
    ),
    PublishedScores(
        name="Mini-InternVL-DA 4B",
        accuracy=0.7296,
        chatgpt=63.97,
        bleu_1=0.7642,
        bleu_4=0.5914,
        rouge_l=0.7427,
        cider=0.1976,
        match=42.16,
        final=0.5821,
    ),
    PublishedScores(
        name="Mini-InternVL-DA 1B",
        accuracy=0.7007,
        chatgpt=63.84,
        bleu_1=0.7362,
        bleu_4=0.5678,
        rouge_l=0.7365,
        cider=0.1669,
        match=39.76,
        final=0.5686,
    ),
)
"""Best final score first."""
