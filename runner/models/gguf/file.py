"""The keys and tensors of a GGUF file, or of all pieces of a split one, as plain values.

Metadata keys are those of ggml's docs/gguf.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gguf import GGUFValueType, ReaderField, ReaderTensor

from runner.models.gguf.pieces import all_pieces, begins, name_of
from runner.models.gguf.reader import OLLAMAS, Reader, UnknownBlocksError, activations, as_llama_cpp, parts_of, stacked
from runner.types import UserError
from runner.words import first_line

OTHER_BLOCKS = "use a file of another quantisation instead"
_NO_MODEL = {
    "adapter": "it is an adapter of a model, not a model",
    "imatrix": "it holds the importance of weights (an imatrix), not a model",
    "mmproj": "it reads images for a model (mmproj), which is another file",
}


# How files begin that are taken for GGUF files, and what they are.
_POINTER = "it is a pointer of Git LFS, not the file: fetch the file itself (git lfs pull)"
_PAGE = "it is a web page, not the file: fetch the file itself"
_EARLIER = "it is of a format that llama.cpp had until August 2023: fetch a GGUF file of the model"
_OTHERS = {b"vers": _POINTER, b"<!do": _PAGE, b"<htm": _PAGE}
_OTHERS |= dict.fromkeys((b"lmgg", b"fmgg", b"tjgg", b"algg"), _EARLIER)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _is_whole(value: Any) -> bool:
    return type(value) is int


def _are(value: Any, right: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(map(right, value))


_Kind = tuple[str, Callable[[Any], bool]]  # in words, and what is of it
_NUMBER: _Kind = ("a number", lambda value: _is_number(value) or _are(value, _is_number))
_COUNT: _Kind = (
    "a whole number above 0",
    lambda value: (_is_whole(value) and value > 0) or (_are(value, _is_whole) and any(value)),
)
_POSITIVE: _Kind = ("a number above 0", lambda value: _is_number(value) and value > 0)
_FLAG: _Kind = ("true or false", lambda value: isinstance(value, int))
_TEXT: _Kind = ("a text", lambda value: isinstance(value, str))
_TEXTS: _Kind = ("a list of texts", lambda value: _are(value, lambda one: isinstance(one, str)))
_ID: _Kind = ("a token's number", _is_whole)
_IDS: _Kind = ("a list of tokens' numbers", lambda value: _are(value, _is_whole))
_NUMBERS: _Kind = ("a list of numbers", lambda value: _are(value, _is_number))
# By how keys end, the first that fits; what remains of an architecture's own are numbers.
_KINDS: dict[str, _Kind] = {
    "general.architecture": _TEXT,
    "rope.scaling.type": _TEXT,
    "tokenizer.ggml.model": _TEXT,
    "tokenizer.ggml.pre": _TEXT,
    "tokenizer.ggml.tokens": _TEXTS,
    "tokenizer.ggml.merges": _TEXTS,
    "tokenizer.ggml.scores": _NUMBERS,
    "tokenizer.ggml.token_type": _NUMBERS,
    "tokenizer.ggml.add_bos_token": _FLAG,
    "tokenizer.ggml.add_space_prefix": _FLAG,
    "tokenizer.chat_template": _TEXT,
    "tokenizer.chat_templates": _TEXTS,
    "_token_id": _ID,
    "_token_ids": _IDS,
    ".context_length": _COUNT,
    ".embedding_length": _COUNT,
    ".block_count": _COUNT,
    ".attention.head_count": _COUNT,
    ".attention.key_length": _COUNT,
    ".rope.freq_base": _POSITIVE,
}


class GGUFFile:
    """``tensors`` by name, ``architecture`` as llama.cpp names it. ``unused``: settings that nobody has asked for."""

    def __init__(self, gguf: Path, name: str | None = None):
        """Raises UserError for what cannot be read, and for pieces that do not belong together. ``name``: what it is
        called in messages, if not by its file's name.
        """
        self.name = name or gguf.name
        self._values: dict[str, Any] = {}
        self.tensors: dict[str, ReaderTensor] = {}
        self._asked: set[str] = set()
        pieces = all_pieces(gguf)
        for at, piece in enumerate(pieces):
            self._add(piece, at, len(pieces))
        if len(self.tensors) != self.get("split.tensors.count", len(self.tensors)):
            raise self.error(f"its pieces hold {len(self.tensors)} tensors of {self.get('split.tensors.count')}")
        kind = "mmproj" if self.get("general.architecture") == "clip" else str(self.get("general.type"))
        if kind in _NO_MODEL:
            raise self.error(_NO_MODEL[kind], "give the file of the model")
        self.architecture = str(self.need("general.architecture"))
        self.tensors = stacked(self.tensors) | {tensor.name: tensor for tensor in activations(self._values)}
        if self.architecture == OLLAMAS:
            self._values = as_llama_cpp(self._values)
            self.architecture = str(self.need("general.architecture"))
            heads = self.setting("attention.head_count"), self.setting("attention.head_count_kv")
            self.tensors = parts_of(self.tensors.values(), *heads)

    def _add(self, piece: Path, at: int, count: int) -> None:
        if (what := _OTHERS.get(begins(piece).lower())) is not None:
            raise UserError(f"{piece} is not a GGUF file: {what}")
        try:
            reader = Reader(piece)
            values = {name: _plain(field) for name, field in reader.fields.items()}
        except UnknownBlocksError as error:
            raise self.error(str(error), OTHER_BLOCKS) from error
        except Exception as error:  # whatever the package meets in a damaged file
            again = "it may be cut off or damaged: fetch it again"
            raise UserError(f"{piece} is not a readable GGUF file ({first_line(error)}); {again}") from error
        if reader.byte_order != "I":
            raise self.error("its byte order is not this machine's")
        for key in ("split.no", "split.count"):
            if not isinstance(values.get(key, 0), int):
                raise self.error(f"its {key} is {_shown(values[key])}, and not a whole number")
        whole = max(1, values.get("split.count", 1))
        if whole == 1 != count:
            raise self.error(f"{piece.name} is a whole model, and not one of {count} pieces", "give it another name")
        if whole != count:
            named = f"name it {name_of(piece)}-{values.get('split.no', 0) + 1:05d}-of-{whole:05d}.gguf"
            raise self.error(f"it is one of {whole} pieces, and its name does not say so: {named}, beside the others")
        if values.get("split.no", 0) != at:
            raise self.error(f"{piece.name} is piece {values.get('split.no', 0) + 1}, not {at + 1}")
        other = values.get("general.architecture") not in (None, self._values.get("general.architecture"))
        twice = next((tensor.name for tensor in reader.tensors if tensor.name in self.tensors), None)
        if at and (other or twice):
            why = f"both have the tensor {twice}" if twice else "its architecture is another"
            told = f"{piece.name} is not of the same model as the pieces before it ({why})"
            raise self.error(told, "fetch all pieces of one model into one folder")
        self._values = values | self._values  # the first piece has all settings
        self.tensors |= {tensor.name: tensor for tensor in reader.tensors}

    def get(self, key: str, default: Any = None) -> Any:
        """The value of ``key``; raises UserError where the file has one of another kind."""
        self._asked.add(key)
        if (value := self._values.get(key)) is None:
            return default
        own = _NUMBER if key.startswith(f"{self._values.get('general.architecture')}.") else None
        kind = next((kind for ending, kind in _KINDS.items() if key.endswith(ending)), own)
        if kind and not kind[1](value):
            raise self.error(f"its {key} is {_shown(value)}, and not {kind[0]}")
        return value

    def need(self, key: str) -> Any:
        """The value of ``key``; raises UserError where the file lacks it."""
        value = self.get(key)
        if value is None:
            raise self.error(f"it lacks {key}")
        return value

    def setting(self, name: str, default: Any = None) -> Any:
        """A setting of the architecture, the same for all layers that have it, those without having 0 in a list.
        UserError where it is not, or is lacking.
        """
        key = f"{self.architecture}.{name}"
        value = self.need(key) if default is None else self.get(key, default)
        if not isinstance(value, list):
            return value
        values = set(value) - {0} or {0}
        if len(values) != 1:
            raise self.error(f"{key} differs from layer to layer")
        return values.pop()

    def of_first_layer(self, name: str, default: Any = None) -> Any:
        """A setting of the architecture in its first layer, whatever it is in others."""
        value = self.optional(name)
        return value[0] if isinstance(value, list) else self.setting(name, default)

    def optional(self, name: str) -> Any:
        """A setting of the architecture, None where the file lacks it."""
        return self.get(f"{self.architecture}.{name}")

    def has(self, *names: str) -> bool:
        """Whether any layer has a tensor of one of these names."""
        return any(self.layers_with(name) for name in names)

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape, rows first."""
        if name not in self.tensors:
            raise self.error(f"it lacks the tensor {name}")
        return tuple(int(n) for n in reversed(self.tensors[name].shape))

    def layers_with(self, name: str) -> list[int]:
        """The layers that have a tensor ``name``, in their order."""
        parts = (tensor.split(".", 2) for tensor in self.tensors if tensor.startswith("blk."))
        return sorted(int(number) for _, number, rest in parts if rest == name)

    def layer_shape(self, name: str) -> tuple[int, ...]:
        """The shape of ``name`` in the first layer that has it; UserError where none has."""
        return self.shape(f"blk.{next(iter(self.layers_with(name)), 0)}.{name}")

    def unused(self) -> list[str]:
        """The settings of the architecture that nobody has asked for."""
        own = (key for key in self._values if key.startswith(f"{self.architecture}."))
        return sorted(key for key in own if key not in self._asked)

    def error(self, reason: str, instead: str = "use an MLX or safetensors folder instead") -> UserError:
        """What is wrong with the file, with what to do."""
        return UserError(f"{self.name} cannot be converted: {reason}; {instead}", exit_code=3)


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 50 else f"{shown[:47]}..."


def _plain(field: ReaderField) -> Any:
    """A field's value; a float32 becomes the shortest decimal that rounds to it."""
    if field.types == [GGUFValueType.FLOAT32]:
        return float(str(field.parts[-1][0]))
    return field.contents()
