"""What is compiled for one test does not count for the next."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _compiled_anew() -> Iterator[None]:
    yield
    torch._dynamo.reset()
