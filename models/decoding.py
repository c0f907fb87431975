"""Answers for packs: prefixes and questions in, answer tokens out, greedy ones unless told otherwise; a prefix is
computed and kept once for all its questions, each of which keeps only its own keys and values.

Shape suffixes: N tokens of the pack, R rows (questions still being answered), Q most rows of a prefix, S own tokens of
a row, K key-value heads, D head width.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from transformers import DynamicCache, InternVLForConditionalGeneration

from models.attention import PACK_ATTENTION, PackLayout, attention_set_to, pack_layout, register_pack_attention
from models.packed_vlm import pack_embeddings
from models.shared_prefix import PREFIX_ATTENTION, Prefixes, register_prefix_attention

_KEEP_ROWS_ABOVE = 0.85
"""Finished rows are taken out of the batch once fewer than this share of its rows are still being written."""

Choose = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Logits [R, V] and the question of each row [R] in, the next token of each row [R] out."""


def most_likely(logits_RV: torch.Tensor, question_R: torch.Tensor) -> torch.Tensor:
    """The greedy choice."""
    return logits_RV.argmax(dim=-1)


@dataclass(kw_only=True)
class Rows:
    """The questions still being answered.

    Attributes:
        question: [R], which segment of the pack each row answers.
        prefix: [R], its prefix, ascending.
        position: [R], position of the token to be run next.
        token: [R], that token.
        visible: bool [R, S], own tokens aside from padding at the front.
        cache: own keys and values, [R, K, S, D] a layer.
    """

    question: torch.Tensor
    prefix: torch.Tensor
    position: torch.Tensor
    token: torch.Tensor
    visible: torch.Tensor
    cache: DynamicCache

    def keep(self, kept: torch.Tensor) -> None:
        """Only the rows of these indices."""
        for name in ("question", "prefix", "position", "token", "visible"):
            setattr(self, name, getattr(self, name)[kept])
        self.cache.batch_select_indices(kept)

    def slots(self, num_prefixes: int) -> tuple[torch.Tensor, int]:
        """Place of each row in a table of `num_prefixes` lines of Q rows, flattened, and Q."""
        counts = torch.bincount(self.prefix, minlength=num_prefixes)
        longest = int(counts.max())
        first = counts.cumsum(0) - counts
        within = torch.arange(len(self.prefix), device=self.prefix.device) - first[self.prefix]
        return self.prefix * longest + within, longest


@torch.no_grad()
def greedy_answers(
    vlm: InternVLForConditionalGeneration,
    *,
    input_ids: torch.Tensor,
    position_ids: torch.Tensor,
    segment_ids: torch.Tensor,
    groups: Sequence[tuple[int, int]],
    pixel_values: torch.Tensor,
    dummy_tile: bool,
    stop_ids: Collection[int],
    max_new_tokens: int,
    choose: Choose = most_likely,
) -> list[list[int]]:
    """Answer every segment of a pack: the tokens that stock greedy generation gives for prefix + segment alone.

    Args:
        input_ids, position_ids: int64 [N]; segments end where the model begins to write.
        segment_ids, groups: as for `models.attention.pack_layout`, on the CPU.
        pixel_values: [T, 3, S, S]; one of zeros with `dummy_tile` where the pack has no image.
        stop_ids: tokens that end an answer.
        max_new_tokens: longest answer.
        choose: picks the next tokens; called once a step for all rows still in the batch, some of which may have ended.

    Returns:
        Tokens of each answer, segments in the order of the pack, without the stop token.
    """
    register_pack_attention()
    register_prefix_attention()
    layout = pack_layout(groups, segment_ids).to(input_ids.device)
    with _evaluating(vlm):
        embeds_1ND = pack_embeddings(vlm, input_ids, pixel_values, dummy_tile=dummy_tile)
        with attention_set_to(vlm, PACK_ATTENTION):
            cache, hidden_ND = _prefill(vlm, embeds_1ND, position_ids, layout)
        prefixes, rows, last = _split(cache, segment_ids, groups, position_ids)
        rows.token = choose(vlm.lm_head(hidden_ND[last]), rows.question)
        del cache, hidden_ND  # a long pack's states, which the loop needs no more
        with attention_set_to(vlm, PREFIX_ATTENTION):
            return _write(vlm, prefixes, rows, frozenset(stop_ids), max_new_tokens, choose)


def _prefill(
    vlm: InternVLForConditionalGeneration, embeds_1ND: torch.Tensor, position_ids: torch.Tensor, layout: PackLayout
) -> tuple[DynamicCache, torch.Tensor]:
    """Run prefixes and questions once: their keys and values, and their last hidden states [N, D]."""
    cache = DynamicCache(config=vlm.model.language_model.config)
    outputs = vlm.model.language_model(
        inputs_embeds=embeds_1ND,
        position_ids=position_ids[None],
        past_key_values=cache,
        use_cache=True,
        pack_layout=layout,
    )
    return cache, outputs.last_hidden_state[0]


def _write(
    vlm: InternVLForConditionalGeneration,
    prefixes: Prefixes,
    rows: Rows,
    stop_ids: Collection[int],
    max_new_tokens: int,
    choose: Choose,
) -> list[list[int]]:
    """The decoding loop; tokens are read back once a step."""
    answers: list[list[int]] = [[] for _ in rows.question]
    open_rows = set(range(len(answers)))
    slots = rows.slots(len(prefixes.visible))
    for _ in range(max_new_tokens):
        for question, token in zip(rows.question.tolist(), rows.token.tolist(), strict=True):
            if question not in open_rows:
                continue
            if token in stop_ids:
                open_rows.remove(question)
            else:
                answers[question].append(token)
                if len(answers[question]) == max_new_tokens:
                    open_rows.remove(question)
        if not open_rows:
            break
        if len(open_rows) < _KEEP_ROWS_ABOVE * len(rows.question):
            prefixes = _drop_finished(prefixes, rows, open_rows)
            slots = rows.slots(len(prefixes.visible))
        _step(vlm, prefixes, rows, slots, choose)
    return answers


def _step(
    vlm: InternVLForConditionalGeneration,
    prefixes: Prefixes,
    rows: Rows,
    slots: tuple[torch.Tensor, int],
    choose: Choose,
) -> None:
    """Run one token of every row and choose the next."""
    rows.visible = torch.cat([rows.visible, torch.ones_like(rows.visible[:, :1])], dim=1)
    hidden = vlm.model.language_model(
        inputs_embeds=vlm.get_input_embeddings()(rows.token[:, None]),
        position_ids=rows.position[:, None],
        past_key_values=rows.cache,
        use_cache=True,
        prefixes=prefixes,
        slots=slots,
        own_visible=rows.visible,
    ).last_hidden_state[:, 0]
    rows.token = choose(vlm.lm_head(hidden), rows.question)
    rows.position = rows.position + 1


def _drop_finished(prefixes: Prefixes, rows: Rows, open_rows: Collection[int]) -> Prefixes:
    device = rows.question.device
    kept = [i for i, question in enumerate(rows.question.tolist()) if question in open_rows]
    rows.keep(torch.tensor(kept, device=device))
    used, rows.prefix = rows.prefix.unique(return_inverse=True)
    return prefixes if len(used) == len(prefixes.visible) else prefixes.select(used)


def _split(
    cache: DynamicCache, segment_ids: torch.Tensor, groups: Sequence[tuple[int, int]], position_ids: torch.Tensor
) -> tuple[Prefixes, Rows, torch.Tensor]:
    """Part a pack's keys and values into prefixes and rows; also the last token of each row, [R]."""
    prefix_spans, row_spans, owners = [], [], []
    for number, (start, end) in enumerate(groups):
        lengths = torch.bincount(segment_ids[start:end]).tolist()
        ends = (start + torch.tensor(lengths).cumsum(0)).tolist()
        prefix_spans.append((start, lengths[0]))
        row_spans += [(stop - length, length) for stop, length in zip(ends[1:], lengths[1:], strict=True)]
        owners += [number] * (len(lengths) - 1)
    device = position_ids.device
    prefix_table, prefix_visible = (part.to(device) for part in _table(prefix_spans, left=False))
    row_table, row_visible = (part.to(device) for part in _table(row_spans, left=True))
    layers = [(keys[0], values[0]) for keys, values, *_ in cache]
    last = row_table[:, -1]
    prefixes = Prefixes(
        keys=tuple(keys[:, prefix_table].transpose(0, 1).contiguous() for keys, _ in layers),
        values=tuple(values[:, prefix_table].transpose(0, 1).contiguous() for _, values in layers),
        visible=prefix_visible,
    )
    rows = Rows(
        question=torch.arange(len(owners), device=device),
        prefix=torch.tensor(owners, device=device),
        position=position_ids[last] + 1,
        token=torch.zeros(len(owners), dtype=torch.long, device=device),
        visible=row_visible,
        cache=DynamicCache([(k[:, row_table].transpose(0, 1), v[:, row_table].transpose(0, 1)) for k, v in layers]),
    )
    return prefixes, rows, last


def _table(spans: Sequence[tuple[int, int]], *, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Token indices of (start, length) spans in padded lines, and where they are no padding."""
    starts, lengths = torch.tensor(spans).T[:, :, None]
    columns = torch.arange(int(lengths.max()))
    if left:
        columns = columns - (int(lengths.max()) - lengths)
    visible = (columns >= 0) & (columns < lengths)
    return torch.where(visible, starts + columns, 0), visible


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode within, each module's own mode again after."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
