"""What triton's kernels need of a machine, named one by one."""

import shutil
import sysconfig

import pytest

from models.triton_ready import triton_obstacle


@pytest.fixture
def complete(monkeypatch, tmp_path):
    """A machine that has everything; its headers lie in the returned directory."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}" if name == "gcc" else None)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(sysconfig, "get_paths", lambda scheme: {"include": str(tmp_path)})
    (tmp_path / "Python.h").touch()
    return tmp_path


def test_nothing_is_missing_where_all_is_there(complete):
    assert triton_obstacle() is None


def test_triton_itself(complete, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert triton_obstacle() == "needs triton, which is not installed; install a CUDA build of torch"


def test_a_compiler_by_any_of_its_names(complete, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "needs a C compiler" in str(triton_obstacle())
    monkeypatch.setenv("CC", "/opt/cc")
    assert triton_obstacle() is None


def test_pythons_headers(complete):
    (complete / "Python.h").unlink()
    assert f"needs {complete}/Python.h" in str(triton_obstacle())
