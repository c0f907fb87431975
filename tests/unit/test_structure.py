"""How the source is built: which way imports go, how large files and functions are, what names they bear."""

import ast
import subprocess
import sys

import pytest

from tests.helpers.paths import ROOT

PACKAGES = ("data_shards", "models", "trainer", "slurm")
MAY_IMPORT = {
    "data_shards": {"data_shards"},
    "models": {"models"},
    "trainer": {"trainer", "data_shards", "models"},
    "slurm": {"slurm"},
}
MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 60


def source_files():
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    files = [ROOT / name for name in listed if name.split("/")[0] in PACKAGES]
    return sorted(path for path in files if path.is_file())


def imported_modules(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module or ""


@pytest.fixture(scope="module")
def trees():
    files = source_files()
    assert len(files) > 10
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text()) for path in files}


def test_imports_go_one_way(trees):
    wrong = [
        f"{path} imports {module}"
        for path, tree in trees.items()
        for module in imported_modules(tree)
        if module.split(".")[0] in PACKAGES and module.split(".")[0] not in MAY_IMPORT[path.split("/")[0]]
    ]
    assert not wrong


def importers(trees, package):
    return {
        path
        for path, tree in trees.items()
        for module in imported_modules(tree)
        if module == package or module.startswith(f"{package}.")
    }


def test_only_the_engine_imports_deepspeed(trees):
    assert importers(trees, "deepspeed") == {"trainer/engine_import.py"}
    assert importers(trees, "trainer.engine_import") == {"trainer/engine.py", "trainer/engine_partition.py"}


def test_the_cluster_code_needs_no_torch(trees):
    heavy = {"torch", "deepspeed", "transformers"}
    wrong = [
        path
        for path, tree in trees.items()
        if path.startswith("slurm/") and heavy & {module.split(".")[0] for module in imported_modules(tree)}
    ]
    assert not wrong


def test_no_file_takes_a_standard_library_name(trees):
    names = [part for path in trees for part in path.removesuffix(".py").split("/")]
    assert not {name for name in names if name in sys.stdlib_module_names}


def test_files_and_functions_fit_their_limits(trees):
    wrong = []
    for path, tree in trees.items():
        lines = (ROOT / path).read_text().count("\n")
        if lines > MAX_FILE_LINES:
            wrong.append(f"{path}: {lines} lines, at most {MAX_FILE_LINES}")
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES:
                wrong.append(
                    f"{path}: {node.name} has {node.end_lineno - node.lineno + 1} lines, at most {MAX_FUNCTION_LINES}"
                )
    assert not wrong


def test_every_file_says_what_it_is(trees):
    assert not [path for path, tree in trees.items() if tree.body and not ast.get_docstring(tree)]


def is_swallowed(handler):
    """A broad handler may clean up, but ends by raising what it caught."""
    last = handler.body[-1]
    return not (isinstance(last, ast.Raise) and last.exc is None)


def test_no_broad_except_swallows_what_it_caught(trees):
    wrong = [
        f"{path}:{node.lineno}"
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or getattr(node.type, "id", "") in ("Exception", "BaseException"))
        and is_swallowed(node)
    ]
    assert not wrong


def test_nothing_is_unpickled_and_no_remote_code_runs(trees):
    wrong = [
        path
        for path, tree in trees.items()
        if "pickle" in imported_modules(tree)
        or any(isinstance(node, ast.keyword) and node.arg == "trust_remote_code" for node in ast.walk(tree))
    ]
    assert not wrong


def test_a_package_has_one_version_in_all_requirements_files():
    pins: dict[str, set[str]] = {}
    for file in ROOT.glob("requirements*.txt"):
        for line in file.read_text().splitlines():
            name, found, version = line.split("#")[0].strip().partition("==")
            if found:
                pins.setdefault(name, set()).add(version)
    assert len(pins) > 15
    assert [name for name, versions in pins.items() if len(versions) > 1] == []
