r"""An adapter trained on a model, as mlx-lm's LoRA trainer or PEFT saves it, as part of the model's layers.

What one model has labelled or made up becomes training data, and another learns from it:

    rowmill export outputs/mail train.jsonl --format chat --validation 0.2

mlx-lm's trainer reads this folder's train.jsonl and valid.jsonl. FOLDER is the model's, or its hub id:

    mlx_lm.lora --train --model FOLDER --data . --adapter-path mail_adapter

A run with the adapter, and what has changed:

    rowmill run job=label 'job.labels=[ham,spam]' dataset=csv dataset.path=mail.csv \
        'prompt.user=Ham or spam? {{ text }}' model.path=FOLDER model.adapter=mail_adapter run_name=adapted
    rowmill diff outputs/mail outputs/adapted

``model.adapter`` takes what the trainer or PEFT has saved, LoRA or DoRA: a folder with an ``adapter_config.json`` and
safetensors, or its hub id. An adapter that does not fit the model is refused, and so is one that belongs to weights
that its training changed (PiSSA, OLoRA); which model it was trained on is said. ``convert`` fuses the two:

    rowmill convert model.path=FOLDER model.adapter=mail_adapter convert.bits=6

A layer's weights W become ``W + scale * B A``, with DoRA each row of that as long as the adapter says. Where they are
not quantised, as always on a CPU, they are computed once, and the adapter costs no time. Quantised weights are left as
they are, and the adapter is computed beside them: to quantise the sum would round away what was learned. The
adapter's bytes belong to the run's identity.

On the disk an adapted model is a folder in the cache: links to the model's files, and the adapter in ``adapter``.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from runner.cache import cache_dir, file_sha256, publish
from runner.patterns import pattern
from runner.types import UserError
from runner.words import first_line

FOLDER = "adapter"  # in a model's folder
CONFIG = "adapter_config.json"
MLX_FILE, PEFT_FILE = "adapters.safetensors", "adapter_model.safetensors"
_KEY = "model.adapter"
# What PEFT's settings make of an adapter that is more than A and B on top of the model.
_MORE = {
    "lora_bias": "biases of its own",
    "alora_invocation_tokens": "tokens from which on it counts (aLoRA)",
    "layer_replication": "layers that it repeats",
}
_CHANGING = ("pissa", "olora", "corda", "loftq", "lora_ga")  # ways to begin that take something off the model's weights
_EXPERT = re.compile(r"(?P<block>.+)\.experts\.(?P<number>\d+)\.(?P<layer>\w+)")  # transformers' name of one
_EXPERT_LAYERS = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}


def beside(model: Path, adapter: Path) -> Path:
    """The cached folder of a model with an adapter. Raises UserError if ``adapter`` holds none that can be applied."""
    config = read_config(adapter)
    weights = adapter / (PEFT_FILE if _is_peft(config) else MLX_FILE)
    if not weights.is_file():
        raise UserError(_KEY, f"it has no {weights.name}", value=adapter)
    ours = [path for path in sorted(model.iterdir()) if path.name != FOLDER]
    known = [str(model.absolute()), *(path.name for path in ours), file_sha256(weights), file_sha256(adapter / CONFIG)]
    digest = hashlib.sha256("\0".join(known).encode()).hexdigest()[:16]
    folder = cache_dir() / "models" / f"{model.name[:60]}-with-{adapter.absolute().name[:60]}-{digest}"

    def build(temporary: Path) -> None:
        for path in ours:
            (temporary / path.name).symlink_to(path.absolute())
        (temporary / FOLDER).mkdir()
        for path in (weights, adapter / CONFIG):
            shutil.copyfile(path, temporary / FOLDER / path.name)

    if not folder.is_dir():
        publish(folder, build)
    return folder


def read_config(adapter: Path) -> dict[str, Any]:
    """The adapter_config.json of an adapter. Raises UserError if it is not of a kind that can be applied."""
    try:
        config: Any = json.loads((adapter / CONFIG).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        kinds = "mlx_lm.lora and PEFT write one beside the weights"
        raise UserError(_KEY, f"it is not an adapter's folder: it has no {CONFIG}; {kinds}", value=adapter) from None
    except (OSError, ValueError) as error:
        raise UserError(_KEY, f"its {CONFIG} cannot be read: {first_line(error)}", value=adapter) from error
    if not isinstance(config, dict) or not (_is_peft(config) or "num_layers" in config):
        raise UserError(_KEY, f"its {CONFIG} is neither mlx-lm's nor PEFT's", value=adapter)
    kind = config.get("peft_type", "LORA")
    what = [f"{words} ({key})" for key, words in _MORE.items() if config.get(key)]
    if kind != "LORA" or what:
        named = f"PEFT's {kind}" if kind != "LORA" else what[0]
        raise UserError(_KEY, f"it is an adapter with {named}; LoRA and DoRA can be applied", value=adapter)
    begun = str(config.get("init_lora_weights", "")).lower()
    if begun.startswith(_CHANGING):
        how = "save it with PEFT's path_initial_model_for_weight_conversion, which makes plain LoRA of it"
        why = f"it belongs to weights that its training changed (init_lora_weights: {begun})"
        raise UserError(_KEY, f"{why}; {how}", value=adapter)
    return config


def trained_on(config: dict[str, Any]) -> str | None:
    """The model that an adapter says it was trained on: a path, or a hub id."""
    return config.get("base_model_name_or_path") or config.get("model") or None


def apply(model: Any, folder: Path) -> None:
    """Put the adapter in ``folder``, if it has one, into the layers of the loaded ``model``. Raises UserError."""
    adapter = folder / FOLDER
    if not adapter.is_dir():
        return
    config = read_config(adapter)
    try:
        if _is_peft(config):
            _Peft(config).apply(model, adapter / PEFT_FILE)
        else:
            from mlx_lm.tuner.utils import load_adapters

            load_adapters(model, str(adapter))
    except Exception as error:  # whatever mlx-lm and MLX meet in files that do not fit
        base = f"; it was trained on {trained}" if (trained := trained_on(config)) else ""
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(_KEY, f"it does not fit this model{base}: {reason}") from error
    model.eval()


def fuse(model: Any) -> None:
    """Let adapted layers whose weights are not quantised become plain layers, lazily."""
    from mlx.utils import tree_unflatten

    fused = [(name, module.fuse()) for name, module in model.named_modules() if _is_plain(module)]
    if fused:
        model.update_modules(tree_unflatten(fused))


def _is_plain(module: Any) -> bool:
    inner = module.get("linear", module.get("embedding"))
    return hasattr(module, "fuse") and inner is not None and "scales" not in inner


def _is_peft(config: dict[str, Any]) -> bool:
    return "peft_type" in config


class _Peft:
    """PEFT's tensors as layers of mlx-lm's: ``lora_A [r, in]`` and ``lora_B [out, r]`` of a module by its path."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.scales: dict[str, set[float]] = defaultdict(set)

    def apply(self, model: Any, file: Path) -> None:
        import mlx.core as mx
        from mlx.utils import tree_unflatten

        modules = dict(model.named_modules())
        found: dict[str, dict[str, Any]] = defaultdict(dict)
        experts: dict[str, dict[int, dict[str, Any]]] = defaultdict(lambda: defaultdict(dict))
        tensors: Any = mx.load(str(file))
        for name, tensor in tensors.items():
            path, part = self._place(name)
            if one := _EXPERT.fullmatch(path):
                layer = _EXPERT_LAYERS.get(one["layer"], one["layer"])
                at = _module(f"{one['block']}.switch_mlp.{layer}", modules)
                experts[at][int(one["number"])][part] = tensor
            else:
                at = _module(path, modules)
                found[at][part] = tensor
            if part == "A":
                self.scales[at].add(self._scale(path, len(tensor)))
        adapted = [(path, self._adapted(path, modules[path], parts)) for path, parts in found.items()]
        adapted += [(path, self._experts(path, modules[path], parts)) for path, parts in experts.items()]
        model.update_modules(tree_unflatten(adapted))

    @staticmethod
    def _place(name: str) -> tuple[str, str]:
        """The module's path and the part: A, B, magnitude, or a parameter that was trained whole."""
        name = re.sub(r"\.(modules_to_save|base_layer|default)(?=\.)", "", name.removeprefix("base_model.model."))
        if match := re.fullmatch(r"(.+)\.lora_(?:embedding_)?(A|B|magnitude_vector)(?:\.weight)?", name):
            return match[1], match[2]
        path, _, part = name.rpartition(".")
        return path, part

    def _adapted(self, path: str, layer: Any, parts: dict[str, Any]) -> Any:
        whole = {name: tensor for name, tensor in parts.items() if name in ("weight", "bias")}
        if whole:
            layer = _replaced(path, layer, whole)
        if "A" not in parts and "B" not in parts:
            return layer
        if set(parts) - set(whole) - {"magnitude_vector"} != {"A", "B"}:
            raise ValueError(f"{path} has {', '.join(sorted(parts))}: lora_A and lora_B are needed")
        return self._low_rank(path, layer, parts)

    def _low_rank(self, path: str, layer: Any, parts: dict[str, Any]) -> Any:
        import mlx.nn as nn
        from mlx_lm.tuner.dora import DoRALinear
        from mlx_lm.tuner.lora import LoRAEmbedding, LoRALinear

        a, b, magnitude = parts["A"], parts["B"], parts.get("magnitude_vector")
        rows, columns = _shape(path, layer)
        is_table = isinstance(layer, nn.Embedding | nn.QuantizedEmbedding)
        if (b.shape[0], a.shape[1]) != ((columns, rows) if is_table else (rows, columns)) or a.shape[0] != b.shape[1]:
            given = f"lora_A {tuple(a.shape)} and lora_B {tuple(b.shape)}"
            raise ValueError(f"{path} is [{rows}, {columns}], and {given} do not fit it")
        if is_table and magnitude is not None:
            raise ValueError(f"{path} is an embedding, to which DoRA is not applied")
        kind: Any = LoRAEmbedding if is_table else LoRALinear if magnitude is None else DoRALinear
        made = kind.from_base(layer, r=a.shape[0], dropout=0.0, scale=self.scales[path].pop())
        made.lora_a, made.lora_b = a.T, b.T
        if magnitude is not None:
            made.m = magnitude.reshape(-1)
        return made

    def _experts(self, path: str, layer: Any, experts: dict[int, dict[str, Any]]) -> Any:
        """A layer of experts, [experts, rows, columns], with what was learned for some of them."""
        import mlx.core as mx
        from mlx_lm.tuner.lora import LoRASwitchLinear

        count, rows, columns = layer.num_experts, layer.output_dims, layer.input_dims
        rank = max((len(parts["A"]) for parts in experts.values() if "A" in parts), default=0)
        shapes = {"A": (rank, columns), "B": (rows, rank)}
        for number, parts in sorted(experts.items()):
            given = {name: tuple(array.shape) for name, array in sorted(parts.items())}
            if number >= count or given != shapes:
                raise ValueError(
                    f"{path} is [{count}, {rows}, {columns}], and expert {number} with {given} does not fit"
                )
        if len(self.scales[path]) > 1:
            raise ValueError(f"the experts of {path} have several scales (alpha_pattern)")
        made = LoRASwitchLinear.from_base(layer, r=rank, dropout=0.0, scale=self.scales[path].pop())
        nothing = {name: mx.zeros(shape) for name, shape in shapes.items()}
        made.lora_a, made.lora_b = (
            mx.stack([experts.get(number, nothing)[name] for number in range(count)]) for name in "AB"
        )
        return made

    def _scale(self, path: str, rank: int) -> float:
        """What PEFT multiplies with in the module that transformers calls ``path``."""
        alphas = self.config.get("alpha_pattern") or {}
        of_its_own = (alpha for text, alpha in alphas.items() if pattern(rf"^(.*\.)?({text})\Z").search(path))
        alpha = next(of_its_own, self.config.get("lora_alpha", 8))
        return float(alpha) / (math.sqrt(rank) if self.config.get("use_rslora") else rank)


def _module(path: str, modules: Iterable[str]) -> str:
    """The path in mlx-lm's model of a module that transformers calls ``path``. Raises ValueError without one."""
    for name in (path, path.replace("model.language_model.", "language_model.model.", 1)):
        if name in modules:
            return name
    longer = [name for name in modules if name.endswith(f".{path}")]
    if len(longer) != 1:
        raise ValueError(f"the model has no {path}")
    return longer[0]


def _shape(path: str, layer: Any) -> tuple[int, int]:
    """Of a layer's weights, [rows, columns], dequantised. Raises ValueError for what is no matrix."""
    import mlx.nn as nn

    if not isinstance(layer, nn.Linear | nn.QuantizedLinear | nn.Embedding | nn.QuantizedEmbedding):
        raise ValueError(f"{path} is a {type(layer).__name__}, to which nothing can be added")
    rows, columns = layer.weight.shape
    return rows, layer.scales.shape[-1] * layer.group_size if "scales" in layer else columns


def _replaced(path: str, layer: Any, whole: dict[str, Any]) -> Any:
    """The layer with parameters that were trained whole: its quantised weights, if any, become plain ones."""
    from mlx_lm.utils import dequantize_model

    if "scales" in layer and "weight" in whole:
        import mlx.nn as nn

        holder = nn.Module()
        holder.layer = layer
        layer = dequantize_model(holder).layer
    for name, tensor in whole.items():
        if name not in layer or layer[name].shape != tensor.shape:
            shape = tuple(layer[name].shape) if name in layer else "none"
            raise ValueError(f"{path}.{name} is {shape} in the model and {tuple(tensor.shape)} in the adapter")
        layer[name] = tensor.astype(layer[name].dtype)
    return layer
