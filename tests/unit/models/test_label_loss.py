"""The cross-entropy of label tokens, in parts and at once."""

import pytest
import torch
from torch import nn

from models.label_loss import head_chunks, label_losses


@pytest.mark.parametrize("labels", [0, 1, 5, 64])
@pytest.mark.parametrize("chunks", [1, 3, 8])
def test_losses_and_gradients_do_not_depend_on_the_number_of_parts(labels, chunks):
    torch.manual_seed(3)
    head = nn.Linear(16, 50, dtype=torch.float64)
    hidden = torch.randn(labels, 16, dtype=torch.float64, requires_grad=True)
    targets, weights = torch.randint(50, (labels,)), torch.rand(labels)
    out = label_losses(head, hidden, targets, chunks)
    gradients = torch.autograd.grad((out.losses * weights).sum(), [hidden, *head.parameters()])
    logits = head(hidden)
    expected = torch.logsumexp(logits, -1) - logits.gather(1, targets[:, None])[:, 0]
    wanted = torch.autograd.grad((expected * weights).sum(), [hidden, *head.parameters()])
    assert torch.equal(out.predicted, logits.argmax(-1))
    torch.testing.assert_close(out.losses, expected)
    for got, right in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(got, right, rtol=1e-5, atol=1e-7)


def test_logits_of_one_part_only_are_kept_for_the_backward_pass():
    head, sizes = nn.Linear(8, 1000), []
    hidden = torch.randn(400, 8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
        label_losses(head, hidden, torch.zeros(400, dtype=torch.int64), chunks=10)
    assert max(sizes) < 400 * 1000 / 10


def test_parts_follow_from_the_limits():
    assert head_chunks(2048, 704) == 1
    assert head_chunks(16384, 92553) == 6
