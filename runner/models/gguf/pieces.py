"""The files of a model that lies in one GGUF file or in several (``NAME-00001-of-00003.gguf``)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from runner.cache import kept_sha256
from runner.types import UserError

CONVERSION = "conversion.yaml"  # what became of the tensors, in the folder that was made of them
_PIECE = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.gguf)", re.IGNORECASE)


def all_pieces(gguf: Path) -> list[Path]:
    """The files of the model that ``gguf`` belongs to, in their order. UserError for those that are missing."""
    if (named := _PIECE.fullmatch(gguf.name)) is None:
        return [gguf]
    count = int(named["count"])
    of = f"{named['stem']}-{{:05d}}-of-{count:05d}{named['suffix']}"
    found = [gguf.with_name(of.format(at)) for at in range(1, count + 1)]
    if missing := [piece.name for piece in found if not piece.is_file()]:
        which = f"{gguf.name} is one of {count} pieces, and of these {', '.join(missing)}"
        are = "is" if len(missing) == 1 else "are"
        raise UserError(f"{which} {are} missing in {gguf.parent}: fetch all pieces into one folder")
    return found


def is_gguf(path: Path) -> bool:
    """Whether a file's name says that it is one, or how it begins: those that Ollama keeps have no such names."""
    return path.suffix.lower() == ".gguf" or begins(path) == b"GGUF"


def begins(path: Path) -> bytes:
    """The first four bytes of a file; none of one that cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(4)
    except OSError:  # a folder, or nothing, or what may not be read: told where it is read
        return b""


def gguf_files(folder: Path) -> list[Path]:
    """The GGUF models in a folder, each by its only file or the first piece that is there; what reads images beside
    them is none.
    """
    files = (file for file in folder.glob("*.[gG][gG][uU][fF]") if file.is_file() and not file.name.startswith("."))
    found = sorted(file for file in files if "mmproj" not in file.name.lower())
    models: dict[str, Path] = {}
    for file in found:
        models.setdefault(_PIECE.sub(r"\g<stem> of \g<count>", file.name), file)
    return list(models.values())


def is_model_folder(folder: Path) -> bool:
    """Whether a folder holds a model as mlx-lm loads it. A config.json also lies beside the GGUF files of some
    repositories, which have no other weights.
    """
    return (folder / "config.json").is_file() and (any(folder.glob("*.safetensors")) or not gguf_files(folder))


def name_of(gguf: Path) -> str:
    """The name of the model: the file's, without what tells one piece from another."""
    named = _PIECE.fullmatch(gguf.name)
    return named["stem"] if named else gguf.stem


def content_hash(pieces: Sequence[Path]) -> str:
    """A hexadecimal SHA-256 that stands for the content of all pieces: of the only one, or of all their own."""
    digests = [kept_sha256(piece) for piece in pieces]
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()
