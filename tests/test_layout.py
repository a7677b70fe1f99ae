"""The layout: imports run downwards alone, and modules are small enough to read."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("model", "systems", "utils")
# What each package may import of the others. Scripts and benchmarks stand on all of them.
MAY_IMPORT = {"model": {"model"}, "systems": {"systems"}, "utils": set(PACKAGES)}
# It registers the environment for the import that docs/tools.md names, and nothing imports it.
EXCEPTIONS = {("systems/compressed_env.py", "utils")}
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
EVERYTHING = [*MODULES, *ROOT.glob("*.py"), *(ROOT / "benchmarks").glob("*.py")]


def imports(path, at_module_level=False):
    """The first names of all that a module imports."""
    tree = ast.parse(path.read_text())
    for node in tree.body if at_module_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.split(".")[0]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_import_runs_upwards(path):
    name = str(path.relative_to(ROOT))
    ours = set(imports(path)) & {*PACKAGES, "tests", "benchmarks"}
    upwards = ours - MAY_IMPORT[path.relative_to(ROOT).parts[0]]
    assert not {other for other in upwards if (name, other) not in EXCEPTIONS}
    scripts = {script.stem for script in ROOT.glob("*.py")}
    assert not set(imports(path)) & scripts


def test_utils_own_packages_are_ordered_too():
    # What a folder of utils may import of the other folders: clips and logs are made while training
    # and acting.
    may = {"training": {"training", "watching"}, "watching": {"watching"}}
    may["acting"] = {"acting", "watching"}
    for folder, allowed in may.items():
        for path in (ROOT / "utils" / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom) and node.module.startswith("utils."):
                    other = node.module.split(".")[1]
                    assert other not in may or other in allowed, (path, node.module)


def test_what_needs_a_package_is_where_it_belongs():
    users = {name: [] for name in ("ale_py", "keras", "tensorflow")}
    for path in EVERYTHING:
        for name in set(imports(path)) & set(users):
            users[name].append(str(path.relative_to(ROOT)))
    ours = [path for path in users["ale_py"] if not path.startswith("benchmarks/")]
    assert ours == ["systems/atari.py"]
    assert not [path for path in users["keras"] if path.startswith("systems/")]
    for path in (ROOT / "model").glob("*.py"):
        assert "tensorflow" not in imports(path, at_module_level=True)


def test_no_module_is_longer_than_400_lines():
    lengths = {path: len(path.read_text().splitlines()) for path in EVERYTHING}
    assert {str(path): length for path, length in lengths.items() if length > 400} == {}


def test_no_module_reads_a_configuration_as_a_dict():
    assert [path.name for path in EVERYTHING if 'config["' in path.read_text()] == []
