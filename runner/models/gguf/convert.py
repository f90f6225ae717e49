"""A GGUF file rewritten as the kind of model folder that mlx-lm loads, a few tensors in memory at a time.

Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, TQ1_0, TQ2_0 and MXFP4 tensors stay as they are (weight, scales, biases in
groups of 32).
Other quantised types get the bits of the file, or the next more that MLX has, and what that loses is measured. Numbers
that are not quantised become float32 beside those that are, float16 or bfloat16 by themselves.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import yaml
from gguf import GGMLQuantizationType

from runner.models.gguf.architectures import architecture_of, config_of
from runner.models.gguf.blocks import GROUP_SIZE, Form, WrongBlocksError, check_decodable
from runner.models.gguf.file import OTHER_BLOCKS, GGUFFile
from runner.models.gguf.layout import Slot, slots
from runner.models.gguf.pieces import CONVERSION
from runner.models.gguf.reader import UnknownBlocksError
from runner.models.gguf.tokens import check
from runner.models.gguf.tokens.tokenizer import Vocabulary, build, tokenizer_config
from runner.models.transfer import check_room, save_tensors
from runner.words import count_of, first_line, listed

SHARD_BYTES = 1 << 29  # what is held in memory at once
# Settings that shapes of tensors say, too, or that change nothing here.
_SAID_TWICE = (
    "feed_forward_length",
    "expert_feed_forward_length",
    "expert_shared_feed_forward_length",
    "rope.dimension_count",
    "rope.scaling.finetuned",
    "expert_shared_count",
    "leading_dense_block_count",
    "vocab_size",
)

Tell = Callable[[int | str], None]


class Asked(NamedTuple):
    """A conversion: ``bits`` and ``group_size`` None where the file's own stay; ``name`` the file's in messages."""

    gguf: str
    folder: str
    name: str | None = None
    bits: int | None = None
    group_size: int | None = None


def convert_gguf(asked: Asked, tell: Tell = lambda read: None) -> None:
    """Write config.json, the weights and the tokenizer's files into the existing folder.

    ``tell`` is called with the bytes of each tensor that was read, and with lines for people.
    Raises UserError for what this converter does not know: it never guesses. A damaged file may crash the process.
    """
    mx.set_default_device(mx.cpu)
    file, folder = GGUFFile(Path(asked.gguf), asked.name), Path(asked.folder)
    architecture = architecture_of(file)
    vocabulary = Vocabulary(file)
    config = config_of(file, vocabulary.ends())
    tokenizer = build(vocabulary)
    check.check(tokenizer, vocabulary, config["vocab_size"])
    if vocabulary.guessed:
        tell("the file does not say how words are cut, so they are cut as llama.cpp cuts them; a newer file is safer")
    found = slots(file, architecture, config)
    try:
        check_decodable(tensor for slot in found for tensor in slot.tensors)
    except UnknownBlocksError as error:
        raise file.error(str(error), OTHER_BLOCKS) from error
    if unused := [key for key in file.unused() if not key.endswith(_SAID_TWICE)]:
        tell(f"settings of the file that mlx-lm's {config['model_type']} does not have: {', '.join(unused)}")
    settings = tokenizer_config(vocabulary, config["max_position_embeddings"])
    if "chat_template" not in settings:
        tell("the file has no chat template: a run needs prompt.chat=false, or a chat_template.jinja in the new folder")
    forms = {slot: slot.form(asked.bits, asked.group_size or GROUP_SIZE) for slot in found}
    dtype = _dtype(file, forms)
    check_room(folder.parent.parent, sum(_bytes(slot, form, dtype) for slot, form in forms.items()))
    _write_weights(file, forms, folder, dtype, tell)
    quantization = _quantization({slot.layer: form for slot, form in forms.items() if form.bits})
    _write_json(folder / "config.json", config | ({"quantization": quantization} if quantization else {}))
    _write_json(folder / "tokenizer_config.json", settings)
    (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
    _write_conversion(file, forms, folder, tokenizer.encode(check.TEXT).ids, tell)


def _dtype(file: GGUFFile, forms: dict[Slot, Form]) -> mx.Dtype:
    """The one floating type of the weights: float32 where any is quantised, as float16 scales are slow on a CPU."""
    return mx.float32 if any(form.bits for form in forms.values()) else _plain_dtype(file)


def _bytes(slot: Slot, form: Form, dtype: mx.Dtype) -> int:
    """What the slot's arrays take."""
    count = math.prod(slot.shape)
    if not form.bits:
        return count * dtype.size
    scales = 1 if form.mode == "mxfp4" else 2 * mx.float32.size
    return count * form.bits // 8 + count // form.group_size * scales


def _write_weights(file: GGUFFile, forms: dict[Slot, Form], folder: Path, dtype: mx.Dtype, tell: Tell) -> None:
    """Write the weights, a shard at a time."""
    written: list[Path] = []
    shard: dict[str, mx.array] = {}
    zeros: list[str] = []
    for slot, form in forms.items():
        try:
            arrays = slot.arrays(dtype, form)
        except (ValueError, WrongBlocksError) as problem:
            raise file.error(first_line(problem)) from problem
        mx.eval(arrays)
        if _is_zero(slot, arrays):
            zeros.append(slot.tensors[0].name)
        if shard and _size(shard) + _size(arrays) > SHARD_BYTES:
            written.append(_write_shard(folder, len(written), shard))
            shard = {}
        shard |= arrays
        tell(slot.bytes_read)
    written.append(_write_shard(folder, len(written), shard))
    for at, path in enumerate(written):
        name = f"model-{at + 1:05d}-of-{len(written):05d}.safetensors" if len(written) > 1 else "model.safetensors"
        path.rename(folder / name)
    if zeros:
        count = count_of(len(zeros), "tensor")
        tell(f"{count} of nothing but zeros ({listed(zeros, 3)}): if the download was cut off, fetch the file again")


def _is_zero(slot: Slot, arrays: dict[str, mx.array]) -> bool:
    """Whether a matrix of the file says nothing: where a download was cut off, many programs leave zeros."""
    ending = ".scales" if len(arrays) > 1 else ""
    (telling,) = (array for name, array in arrays.items() if name.endswith(ending))
    return bool(slot.tensors) and len(slot.shape) > 1 and not mx.any(telling).item()


def _write_shard(folder: Path, at: int, shard: dict[str, mx.array]) -> Path:
    path = folder / f"model-{at + 1:05d}.safetensors"
    save_tensors(path, shard)
    shard.clear()
    mx.clear_cache()
    return path


def _size(arrays: dict[str, mx.array]) -> int:
    return sum(int(array.nbytes) for array in arrays.values())


def _plain_dtype(file: GGUFFile) -> mx.Dtype:
    kinds = {GGMLQuantizationType.F32: mx.float32, GGMLQuantizationType.BF16: mx.bfloat16}
    return kinds.get(file.tensors["token_embd.weight"].tensor_type, mx.float16)


def _quantization(forms: dict[str, Form]) -> dict[str, Any]:
    """mlx-lm's table: the commonest form for all layers, and each layer that differs by name."""
    if not forms:
        return {}
    common = Counter(form._replace(exact=True) for form in forms.values()).most_common(1)[0][0]
    others = {layer: form for layer, form in sorted(forms.items()) if form[:3] != common[:3]}
    modes = {form.mode for form in forms.values()} != {"affine"}
    return {**_entry(common, modes), **{layer: _entry(form, modes) for layer, form in others.items()}}


def _entry(form: Form, mode: bool) -> dict[str, Any]:
    return {"group_size": form.group_size, "bits": form.bits, **({"mode": form.mode} if mode else {})}


def _write_conversion(file: GGUFFile, forms: dict[Slot, Form], folder: Path, ids: list[int], tell: Tell) -> None:
    """What became of the tensors, and what that lost: beside what identifies the model, for people."""
    rounded = {slot: form for slot, form in forms.items() if form.bits and not form.exact}
    content: dict[str, Any] = {"file": file.name, "tensors": dict(_kinds(forms))}
    if rounded:
        from runner.models.gguf.loss import Perplexities

        tell(f"measuring what is lost in {len(rounded)} tensors that MLX has no blocks for")
        found = Perplexities.of(folder, list(rounded), ids)
        content["perplexity"] = found._asdict()
        tell(found.in_words())
    (folder / CONVERSION).write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def _kinds(forms: dict[Slot, Form]) -> Iterator[tuple[str, str]]:
    """Each type of tensors with what they became."""
    pairs = [(tensor.tensor_type.name, form) for slot, form in forms.items() for tensor in slot.tensors]
    for kind, form in sorted(pairs, key=lambda pair: pair[0]):
        how = f"{form.bits} bits in groups of {form.group_size}" + (", rounded" if not form.exact else "")
        yield kind, how if form.bits else "plain numbers"


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
