"""Logits, features and weights in, scalar sums out. Pure; each function casts to float32 itself.

Shape suffixes: M label tokens, V vocabulary or codebook, T tiles, P patches, E feature width. The caller divides by the
global weight, so that micro batches and ranks add up to the exact mean.
"""

import torch
from torch.nn.functional import cosine_similarity, cross_entropy, log_softmax


def cross_entropy_each(logits_MV: torch.Tensor, targets_M: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each label token, float32 [M]; empty, with a graph, where there is none.

    Args:
        logits_MV: any float dtype.
        targets_M: int64.
    """
    return cross_entropy(logits_MV.float(), targets_M, reduction="none")


def cross_entropy_sum(logits_MV: torch.Tensor, targets_M: torch.Tensor, weights_M: torch.Tensor) -> torch.Tensor:
    """Sum of the label tokens' cross-entropy, each times its float32 weight; 0 with a graph where there is none."""
    return (cross_entropy_each(logits_MV, targets_M) * weights_M).sum()


def patch_kl(student_logits_TPV: torch.Tensor, teacher_logits_TPV: torch.Tensor, temperature: float) -> torch.Tensor:
    """Sum over tiles of the patches' mean KL(teacher || student) at a temperature, scaled by its square.

    Hinton et al., arXiv 1503.02531: the square keeps gradients comparable when the temperature changes.
    """
    student = log_softmax(student_logits_TPV.float() / temperature, dim=-1)
    teacher = log_softmax(teacher_logits_TPV.float() / temperature, dim=-1)
    divergence_TP = (teacher.exp() * (teacher - student)).sum(dim=-1)
    return divergence_TP.mean(dim=1).sum() * temperature**2


def negative_cosine(student_TNE: torch.Tensor, teacher_TNE: torch.Tensor) -> torch.Tensor:
    """Sum over tiles of the tokens' mean negative cosine similarity (Mini-InternVL, arXiv 2410.16261); -T at best."""
    return -cosine_similarity(student_TNE.float(), teacher_TNE.float(), dim=-1).mean(dim=1).sum()
