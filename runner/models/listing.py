"""The models on this machine: those made of GGUF files, and those of Ollama and LM Studio."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypedDict

import yaml

from runner.cache import cache_dir
from runner.models.gguf.pieces import CONVERSION
from runner.models.installed import all_installed


class Listed(TypedDict):
    """A model: ``model`` is what ``model=`` or ``model.path=`` takes; ``note`` what there is to know of it."""

    model: str
    bytes: int
    note: str


def listed_models() -> list[Listed]:
    """All of them, the converted ones first."""
    folders = sorted(path for path in (cache_dir() / "models").glob("[!.]*") if path.is_dir())
    own = [Listed(model=f"model.path={one}", bytes=_size(one), note=loss_of(one) or "") for one in folders]
    others = [
        Listed(model=f"model={one.address}", bytes=one.size_bytes, note=one.problem or "") for one in all_installed()
    ]
    return own + others


def loss_of(folder: Path) -> str | None:
    """What the model in a folder lost when it was made of a GGUF file, in words; None where nothing was rounded."""
    try:
        content: Any = yaml.safe_load((folder / CONVERSION).read_text(encoding="utf-8"))
        file, found = content["file"], content["perplexity"]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return None
    more = f"{found['converted'] / found['file'] - 1:+.1%}"
    return (
        f"made of {file}, rounded: perplexity of a short text {found['file']:.2f} -> {found['converted']:.2f} ({more})"
    )


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
