"""Imports go one way: no circle among our modules, and only downwards between the packages."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("mcl_clip", "training", "eval", "demo", "benchmarks")
    for path in sorted((ROOT / package).rglob("*.py"))
}


def imports(module: str) -> set[str]:
    """Our modules that `module` imports, also inside functions and for types only."""
    found = set()
    for node in ast.walk(ast.parse(FILES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names & FILES.keys() or {node.module}
    return found & FILES.keys()


GRAPH = {module: imports(module) for module in FILES}


def test_no_module_is_in_a_circle():
    try:
        TopologicalSorter(GRAPH).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_a_circle_would_be_found():
    with pytest.raises(CycleError):
        TopologicalSorter(GRAPH | {"mcl_clip.errors": {"mcl_clip.fusion.load"}}).prepare()


def test_the_library_imports_no_command():
    upward = {
        f"{module} -> {other}"
        for module, others in GRAPH.items()
        for other in others
        if module.startswith("mcl_clip") and not other.startswith("mcl_clip")
    }
    assert not upward
