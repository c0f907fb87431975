"""Fused kernels of a GPU, in bfloat16, against float64; run where there is a GPU:
`python -m pytest tests/gpu/test_fused_gpu.py`.
"""

import pytest
import torch

from models.fused import PLAIN, FusedError, choose_fused

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, torch sees none"),
]

CUDA = torch.device("cuda")
TOLERANCE = 8e-3
"""Of the norm; bfloat16 keeps 8 bits, so one rounding is 2e-3 to 4e-3."""


def kernels_or_skip(name):
    try:
        return choose_fused(name, CUDA)
    except FusedError as refused:
        pytest.skip(str(refused))


def arguments(tokens):
    generator = torch.Generator().manual_seed(tokens)

    def drawn(*shape):
        return torch.randn(shape, generator=generator).bfloat16()

    angles = torch.rand(1, tokens, 64, generator=generator).repeat(1, 1, 2) * 6
    return {
        "rms_norm": ((drawn(1, tokens, 2048), torch.nn.Parameter(drawn(2048))), (1e-5,)),
        "swiglu": ((drawn(1, tokens, 8192), drawn(1, tokens, 8192)), ()),
        "rotary": (
            (drawn(1, tokens, 16, 128).transpose(1, 2), drawn(1, tokens, 8, 128).transpose(1, 2)),
            (angles.cos().bfloat16(), angles.sin().bfloat16()),
        ),
    }


def run(operation, inputs, others, device, dtype):
    """Outputs and gradients; the inputs are the results of other operations, as in a layer."""
    leaves = [part.detach().to(device, dtype).requires_grad_() for part in inputs]
    extra = [
        part.to(device, dtype if part.is_floating_point() else None) if isinstance(part, torch.Tensor) else part
        for part in others
    ]
    outs = operation(*(leaf * 1 for leaf in leaves), *extra)
    outs = outs if isinstance(outs, tuple) else (outs,)
    gradients = [torch.sin(out.detach().double()).to(dtype) for out in outs]
    return [*(out.detach() for out in outs), *torch.autograd.grad(outs, leaves, gradients)]


@pytest.mark.parametrize("name", ["liger", "compile", "plain"])
def test_cross_entropy_equals_float64_and_the_host_does_not_wait(name):
    kernels = kernels_or_skip(name)
    generator = torch.Generator().manual_seed(0)
    for rows in (500, 1, 2731):
        logits = torch.randn(rows, 92553, generator=generator).mul(3).bfloat16().to(CUDA)
        targets = torch.randint(92553, (rows,), generator=generator).to(CUDA)
        exact = run(PLAIN.cross_entropy, [logits], [targets], CUDA, torch.float64)
        leaf, weights = logits.requires_grad_(), torch.sin(exact[0])
        torch.autograd.grad((kernels.cross_entropy(leaf, targets) * weights).sum(), [leaf])
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            losses = kernels.cross_entropy(leaf, targets)
            (gradient,) = torch.autograd.grad((losses * weights).sum(), [leaf])
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert losses.dtype == torch.float32
        for got, wanted in zip((losses, gradient), exact, strict=True):
            assert float((got.double() - wanted).norm() / wanted.norm()) < TOLERANCE


@pytest.mark.parametrize("operation", ["rms_norm", "swiglu", "rotary"])
@pytest.mark.parametrize("name", ["liger", "compile", "plain"])
def test_kernels_equal_float64_for_packs_of_any_length(name, operation):
    kernels = kernels_or_skip(name)
    for tokens in (1024, 1999, 16384):
        inputs, others = arguments(tokens)[operation]
        exact = run(getattr(PLAIN, operation), inputs, others, CUDA, torch.float64)
        mine = run(getattr(kernels, operation), inputs, others, CUDA, torch.bfloat16)
        for got, wanted in zip(mine, exact, strict=True):
            assert got.dtype == torch.bfloat16
            assert float((got.double() - wanted).norm() / wanted.norm()) < TOLERANCE
