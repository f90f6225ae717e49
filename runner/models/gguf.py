"""A GGUF file rewritten as the kind of model folder that mlx-lm loads.

Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K and Q5_K tensors stay quantised (weight, scales, biases in groups of 32); other types
become float32 beside them, float16 by themselves. What is left to do: names, the row order of the query and key
projections, the tokenizer and config.json. Metadata keys are those of ggml's docs/gguf.md.

``main([FILE, FOLDER])`` does one conversion, in a process of its own that a damaged file may bring down.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, ReaderField
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from runner.models.blocks import GROUP_SIZE, WrongBlocksError, decode, stays_quantised
from runner.types import UserError
from runner.words import first_line

_CONTROL, _USER_DEFINED = 3, 4  # values of tokenizer.ggml.token_type

_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_norm": "input_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_norm": "post_attention_layernorm",
}

# Pre-tokenizers by llama.cpp's name (llm_tokenizer_bpe in src/llama-vocab.cpp): GPT-2's split, with True after each
# digit has become a word of its own.
_DIGITS_APART = {"smollm": True, "starcoder": True, "refact": True, "codeshell": True, "gpt-2": False}


def convert_gguf(gguf: Path, folder: Path, tell: Callable[[int], None] = lambda read: None) -> None:
    """Write config.json, model.safetensors and the tokenizer's files for ``gguf`` into the existing ``folder``.

    ``tell`` is called with the bytes of each tensor that was read.
    Raises UserError for what this converter does not know: it never guesses. A damaged file may crash the process.
    """
    mx.set_default_device(mx.cpu)
    try:
        reader = GGUFReader(gguf)
        meta = _Metadata(gguf, reader)
    except Exception as error:  # whatever the package meets in a damaged file
        raise UserError(f"{gguf} is not a readable GGUF file: {first_line(error)}") from error
    _refuse_unsupported(meta)
    weights = _weights(meta, tell)
    config = _config(meta, weights)
    _write_json(folder / "config.json", config)
    _write_json(folder / "tokenizer_config.json", _tokenizer_config(meta))
    _tokenizer(meta).save(str(folder / "tokenizer.json"))
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})


class _Metadata:
    """The file's key-value pairs as plain Python values; ``tensors`` by name."""

    def __init__(self, gguf: Path, reader: GGUFReader):
        self.gguf = gguf
        self.tensors = {tensor.name: tensor for tensor in reader.tensors}
        self._values = {name: _plain(field) for name, field in reader.fields.items()}
        if reader.byte_order != "I":
            raise self.error("its byte order is not this machine's")

    def get(self, key: str, default: Any = None) -> Any:
        """The value of ``key``."""
        return self._values.get(key, default)

    def need(self, key: str) -> Any:
        """The value of ``key``; raises UserError where the file lacks it."""
        value = self.get(key)
        if value is None:
            raise self.error(f"it lacks {key}")
        return value

    def error(self, reason: str) -> UserError:
        """What is wrong with the file, with what to use instead."""
        return UserError(
            f"{self.gguf.name} cannot be converted: {reason}; use an MLX or safetensors folder instead", exit_code=3
        )


def _plain(field: ReaderField) -> Any:
    """A field's value; a float32 becomes the shortest decimal that rounds to it."""
    if field.types == [GGUFValueType.FLOAT32]:
        return float(str(field.parts[-1][0]))
    return field.contents()


def _refuse_unsupported(meta: _Metadata) -> None:
    architecture, tokenizer = meta.need("general.architecture"), meta.need("tokenizer.ggml.model")
    if architecture != "llama":
        raise meta.error(f"architecture {architecture} (only llama is supported)")
    scaling = meta.get("llama.rope.scaling.type", "none")
    if scaling != "none" or "rope_freqs.weight" in meta.tensors:
        raise meta.error("scaled rotary positions are not supported")
    if tokenizer != "gpt2":
        raise meta.error(f"tokenizer {tokenizer} (only gpt2, byte-level BPE, is supported)")
    pre = meta.get("tokenizer.ggml.pre", "default")
    if pre not in _DIGITS_APART:
        raise meta.error(f"pre-tokenizer {pre} (supported: {', '.join(_DIGITS_APART)})")
    if (parts := meta.get("split.count", 1)) > 1:
        raise meta.error(f"it is one of {parts} parts")


def _weights(meta: _Metadata, tell: Callable[[int], None]) -> dict[str, mx.array]:
    """The tensors under mlx-lm's names, query and key rows in order, in one floating type.

    That is float32 where anything is quantised: float16 scales are ten times slower on a CPU.
    """
    heads = meta.need("llama.attention.head_count")
    kv_heads = meta.get("llama.attention.head_count_kv", heads)
    dtype = _dtype(meta)
    weights = {}
    for name, tensor in meta.tensors.items():
        target = _target_name(meta, name)
        try:
            arrays = decode(tensor, dtype)
        except (NotImplementedError, ValueError, WrongBlocksError) as problem:
            raise meta.error(first_line(problem)) from problem
        for leaf, array in arrays.items():
            if "q_proj" in target or "k_proj" in target:
                array = _unpermute(array, heads if "q_proj" in target else kv_heads)
            weights[f"{target}.{leaf}"] = array
        tell(int(tensor.n_bytes))
    return weights


def _dtype(meta: _Metadata) -> mx.Dtype:
    if any(stays_quantised(tensor) for tensor in meta.tensors.values()):
        return mx.float32
    kinds = {GGMLQuantizationType.F32: mx.float32, GGMLQuantizationType.BF16: mx.bfloat16}
    embedding = meta.tensors.get("token_embd.weight")
    return kinds.get(embedding.tensor_type, mx.float16) if embedding else mx.float16


def _target_name(meta: _Metadata, name: str) -> str:
    """``blk.7.attn_q.weight`` -> ``model.layers.7.self_attn.q_proj``."""
    *block, part, leaf = name.split(".")
    if part not in _NAMES or leaf != "weight" or (block and block[0] != "blk"):
        raise meta.error(f"tensor {name} is not part of a plain llama model")
    return ".".join([*(("model.layers", block[1]) if block else ()), _NAMES[part]])


def _unpermute(tensor: Any, heads: int) -> Any:
    """Undo llama.cpp's row order, which lays the two halves of each rotated pair side by side: (D/2, 2) -> (2, D/2)."""
    rows, columns = tensor.shape
    return tensor.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _config(meta: _Metadata, weights: dict[str, Any]) -> dict[str, Any]:
    heads, width = meta.need("llama.attention.head_count"), meta.need("llama.embedding_length")
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": width,
        "num_hidden_layers": meta.need("llama.block_count"),
        "intermediate_size": meta.need("llama.feed_forward_length"),
        "num_attention_heads": heads,
        "num_key_value_heads": meta.get("llama.attention.head_count_kv", heads),
        "head_dim": meta.get("llama.attention.key_length", width // heads),
        "rms_norm_eps": meta.need("llama.attention.layer_norm_rms_epsilon"),
        "rope_theta": meta.get("llama.rope.freq_base", 10000.0),
        "max_position_embeddings": meta.need("llama.context_length"),
        "vocab_size": weights["model.embed_tokens.weight"].shape[0],
        "tie_word_embeddings": "lm_head.weight" not in weights,
        "bos_token_id": meta.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": _end_tokens(meta),
    }
    quantization = _quantization(weights)
    return config | ({"quantization": quantization} if quantization else {})


def _end_tokens(meta: _Metadata) -> list[int]:
    """The ids that end an answer, the end of a text and the end of a turn, each once."""
    ids = (meta.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot"))
    return list(dict.fromkeys(i for i in ids if i is not None))


def _quantization(weights: dict[str, Any]) -> dict[str, Any]:
    """mlx-lm's table: the commonest width for all layers, and each layer that differs by name."""
    bits = {
        name.removesuffix(".scales"): weights[name.replace(".scales", ".weight")].shape[1]
        * 32
        // (scales.shape[1] * GROUP_SIZE)
        for name, scales in weights.items()
        if name.endswith(".scales")
    }
    if not bits:
        return {}
    common = Counter(bits.values()).most_common(1)[0][0]
    others = {layer: {"group_size": GROUP_SIZE, "bits": n} for layer, n in sorted(bits.items()) if n != common}
    return {"group_size": GROUP_SIZE, "bits": common, **others}


def _tokenizer(meta: _Metadata) -> Tokenizer:
    tokens, types = meta.need("tokenizer.ggml.tokens"), meta.need("tokenizer.ggml.token_type")
    merges = [tuple(merge.split(" ", 1)) for merge in meta.need("tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=bool(meta.get("tokenizer.ggml.add_space_prefix", False)))
    digits = [pre_tokenizers.Digits(individual_digits=True)] * _DIGITS_APART[meta.need("tokenizer.ggml.pre")]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*digits, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    kinds = list(zip(tokens, types, strict=True))
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t, k in kinds if k == _CONTROL])
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t, k in kinds if k == _USER_DEFINED])
    if meta.get("tokenizer.ggml.add_bos_token", False):
        bos = _token(meta, "bos")
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    return tokenizer


def _token(meta: _Metadata, kind: str) -> Any:
    token_id = meta.get(f"tokenizer.ggml.{kind}_token_id")
    return None if token_id is None else meta.need("tokenizer.ggml.tokens")[token_id]


def _tokenizer_config(meta: _Metadata) -> dict[str, Any]:
    kinds = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": meta.need("llama.context_length"),
        "clean_up_tokenization_spaces": False,
        "chat_template": meta.get("tokenizer.chat_template"),
        **{f"{name}_token": _token(meta, kind) for name, kind in kinds.items()},
    }
    return {key: value for key, value in config.items() if value is not None}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _tell(read: int) -> None:
    sys.stdout.write(f"{read}\n")
    sys.stdout.flush()


def main(arguments: list[str]) -> int:
    """Convert ``FILE FOLDER``, printing the bytes of each tensor that was read, a number a line.

    On a UserError its message is the last line of stderr, its code the exit code.
    """
    try:
        convert_gguf(Path(arguments[0]), Path(arguments[1]), _tell)
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0
