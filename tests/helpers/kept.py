"""A forward pass in, the bytes that autograd keeps for its backward pass out."""

import torch


def kept_bytes(run, known=()) -> int:
    """Bytes of the storages that autograd keeps in a forward pass, each once, without those of `known` tensors."""
    ours = {tensor.untyped_storage().data_ptr() for tensor in known}
    held = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in ours:
            held[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run()
    return sum(size for size, _ in held.values())
