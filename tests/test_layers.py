"""The order of the rooms: a module imports only from rooms above its own, and no import goes in a circle."""

from __future__ import annotations

import ast
import functools
import importlib
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LEAVES = ["early", "types", "bare", "plain", "patterns", "sequences", "keys", "signals", "disk", "cache"]
LEAVES += ["words", "console"]
# From the ground up. A room may import those before it; inside of one, anything that closes no circle.
ROOMS = ["leaves"]
ROOMS += [f"runner.{name}" for name in ("custom", "machine", "models", "text", "data", "engine", "checkpoint", "night")]
ROOMS += [f"runner.{name}" for name in ("fleet", "results", "chain", "runs", "report", "config", "export", "loop")]
ROOMS += ["runner.session", "runner.stages", "runner", "jobs", "runner.cli", "runner.rowmill"]
MOST_FILES, MOST_LINES = 12, 350


def modules() -> dict[str, Path]:
    """Each module of the two packages by its dotted name."""
    found = {}
    for top in ("runner", "jobs"):
        for path in sorted((ROOT / top).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def room(module: str) -> str:
    """The room that a module lies in."""
    if module.removeprefix("runner.").partition(".")[0] in LEAVES:
        return "leaves"
    return max((name for name in ROOMS if f"{module}.".startswith(f"{name}.")), key=len)


def imports(path: Path, known: dict[str, Path]) -> Iterator[tuple[str, int]]:
    """The modules that a file imports, early, late or for type checkers only, with the line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            yield from ((name, node.lineno) for name in inner & known.keys())
            if inner - known.keys():
                yield str(node.module), node.lineno


MODULES = modules()


@functools.cache
def all_imports() -> dict[str, list[tuple[str, int]]]:
    """What each module imports, read once, and only where a test asks for it."""
    return {name: sorted(set(imports(path, MODULES))) for name, path in MODULES.items()}


def test_a_module_imports_only_from_its_own_room_and_those_below():
    upward = [
        f"{name}:{line} imports {other}"
        for name, others in all_imports().items()
        for other, line in others
        if ROOMS.index(room(other)) > ROOMS.index(room(name))
    ]
    assert not upward, "\n".join(upward)


def test_no_import_goes_in_a_circle():
    graph = {name: {other for other, _ in others if other != name} for name, others in all_imports().items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle = error.args[1]
        pytest.fail(" -> ".join(reversed(circle)))


def test_the_loop_knows_neither_mlx_nor_the_engine():
    for name, path in MODULES.items():
        if room(name) == "runner.loop":
            tree = ast.parse(path.read_text(encoding="utf-8"))
            named = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
            named |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
            foreign = sorted(one for one in named if one.split(".")[0] in ("mlx", "mlx_lm") or "runner.engine" in one)
            assert not foreign, f"{name} imports {foreign}"


def test_runner_names_no_job():
    named = [
        f"{name}:{line}"
        for name, found in all_imports().items()
        if name.startswith("runner")
        for other, line in found
        if other.startswith("jobs") and room(name) != "runner.cli"
    ]
    assert not named


def test_a_folder_has_at_most_12_files_and_a_file_at_most_350_lines():
    for folder in {path.parent for path in MODULES.values()}:
        files = [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(files) <= MOST_FILES, f"{folder.relative_to(ROOT)}: {', '.join(sorted(files))}"
    for path in MODULES.values():
        assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES, path.relative_to(ROOT)


def spelled_names(path: Path) -> Iterator[tuple[str, int]]:
    """The dotted names of ours in a module's strings, its docstrings and the code that it hands to processes."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            # Neither a part of a longer name, nor a file, an address or an example of one's own.
            for found in re.finditer(r"(?<![\w./-])(?:runner|jobs)(?:\.[A-Za-z_]\w*)+(?![\w/-])", node.value):
                yield found[0], node.lineno


def exists(name: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one."""
    module, attributes = name, []
    while module not in MODULES:
        module, _, last = module.rpartition(".")
        attributes.insert(0, last)
    found: object = importlib.import_module(module)
    for attribute in attributes:
        declared = getattr(found, "__annotations__", {})  # a field without a default is no attribute
        if not hasattr(found, attribute) and attribute not in declared:
            return False
        found = getattr(found, attribute, None)
    return True


def test_every_dotted_name_of_ours_in_a_string_exists():
    unknown = [
        f"{name}:{line} names {spelled}"
        for name, path in MODULES.items()
        for spelled, line in spelled_names(path)
        if not exists(spelled)
    ]
    assert not unknown, "\n".join(unknown)


def package_map(package: str) -> str:
    """A line ``module  its docstring's first line`` for each module of a package, as its own docstring has them."""
    inside = [name for name in MODULES if name.rpartition(".")[0] == package]
    width = max(len(name.rpartition(".")[2]) for name in inside)
    return "\n".join(f"{name.rpartition('.')[2]:<{width}}  {first_line(name)}" for name in inside)


def first_line(module: str) -> str:
    docstring = ast.get_docstring(ast.parse(MODULES[module].read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0]


@pytest.mark.parametrize("package", [name for name, path in MODULES.items() if path.name == "__init__.py"])
def test_a_packages_docstring_is_its_map(package):
    docstring = ast.get_docstring(ast.parse(MODULES[package].read_text(encoding="utf-8"))) or ""
    found = docstring.partition("Modules:\n")[2]
    assert found == package_map(package), f"{package}: the map should read\n{package_map(package)}"
