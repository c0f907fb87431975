"""Distillation: logits and features in, a loss of each tile out. Pure; each function casts to float32 itself.

Shape suffixes: V codebook, T tiles, P patches, E feature width. The caller adds them up and divides by the
global weight, so that micro batches and ranks add up to the exact mean.
"""

import torch
from torch.nn.functional import cosine_similarity, log_softmax


def patch_kl(student_logits_TPV: torch.Tensor, teacher_logits_TPV: torch.Tensor, temperature: float) -> torch.Tensor:
    """Of each tile the patches' mean KL(teacher || student) at a temperature, scaled by its square, [T].

    Hinton et al., arXiv 1503.02531: the square keeps gradients comparable when the temperature changes.
    """
    student = log_softmax(student_logits_TPV.float() / temperature, dim=-1)
    teacher = log_softmax(teacher_logits_TPV.float() / temperature, dim=-1)
    divergence_TP = (teacher.exp() * (teacher - student)).sum(dim=-1)
    return divergence_TP.mean(dim=1) * temperature**2


def top_patch_kl(
    student_logits_TPV: torch.Tensor,
    values_TPK: torch.Tensor,
    indices_TPk: torch.Tensor | None,
    temperature: float,
) -> torch.Tensor:
    """As `patch_kl`, from what is kept of the teacher's distribution.

    All entries that are not kept count as one, for teacher and student alike. Merging outcomes never raises a KL, so
    this is a lower bound of `patch_kl`, and equals it where all are kept.

    Args:
        values_TPK: log-probabilities at the temperature, of the k kept entries and of all others together (K = k + 1),
            or of all entries in their order; they are normalised again, since they may have been rounded.
        indices_TPk: int64, the kept entries; None where all are.
    """
    student = log_softmax(student_logits_TPV.float() / temperature, dim=-1)
    teacher = log_softmax(values_TPK.float(), dim=-1)
    if indices_TPk is not None:
        others = student.scatter(-1, indices_TPk, float("-inf")).logsumexp(dim=-1, keepdim=True)
        student = torch.cat([student.gather(-1, indices_TPk), others], dim=-1)
    divergence_TP = (teacher.exp() * (teacher - student)).sum(dim=-1)
    return divergence_TP.mean(dim=1) * temperature**2


def negative_cosine(student_TNE: torch.Tensor, teacher_TNE: torch.Tensor) -> torch.Tensor:
    """Of each tile the tokens' mean negative cosine similarity (Mini-InternVL, arXiv 2410.16261), [T]; -1 at best."""
    return -cosine_similarity(student_TNE.float(), teacher_TNE.float(), dim=-1).mean(dim=1)
