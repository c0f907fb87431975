"""Small tensors that are made on the host for each batch in, the same on the device that computes out."""

import torch


def sent(tensor: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """The tensor on `device`, with no wait of the host.

    A copy to a GPU goes through page-locked memory: from other memory the driver may wait for all that the GPU still
    has to do, whatever `non_blocking` says. Torch keeps the page-locked copy until it was read.
    """
    if torch.device(device).type == "cuda" and tensor.device.type == "cpu" and not tensor.is_pinned():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
