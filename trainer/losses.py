"""Distillation: logits and features in, scalar sums out. Pure; each function casts to float32 itself.

Shape suffixes: V codebook, T tiles, P patches, E feature width. The caller divides by the
global weight, so that micro batches and ranks add up to the exact mean.
"""

import torch
from torch.nn.functional import cosine_similarity, log_softmax


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
