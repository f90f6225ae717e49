"""Disks that lose power, and system calls that fail: what runs do to files, recorded and played back in part.

``disk.c`` is preloaded into a process and writes down in order what it does below a folder. ``Disk`` knows from that
which of it a sync has made sure, and ``Disk.state`` what a power cut may leave: of what is not sure, any part.
"""

import shutil
import struct
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pytest

SOURCE = Path(__file__).with_name("disk.c")
HEAD = struct.Struct("<B7xQQII")
SECTOR = 512


def build(folder):
    """The library to preload; skips the test where there is no C compiler, or no such thing as preloading."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("needs Linux and a C compiler")
    library = folder / "disk.so"
    built = [compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"]
    done = subprocess.run(built, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"the C compiler does not know this system: {done.stderr[:500]}")
    return library


def preloading(library, root, log=None):
    """The environment of a process whose calls below ``root`` are watched and, with a ``log``, written down."""
    return {"LD_PRELOAD": str(library), "SHIM_ROOT": str(root), **({"SHIM_LOG": str(log)} if log else {})}


class Call(NamedTuple):
    """What a process did: ``kind`` as in disk.c; ``path`` of a rename is the old one, ``data`` the new."""

    kind: str
    serial: int
    offset: int
    path: str
    data: bytes


def read_log(path):
    """The calls of a log in order."""
    content, at = path.read_bytes(), 0
    while at < len(content):
        kind, serial, offset, name, data = HEAD.unpack_from(content, at)
        at += HEAD.size
        yield Call(chr(kind), serial, offset, content[at : at + name].decode(), content[at + name : at + name + data])
        at += name + data


@dataclass
class File:
    """Writes and cuts in order, (place in the log, offset, data or None for a cut); sure are those before ``sure``."""

    changes: list = field(default_factory=list)
    sure: int = -1


@dataclass(eq=False)
class Folder:
    """Names given and taken, in order: (place in the log, {(id of the folder, name): File, Folder or None})."""

    changes: list = field(default_factory=list)
    sure: int = -1


class Disk:
    """What a log says of the files below ``root`` up to the call number ``until``."""

    def __init__(self, calls, root, until):
        self.root, self.until = str(root), until
        self.names, self.ever, self.opened, self.begun = {self.root: Folder()}, defaultdict(list), {}, {}
        self.folders = [self.names[self.root]]
        for place, call in enumerate(calls[:until]):
            self._take(place, call)

    def _take(self, place, call):
        if call.path and not Path(call.path).is_relative_to(self.root):
            return
        if call.kind == "O":
            self._open(place, call)
        elif call.kind in "WT" and call.serial in self.opened:
            self.opened[call.serial].changes.append((place, call.offset, call.data if call.kind == "W" else None))
        elif call.kind == "S":
            self.begun[call.serial] = place
        elif call.kind == "E" and call.serial in self.opened:
            self.opened[call.serial].sure = max(self.opened[call.serial].sure, self.begun[call.serial])
        elif call.kind == "R":
            self._rename(place, call.path, call.data.decode())
        elif call.kind == "U":
            self._name(place, {call.path: None})
        elif call.kind == "M":
            self._name(place, {call.path: self._new_folder()})

    def _new_folder(self):
        self.folders.append(Folder())
        return self.folders[-1]

    def _rename(self, place, old, new):
        self._name(place, {old: None, new: self.names[old]})
        for path in [one for one in self.names if one.startswith(f"{old}/")]:
            self.names[new + path.removeprefix(old)] = self.names.pop(path)

    def _open(self, place, call):
        known = self.names.get(call.path)
        if known is None:
            known = File()
            self._name(place, {call.path: known})
        elif call.offset:  # it was emptied
            known.changes.append((place, 0, None))
        self.opened[call.serial] = known

    def _name(self, place, changes):
        parents = [self._folder(str(Path(path).parent)) for path in changes]
        for path, what in changes.items():
            self.names[path] = what
            self.ever[path] += [what] if isinstance(what, File) else []
        named = {
            (id(parent), Path(path).name): what for parent, (path, what) in zip(parents, changes.items(), strict=True)
        }
        parents[0].changes.append((place, named))

    def _folder(self, path):
        """The folder of a path; one that was there before the log lies nowhere."""
        if not isinstance(self.names.get(path), Folder):
            self.names[path] = self._new_folder()
        return self.names[path]

    def synced(self, path):
        """Up to which call the content of a file is sure; -1 if there is no such file."""
        return max((one.sure for one in self.ever[str(path)]), default=-1)

    def state(self, chance, target):
        """Write to ``target`` what a power cut may leave. How much of what is not sure survives is drawn, too."""
        ordered = chance.random() < 0.5  # as a journal keeps names: in order, and none without those before it
        if ordered:
            self._sure_with_any_sync()
        keep_names, keep_data = chance.choice([0.0, 0.5, 1.0]), chance.choice([0.0, 0.1, 0.5, 0.9, 1.0])
        last = chance.choice([self.until, chance.randrange(self.until + 1)])
        kept = (lambda place: place <= last) if ordered else (lambda place: chance.random() < keep_names)
        names = {}
        some = [one for folder in self.folders for one in folder.changes if one[0] < folder.sure or kept(one[0])]
        for _, changes in sorted(some, key=lambda one: one[0]):
            names.update(changes)
        self._write(self.names[self.root], Path(target), names, lambda file: content(file, chance, keep_data))

    def _write(self, folder, place, names, left):
        place.mkdir(parents=True)
        for (owner, name), what in names.items():
            if owner == id(folder) and isinstance(what, Folder):
                self._write(what, place / name, names, left)
            elif owner == id(folder) and what is not None:
                (place / name).write_bytes(left(what))

    def _sure_with_any_sync(self):
        """A journal takes all names with it whenever any file or folder is synced."""
        sure = max((one.sure for one in self.opened.values()), default=-1)
        for folder in self.folders:
            folder.sure = max(folder.sure, sure)


def content(file, chance, keep):
    """What is left of a file: all that is sure, and of the rest each sector or cut with the probability ``keep``."""
    data = bytearray()
    for place, offset, written in file.changes:
        if written is None:
            if place < file.sure or chance.random() < keep:
                data[offset:] = bytes(max(0, offset - len(data)))[: max(0, offset - len(data))]
            continue
        for at in range(0, len(written), SECTOR):
            if place < file.sure or chance.random() < keep:
                piece = written[at : at + SECTOR]
                data.extend(bytes(max(0, offset + at - len(data))))
                data[offset + at : offset + at + len(piece)] = piece
    return bytes(data)


def cuts(calls, first, last, count, chance):
    """Calls after which to cut the power: anywhere, right after those that change a name or sync, and early ones."""
    turns = [at + 1 for at in range(first, last) if calls[at].kind in "ORUMSE"]
    kinds = [turns, turns[: len(turns) // 4], range(first, last + 1)]
    return [chance.choice(kinds[number % len(kinds)]) for number in range(count)]
