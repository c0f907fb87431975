"""Hidden states at label tokens and their targets in; the cross-entropy of each and the likeliest tokens out, without
the logits of all labels at once.

Shape suffixes: M label tokens, D width, V vocabulary.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.utils.checkpoint import checkpoint

from models.fused import PLAIN, Operations

_CHUNK_BYTES = 2**30


class LabelLosses(NamedTuple):
    """What is known at each label.

    Attributes:
        losses: float32, or float64 from such logits, [M], with graph.
        predicted: int64 [M], the likeliest token.
    """

    losses: torch.Tensor
    predicted: torch.Tensor


def head_chunks(max_labels: int, vocab_size: int) -> int:
    """Parts in which the head is run so that the float32 logits of one take a gibibyte at the most.

    It depends on limits, not on the pack: under ZeRO-3 every rank has to call the head equally often.
    """
    return max(1, -(-max_labels * vocab_size * 4 // _CHUNK_BYTES))


def label_losses(
    head: Callable[[torch.Tensor], torch.Tensor],
    hidden_MD: torch.Tensor,
    targets_M: torch.Tensor,
    chunks: int = 1,
    operations: Operations = PLAIN,
) -> LabelLosses:
    """Cross-entropy of every label token, in float32, or in float64 where the logits are.

    Args:
        head: hidden states [m, D] to logits [m, V].
        hidden_MD: any float dtype.
        targets_M: int64.
        chunks: parts, of equal size but for one; the logits of more than one are not kept but computed again in the
            backward pass.
        operations: whose cross-entropy it is.
    """
    if chunks == 1:
        return _losses(head, hidden_MD, targets_M, operations)
    parts = [
        checkpoint(_losses, head, hidden, targets, operations, use_reentrant=False)
        for hidden, targets in zip(hidden_MD.tensor_split(chunks), targets_M.tensor_split(chunks), strict=True)
    ]
    return LabelLosses(torch.cat([part.losses for part in parts]), torch.cat([part.predicted for part in parts]))


def _losses(
    head: Callable[[torch.Tensor], torch.Tensor],
    hidden_MD: torch.Tensor,
    targets_M: torch.Tensor,
    operations: Operations,
) -> LabelLosses:
    logits_MV = head(hidden_MD)
    losses = operations.cross_entropy(logits_MV, targets_M)
    return LabelLosses(losses, logits_MV.detach().argmax(dim=-1))
