"""Worded frames in, the tiny sentencepiece tokenizer and the tiny language model out."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from data_shards.chat import IMAGE_TOKEN, ChatTemplate
from data_shards.schema import CAMERAS
from data_shards.tokenizer import tokenizer_from_sentencepiece, train_sentencepiece
from models.attention import PACK_ATTENTION, pack_layout, register_pack_attention
from models.presets import text_config
from models.vlm import build_language
from trainer.tiny.texts import WordedPack, worded_frames, worded_pack

VOCABULARY = 704


@dataclass(frozen=True, kw_only=True)
class Round:
    """One cosine of the language model's training.

    Attributes:
        steps: of 12 frames with 12 questions each.
        peak: highest learning rate.
        listing_odds: as for `worded_pack`; to read single cells comes before to list everything.
    """

    steps: int
    peak: float
    listing_odds: float


def train_tokenizer(out: Path, seed: int) -> PreTrainedTokenizerFast:
    """Train the tokenizer on the questions, answers and words of 400 frames; `out` is the tokenizer.model to write."""
    lines = []
    for worded in itertools.islice(worded_frames(seed, general_share=0.2), 400):
        lines += [f"{q.question} {q.answer}" for q in worded.frame.questions]
        lines += [" ".join(("", *cell)) for cell in worded.words]
    train_sentencepiece(lines, out, vocab_size=VOCABULARY, user_symbols=CAMERAS)
    return tokenizer_from_sentencepiece(out)


def train_language(
    tokenizer: PreTrainedTokenizerFast,
    template: ChatTemplate,
    *,
    rounds: Sequence[Round],
    seed: int,
    report: Callable[[int, float, float], None],
    start: LlamaForCausalLM | None = None,
) -> LlamaForCausalLM:
    """Train the tiny language model to answer questions about pictures in words.

    Args:
        start: trained before, and changed in place; fresh where None.
        rounds: one after the other; restarts shorten the plateau before reading is learnt.
        report: called every 50 steps with the step, the loss, and the share of label tokens predicted right.
    """
    generator = torch.Generator().manual_seed(seed)
    model = start or _fresh_language(len(tokenizer), generator)
    register_pack_attention()
    stock_attention = model.config._attn_implementation
    model.set_attn_implementation(PACK_ATTENTION)
    frames, rng = worded_frames(seed + 1, general_share=0.15), np.random.default_rng(seed)
    image_token = int(tokenizer.vocab[IMAGE_TOKEN])
    for now in rounds:
        optimizer = torch.optim.AdamW(model.parameters(), lr=now.peak, betas=(0.9, 0.98), weight_decay=0.05)
        for step in range(now.steps):
            for group in optimizer.param_groups:
                group["lr"] = now.peak * learning_rate_factor(step, now.steps)
            chosen = list(itertools.islice(frames, 12))
            pack = worded_pack(chosen, tokenizer, template, rng, questions_per_frame=12, listing_odds=now.listing_odds)
            logits = language_logits(model, pack, image_token, generator)
            loss = _train_on(model, optimizer, logits, pack)
            if step % 50 == 0 or step == now.steps - 1:
                right = (logits.argmax(-1) == pack.batch.label_targets).float().mean()
                report(step, loss, right.item())
    model.set_attn_implementation(stock_attention)
    return model


def _fresh_language(vocab_size: int, generator: torch.Generator) -> LlamaForCausalLM:
    model = build_language(text_config("tiny-lm", vocab_size=vocab_size), generator)
    with torch.no_grad():  # words seen in a picture are words to be said: let both start in the same space
        model.lm_head.weight.copy_(model.get_input_embeddings().weight)
    return model


def _train_on(
    model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, logits: torch.Tensor, pack: WordedPack
) -> float:
    weights = pack.batch.label_weights
    losses = functional.cross_entropy(logits, pack.batch.label_targets, reduction="none")
    loss = (losses * weights).sum() / weights.sum()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def language_logits(
    model: LlamaForCausalLM, pack: WordedPack, image_token: int, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Logits [M, V] at the label positions; an image token enters as the sum of its words' embeddings.

    A generator blurs the pictures, by noise of 0.3 times their root mean square: a projector is not exact either.
    """
    batch, embed = pack.batch, model.get_input_embeddings()
    assert isinstance(embed, nn.Embedding)
    pictures = functional.embedding_bag(pack.bags, embed.weight, pack.bag_starts, mode="sum")
    if generator is not None:
        spread = 0.3 * pictures.detach().square().mean().sqrt()
        pictures = pictures + spread * torch.randn(pictures.shape, generator=generator)
    embeds = embed(batch.input_ids).masked_scatter((batch.input_ids == image_token)[:, None], pictures)
    layout = pack_layout(batch.groups, batch.segment_ids)
    hidden = model.model(
        inputs_embeds=embeds[None], position_ids=batch.position_ids[None], use_cache=False, pack_layout=layout
    ).last_hidden_state[0]
    return model.lm_head(hidden[batch.label_positions])


def learning_rate_factor(step: int, steps: int, warmup: int = 100) -> float:
    """Linear warm-up, then a cosine to a twentieth."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.05 + 0.475 * (1 + np.cos(np.pi * (step - warmup) / max(1, steps - warmup)))
