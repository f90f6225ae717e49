"""The tests themselves: each file can be run, renamed or deleted alone."""

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parent


def imported(file):
    """The modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(file.read_text())):
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
