"""A frozen teacher and its codebook in; a function from tiles to their targets out.

Shape suffixes: T tiles, S tile side, P patches of a tile, k entries kept, V codebook entries.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.nn.functional import log_softmax

from data_shards.teacher_targets import TargetsRecord, TileTargets
from data_shards.write_targets import Teach
from models.distill_heads import Codebook
from models.vision import normalise_tiles

Tower = Callable[[torch.Tensor, int], Sequence[torch.Tensor]]
"""Pixels and a number of layers to hidden states of the last of them; without gradient."""


def teaching(
    tower: Tower, codebook: Codebook, record: TargetsRecord, device: torch.device, dtype: torch.dtype
) -> Teach:
    """A function that shows tiles to a teacher.

    Args:
        tower, codebook: on `device`, the tower in `dtype`.
        record: says what is kept.
    """

    def teach(tiles_TSS3: np.ndarray) -> TileTargets:
        pixels = normalise_tiles(torch.from_numpy(tiles_TSS3).to(device), dtype)
        states = tower(pixels, max(record.layers, 1))
        logits_TPV = codebook(states[-1][:, 1:].float(), record.codebook_temperature)
        values, indices = likeliest(log_softmax(logits_TPV / record.temperature, dim=-1), record.top_k)
        features = torch.stack([state.half().cpu() for state in states], dim=1).numpy() if record.layers else None
        return TileTargets(values=values, indices=indices, features=features)

    return teach


def likeliest(log_p_TPV: torch.Tensor, top_k: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Log-probabilities of the k likeliest entries and of all others together, float16 [T, P, k + 1], and which they
    are, uint16 [T, P, k]; all entries in their order, and None, where `top_k` is 0."""
    if not top_k:
        return log_p_TPV.half().cpu().numpy(), None
    best_TPk, indices_TPk = log_p_TPV.topk(top_k, dim=-1)
    others_TP1 = log_p_TPV.scatter(-1, indices_TPk, float("-inf")).logsumexp(dim=-1, keepdim=True)
    values = torch.cat([best_TPk, others_TP1], dim=-1)
    return values.half().cpu().numpy(), indices_TPk.cpu().numpy().astype(np.uint16)
