"""The tests themselves: each file can be run, renamed or deleted alone, and lies where the room that it tests does."""

import ast
import importlib.util
import re
from pathlib import Path

TESTS = Path(__file__).parent
FILES = [file for file in sorted(TESTS.rglob("*.py")) if "bench" not in file.parts]
ROOT = TESTS.parent
OTHERS = {"bench", "support"}  # folders without tests
PUBLIC = {"_asdict", "_exit", "_fields", "_replace"}  # the standard library's, in spite of their names


def imported(file):
    """The modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_no_file_imports_a_test():
    files = TESTS.rglob("*.py")
    found = {
        str(file.relative_to(TESTS)): {*filter(re.compile(r"tests\.(\w+\.)*test_").match, imported(file))}
        for file in files
    }
    assert {file: names for file, names in found.items() if names} == {}


def test_what_measuring_programs_import_exists():
    """They run by hand, some on a GPU only: what was renamed would be found too late."""
    for file in sorted((TESTS / "bench").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith(("runner", "jobs", "tests")):
                module = importlib.import_module(node.module)
                for alias in node.names:
                    name = f"{node.module}.{alias.name}"
                    assert hasattr(module, alias.name) or importlib.util.find_spec(name), f"{file.name}: {name}"


def test_each_folder_is_named_like_the_room_that_it_tests():
    rooms = {path.name for path in (ROOT / "runner").iterdir() if path.is_dir()} | {"jobs"}
    folders = {path.parent.name for path in TESTS.glob("*/__init__.py")}
    assert folders - rooms == OTHERS


def private(node):
    """The private names that a piece of a program takes from elsewhere."""
    names = []
    if isinstance(node, ast.ImportFrom):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.Attribute) and getattr(node.value, "id", "") not in ("self", "cls"):
        names = [node.attr]
    elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("setattr", "delattr", "getattr"):
        names = [str(one.value).rpartition(".")[2] for one in node.args if isinstance(one, ast.Constant)]
    return [name for name in names if re.match(r"_[a-zA-Z]", name) and name not in PUBLIC]


def test_who_takes_a_private_name_says_why():
    """In a comment above it in the same function, or above the imports for a whole file."""
    silent = []
    for file in FILES:
        text = file.read_text(encoding="utf-8")
        lines, for_all = text.splitlines(), re.search(r"^# .*\bprivate\b.*\nimport ", text, re.MULTILINE)
        for node in ast.parse(text).body:
            taken = [one.lineno for one in ast.walk(node) if private(one)]
            if taken and not for_all and not any("#" in line for line in lines[node.lineno - 2 : min(taken)]):
                silent.append(f"{file.relative_to(TESTS)}:{min(taken)}")
    assert not silent
