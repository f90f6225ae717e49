"""The source of a user's own classes: hashes that identify it, and modules imported anew when it has changed."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

_OWN = {"rowmill", "runner", "jobs", "conf"}  # packages of the distribution
_added: list[str] = []  # folders that we put on sys.path
_imported: dict[str, tuple[Path, str]] = {}  # a user's modules: the files they came from and their hashes


def import_job_module(name: str, folders: list[str]) -> ModuleType:
    """Import a job's module, looking into ``folders`` last; anew if its file has changed since an earlier run.

    Raises whatever the module raises.
    """
    _forget_stale(folders)
    _search(folders)
    known = set(sys.modules)
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # a change within a second must not go unseen
    try:
        module = importlib.import_module(name)
        if name in known - _imported.keys() and _is_users(name, folders):
            module = importlib.reload(module)  # the user's program imported it some time ago
    finally:
        sys.dont_write_bytecode = writes
    for new in sorted({*sys.modules} - known | {name}):
        if file := _is_users(new, folders):
            _imported[new] = (file, _hash(file))
    return module


def targets(node: Any, where: str = "job") -> Iterator[tuple[str, str]]:
    """Each ``_target_`` in a job's configuration, those of its parts included: the key's path, the class."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key == "_target_" and isinstance(value, str):
                yield f"{where}.{key}", value
            yield from targets(value, f"{where}.{key}")
    if isinstance(node, list):
        for at, value in enumerate(node):
            yield from targets(value, f"{where}[{at}]")


def job_code(node: Any, folders: Iterable[str]) -> dict[str, str]:
    """The hash of each source file that a job's configuration names by ``_target_``, and of each file that those
    import from the same folder or ``folders``, by file name.

    Empty for rowmill's own jobs: what they ask and return is in a run's identity and in each recorded answer's
    digest, and a new release that changes neither must not end a long run.
    """
    found: dict[str, str] = {}
    for name in {target.rpartition(".")[0] for _, target in targets(node)}:
        file = _file_of(sys.modules.get(name))
        if file is not None and name.partition(".")[0] not in _OWN:
            roots = [_home(file, name), *(Path(folder).resolve() for folder in folders)]
            found |= {_relative(path, roots): _hash(path) for path in _reach(file, name, roots)}
    return found


def _search(folders: list[str]) -> None:
    for folder in [folder for folder in _added if folder not in folders]:
        _added.remove(folder)
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)
    for folder in folders:
        if folder not in sys.path:
            sys.path.append(folder)
            _added.append(folder)


def _forget_stale(folders: list[str]) -> None:
    """Drop all of a user's modules if one of them differs from its file, or the folders have changed."""
    fresh = (file.is_file() and _hash(file) == old for file, old in _imported.values())
    if not (set(_added) <= set(folders) and all(fresh)):
        for name in _imported:
            sys.modules.pop(name, None)
        _imported.clear()
    importlib.invalidate_caches()


def _is_users(name: str, folders: list[str]) -> Path | None:
    """The file of a module that lies in one of the folders and is neither installed nor rowmill's."""
    file = _file_of(sys.modules.get(name))
    if file is None or name.partition(".")[0] in {*_OWN, "__main__"} or "site-packages" in file.parts:
        return None
    return file if any(file.is_relative_to(Path(folder).resolve()) for folder in folders) else None


def _reach(file: Path, module: str, roots: list[Path]) -> list[Path]:
    """A module's file and those it imports from ``roots``, directly or not."""
    found: dict[Path, str] = {file: module}
    waiting = [file]
    while waiting:
        source = waiting.pop()
        for name in _imports(source, found[source]):
            for path, one in _files(name, roots):
                if path not in found:
                    found[path] = one
                    waiting.append(path)
    return sorted(found)


def _imports(file: Path, module: str) -> Iterator[str]:
    """Dotted names of all that a file imports; for ``from a import b`` also a.b, which may be a module."""
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _files(name: str, roots: list[Path]) -> Iterator[tuple[Path, str]]:
    """The files of a module and of the packages it lies in, with their names; none for installed packages."""
    parts = name.split(".")
    if parts[0] in _OWN or not all(parts):
        return
    for root in roots:
        for length in range(1, len(parts) + 1):
            path = root.joinpath(*parts[:length])
            for candidate in (path / "__init__.py", path.with_suffix(".py")):
                if candidate.is_file() and "site-packages" not in candidate.parts:
                    yield candidate.resolve(), ".".join(parts[:length])


def _home(file: Path, module: str) -> Path:
    """The folder that the module was imported from."""
    depth = module.count(".") + (file.name == "__init__.py")
    return file.parents[min(depth, len(file.parents) - 1)]


def _relative(file: Path, roots: list[Path]) -> str:
    root = next((root for root in roots if file.is_relative_to(root)), file.parent)
    return file.relative_to(root).as_posix()


def _file_of(module: Any) -> Path | None:
    file = getattr(module, "__file__", None)
    path = Path(file).resolve() if file and str(file).endswith(".py") else None
    return path if path is not None and path.is_file() else None


def _hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]
