"""Arguments of the fused operations, their float64 references, and a tiny model's results through an implementation."""

import torch

from models.attention import pack_layout
from models.packed_vlm import PackedVLM
from tests.unit.models.tiny import tiny_pack, tiny_vlm


def states(dtype, tokens=37, seed=0):
    """Arguments of each operation, rounded to `dtype`, and a gradient for each output."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    angles = torch.rand(1, tokens, 8, generator=generator, dtype=torch.float64).repeat(1, 1, 2) * 6
    arguments = {
        "rms_norm": ((drawn(1, tokens, 96), torch.nn.Parameter(drawn(96))), (1e-5,)),
        "swiglu": ((drawn(1, tokens, 80), drawn(1, tokens, 80)), ()),
        "rotary": (
            (drawn(1, 4, tokens, 16), drawn(1, 2, tokens, 16)),
            (angles.cos().to(dtype), angles.sin().to(dtype)),
        ),
    }
    return arguments, drawn


def reference(name, wide, others):
    """Written down once more, in float64."""
    if name == "rms_norm":
        hidden, weight = wide
        return (hidden / (hidden.square().mean(-1, keepdim=True) + others[0]).sqrt() * weight,)
    if name == "swiglu":
        gate, up = wide
        return (gate / (1 + (-gate).exp()) * up,)
    cos, sin = (part.double()[:, None] for part in others)
    return tuple(part * cos + torch.cat([-part[..., 8:], part[..., :8]], -1) * sin for part in wide)


def outputs_and_gradients(function, inputs, gradients):
    leaves = [part.detach().clone().requires_grad_() for part in inputs]
    outs = function(*leaves)
    outs = outs if isinstance(outs, tuple) else (outs,)
    return [*(out.detach() for out in outs), *torch.autograd.grad(outs, leaves, gradients[: len(outs)])]


def worst(got, wanted):
    return max(float((a.double() - b).norm() / b.norm()) for a, b in zip(got, wanted, strict=True))


def errors(operations, dtype):
    found = {}
    arguments, drawn = states(dtype)
    for name, (inputs, others) in arguments.items():
        gradients = [drawn(*(part.shape)) for part in inputs]
        exact = outputs_and_gradients(
            lambda *wide, name=name, others=others: reference(name, wide, others),
            [part.detach().double() for part in inputs],
            [gradient.double() for gradient in gradients],
        )
        operation = getattr(operations, name)
        mine = outputs_and_gradients(lambda *own, f=operation, o=others: f(*own, *o), inputs, gradients)
        assert all(part.dtype == dtype for part in mine), name
        found[name] = worst(mine, exact)
    return found


def pack_results(operations):
    vlm = tiny_vlm().requires_grad_(True)
    model = PackedVLM(vlm, operations=operations)
    pack = tiny_pack((2, 1), ((9, 12), (7,)))
    layout = pack_layout(pack.groups, pack.segment_ids)
    logits = model(pack.input_ids, pack.position_ids, pack.pixels, layout, pack.label_positions)
    logits.square().mean().backward()
    return vlm, logits.detach(), {name: parameter.grad for name, parameter in vlm.named_parameters()}
