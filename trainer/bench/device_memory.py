"""A device on which steps were run in; the most memory that they took of it, in bytes, out."""

import torch


def measured_memory(device: torch.device) -> dict[str, int | None]:
    """The peak, and its two parts; None for each on a CPU.

    `measured_by_torch` is the most that torch's allocator held since its peak was last reset. `measured_outside` is
    what is taken beside it at the end: CUDA's context, libraries' workspaces, NCCL's buffers, and whatever other
    processes hold of the device.
    """
    if device.type != "cuda":
        return dict.fromkeys(("measured_peak", "measured_by_torch", "measured_outside"))
    free, total = torch.cuda.mem_get_info(device)
    outside = total - free - torch.cuda.memory_reserved(device)
    peak = torch.cuda.max_memory_reserved(device)
    return {"measured_peak": peak + outside, "measured_by_torch": peak, "measured_outside": outside}
