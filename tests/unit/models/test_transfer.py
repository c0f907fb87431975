"""Which copies go through page-locked memory."""

from unittest import mock

import pytest
import torch

from models.transfer import sent


@pytest.mark.parametrize(
    ("device", "pinned", "wanted"),
    [
        ("cuda", False, ["pin", "cuda"]),
        ("cuda:1", True, ["cuda:1"]),
        ("cpu", False, ["cpu"]),
        ("meta", False, ["meta"]),
    ],
)
def test_a_gpu_gets_its_copy_from_page_locked_memory(device, pinned, wanted):
    done = []

    def pin_memory(tensor):
        done.append("pin")
        return tensor

    def to(tensor, place, *, non_blocking):
        assert non_blocking
        done.append(str(place))
        return tensor

    tensor = torch.zeros(3)
    with (
        mock.patch.object(torch.Tensor, "pin_memory", pin_memory),
        mock.patch.object(torch.Tensor, "is_pinned", return_value=pinned),
        mock.patch.object(torch.Tensor, "to", to),
    ):
        sent(tensor, device)
    assert done == wanted


def test_values_stay():
    tensor = torch.arange(5)
    assert sent(tensor, "cpu") is tensor
    assert sent(tensor, torch.device("meta")).shape == (5,)
