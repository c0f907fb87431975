"""One tiny world for all two-rank tests of a session."""

from pathlib import Path

import pytest

from tests.helpers.stages import make_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))
