"""What a seat says of itself, and how it must not differ from the driver."""

from __future__ import annotations

import hashlib
import os
import pickle
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runner.fleet.protocol import PROTOCOL, Failed, Handshake, Spec, packed
from runner.machine.facts import package_version
from runner.models.tensors import weights_hash
from runner.sequences import Costs

_SAME = {"rowmill": "rowmill", "wire": "protocol", "mlx": "mlx", "mlx_lm": "mlx-lm"}
_SAME |= {"tokenizer": "tokenizer", "weights": "model files"}
_TOKENIZER = ("tokenizer.json", "tokenizer.model", "generation_config.json")


def handshake_of(folder: Path | None, weights: str | None = None) -> Handshake:
    """The versions here and the model in ``folder`` (None: the fake engine's); imports no MLX.

    ``weights``: their hash where it is known, which takes a while to find out.
    """
    rowmill, mlx, mlx_lm = (package_version(name) for name in ("rowmill", "mlx", "mlx-lm"))
    weights = (weights or weights_hash(folder))[:16] if folder else None
    tokenizer = _tokenizer_hash(folder) if folder else None
    known = (rowmill, mlx, mlx_lm, weights, tokenizer)
    return Handshake(PROTOCOL, *known, host(), os.getpid(), "fake", None, 1, Costs())


def host() -> str:
    """The name of this machine."""
    return short(platform.node())


def short(name: str) -> str:
    """A machine's name without its domain; some have an address as their name."""
    is_address = name.replace(".", "").isdecimal()
    return name if is_address else name.partition(".")[0] or "localhost"


def opening(spec: Spec) -> bytes:
    """What a seat gets first: ``spec``, which another version may not be able to read, and what must be the same."""
    return packed((_versions(), packed(spec)))


def opened(said: bytes) -> Spec | Failed:
    """The inverse, in the seat's process."""
    versions, spec = pickle.loads(said)
    if (why := difference(_versions(), versions)) is not None:
        return Failed(why, is_final=True)
    opened: Spec = pickle.loads(spec)
    return opened


def _versions() -> dict[str, Any]:
    return {"rowmill": package_version("rowmill"), "wire": PROTOCOL}


def difference(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str | None:
    """What keeps a seat from taking part, in words; what the driver does not know of itself may be anything."""
    for name, what in _SAME.items():
        mine, other = ours.get(name), theirs.get(name)
        if mine is not None and mine != other:
            return f"its {what} differ{'' if what.endswith('s') else 's'} from the driver's: {other} is not {mine}"
    return None


def adopted(ours: Handshake, theirs: Handshake) -> Handshake:
    """The driver's, with the first seat's versions of what the driver does not have."""
    known = {name: getattr(theirs, name) for name in _SAME if getattr(ours, name) is None}
    return ours._replace(**known)


def _tokenizer_hash(folder: Path) -> str:
    """What tells the tokenizer in a model folder from others, and the ends of its answers."""
    digest = hashlib.sha256()
    for name in _TOKENIZER:
        if (folder / name).is_file():
            digest.update(name.encode() + b"\0" + (folder / name).read_bytes())
    return digest.hexdigest()[:16]
