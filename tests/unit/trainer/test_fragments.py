"""Any range of a parameter is read from files that cut it otherwise, and from no more files than it needs."""

import pytest
import torch

from models.safetensors_format import WeightsFileError, file_blocks
from trainer.fragments import FragmentReader, fragment_name, number_name

WHOLE = torch.arange(10, dtype=torch.float32) / 3
CUTS = (0, 4, 4, 9, 10)


@pytest.fixture
def files(tmp_path):
    paths = []
    for rank, (start, end) in enumerate(zip(CUTS[:-1], CUTS[1:], strict=True)):
        tensors = {fragment_name("a.b@c/d", "exp_avg", start): WHOLE[start:end].clone()}
        tensors[number_name("a.b@c/d", "step")] = torch.tensor([7.0], dtype=torch.float64)
        paths.append(tmp_path / f"rank-{rank}")
        paths[-1].write_bytes(b"".join(file_blocks(tensors)))
    return paths


def test_every_range_is_read_bit_for_bit(files):
    for start in range(10):
        for count in range(1, 11 - start):
            read = FragmentReader(files).read("a.b@c/d", "exp_avg", start, count)
            assert torch.equal(read, WHOLE[start : start + count])


def test_keys_and_numbers_of_a_parameter(files):
    reader = FragmentReader(files)
    assert reader.keys("a.b@c/d") == ["exp_avg"]
    assert reader.numbers("a.b@c/d") == {"step": 7.0}


def test_files_that_are_not_needed_are_not_opened(files):
    for path in files[1:]:
        path.unlink()
    assert torch.equal(FragmentReader(files).read("a.b@c/d", "exp_avg", 1, 3), WHOLE[1:4])


def test_what_no_file_holds_is_an_error(files):
    with pytest.raises(WeightsFileError, match="value 4 of exp_avg is in no rank's file"):
        FragmentReader(files[:1]).read("a.b@c/d", "exp_avg", 0, 6)
    with pytest.raises(WeightsFileError, match="parameter 'e': got none"):
        FragmentReader(files).keys("e")
