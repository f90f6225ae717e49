"""What PEFT has learned, tensor by tensor, as layers of mlx-lm's models.

``lora_A [r, in]`` and ``lora_B [out, r]`` belong to a module of transformers' by its path. transformers keeps the
experts of a layer in two parameters (PEFT's ``target_parameters``): gates and ups together in ``gate_up_proj``, and
``down_proj``; mlx-lm has three layers. What was learned for a parameter of all E experts is ``lora_A [E r, in]`` and
``lora_B [out, r E]``, where in and out change places with PEFT's versions: the shape says which is which, or, where all
are equally many, the version.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from runner.patterns import pattern

_EXPERT = re.compile(r"(?P<block>.+)\.experts\.(?P<number>\d+)\.(?P<layer>\w+)")  # transformers' name of one
_EXPERT_LAYERS = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
_KNOWN = {"A", "B", "magnitude_vector", "B's bias", "weight", "bias"}  # parts of a layer
_TAKING_TURNS = ("gpt_oss",)  # models whose gate_up_proj has a gate, an up, a gate and so on
_INPUTS_FIRST = ("gpt_oss", "llama4")  # models whose experts are [experts, columns, rows] in transformers


class _Stack(NamedTuple):
    """What was learned for a parameter of all experts of a layer; ``block``: where mlx-lm has these, ``experts``."""

    block: str
    path: str
    experts: Any
    parts: dict[str, Any]

    def turns(self) -> set[bool]:
        """Whether rows and columns have changed places; both where all are equally many."""
        return {turned for turned in (False, True) if self._parameter(turned)}

    def matrices(self, turned: bool) -> tuple[Any, Any, str]:
        """A [experts, rank, columns], B [experts, rows, rank], and which parameter they belong to."""
        a, b, count = self.parts["A"], self.parts["B"], self.experts.down_proj.num_experts
        a = a.reshape(count, -1, a.shape[1])
        b = b.reshape(b.shape[0], -1, count).transpose(2, 0, 1)
        if turned:
            a, b = b.swapaxes(1, 2), a.swapaxes(1, 2)
        return a, b, self._parameter(turned)

    def _parameter(self, turned: bool) -> str:
        """Which one has this shape; none: an empty text. Raises ValueError where neither way round does."""
        down = self.experts.down_proj
        count, rows, columns = down.num_experts, down.output_dims, down.input_dims
        if set(self.parts) != {"A", "B"} or len(self.parts["A"]) % count:
            raise ValueError(f"{self.path} has {_shapes(self.parts)}: lora_A and lora_B of {count} experts are needed")
        shape = len(self.parts["B"]), self.parts["A"].shape[1]
        known = {(2 * columns, rows): "gate_up_proj", (rows, columns): "down_proj"}
        if (shape not in known and shape[::-1] not in known) or len(self.parts["A"]) != self.parts["B"].shape[1]:
            raise ValueError(f"{self.path} has experts of [{rows}, {columns}], and {_shapes(self.parts)} do not fit")
        return known.get(shape[::-1] if turned else shape, "")


def _shapes(parts: dict[str, Any]) -> str:
    return ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in sorted(parts.items()))


class Peft:
    """An adapter by its settings, ``config``."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.scales: dict[str, set[float]] = defaultdict(set)

    def apply(self, model: Any, file: Path) -> bool:
        """Put it into a model's layers; whether the model's head is no longer its embedding. Raises ValueError."""
        import mlx.core as mx
        from mlx.utils import tree_unflatten

        tensors: Any = mx.load(str(file))
        if not tensors:
            raise ValueError("it holds no tensors")
        untied = _untie(model, self._trained(tensors))
        modules = dict(model.named_modules())
        found: dict[str, dict[str, Any]] = defaultdict(dict)
        experts: dict[str, dict[int, dict[str, Any]]] = defaultdict(lambda: defaultdict(dict))
        stacks: dict[str, _Stack] = {}
        for name, tensor in tensors.items():
            path, part = self._place(name)
            if block := _experts_at(path, modules):
                wrapper = name.partition(".lora_")[0]  # one in the other where both parameters were trained
                stacks.setdefault(wrapper, _Stack(block, path, modules[block], {})).parts[part] = tensor
                continue
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
        adapted += self._stacked(list(stacks.values()), getattr(model, "model_type", ""))
        model.update_modules(tree_unflatten(adapted))
        return untied

    def _trained(self, names: Iterable[str]) -> set[str]:
        """What the trained modules are called; PEFT also saves embeddings that have only become longer."""
        places = (self._place(name) for name in names)
        whole = self.config.get("modules_to_save") or []
        trained = {path.rpartition(".")[2] for path, part in places if part not in ("weight", "bias")}
        return trained | set(whole)

    @staticmethod
    def _place(name: str) -> tuple[str, str]:
        """The module's path and the part: A, B, magnitude, or a parameter that was trained whole."""
        name = re.sub(r"\.(modules_to_save|base_layer|default)(?=\.)", "", name.removeprefix("base_model.model."))
        if match := re.fullmatch(r"(.+)\.lora_(?:embedding_)?(A|B|magnitude_vector)(?:\.weight)?", name):
            return match[1], match[2]
        if name.endswith(".lora_B.bias"):
            return name.removesuffix(".lora_B.bias"), "B's bias"
        path, _, part = name.rpartition(".")
        return path, part

    def _adapted(self, path: str, layer: Any, parts: dict[str, Any]) -> Any:
        whole = {name: tensor for name, tensor in parts.items() if name in ("weight", "bias")}
        if unknown := sorted(parts.keys() - _KNOWN):
            raise ValueError(f"{path or 'the model'} has {', '.join(unknown)}, which is no part of LoRA or DoRA")
        if whole:
            layer = _replaced(path, layer, whole)
        if "A" not in parts and "B" not in parts:
            return layer
        if not {"A", "B"} <= parts.keys():
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
        scale = self.scales[path].pop()
        if (bias := parts.get("B's bias")) is not None:
            _add_bias(path, layer, scale * bias)
        kind: Any = LoRAEmbedding if is_table else LoRALinear if magnitude is None else DoRALinear
        made = kind.from_base(layer, r=a.shape[0], dropout=0.0, scale=scale)
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

    def _stacked(self, stacks: list[_Stack], kind: str) -> list[tuple[str, Any]]:
        """The layers of experts of a model of this kind: rows of gates and ups alternate, or all gates come first."""
        from mlx_lm.tuner.lora import LoRASwitchLinear

        in_turns = kind in _TAKING_TURNS
        turned = {turn for one in stacks if len(turns := one.turns()) == 1 for turn in turns}
        turned = turned or {self._turned(kind in _INPUTS_FIRST)}
        if len(turned) != 1:
            raise ValueError("rows and columns have changed places in some of its experts, and not in others")
        adapted = []
        for stack in stacks:
            a, b, parameter = stack.matrices(*turned)
            scale = self._scale(f"{stack.path}.{parameter}", a.shape[1])
            half = b.shape[1] // 2
            cuts = (slice(0, None, 2), slice(1, None, 2)) if in_turns else (slice(half), slice(half, None))
            both = {"gate_proj": b[:, cuts[0]], "up_proj": b[:, cuts[1]]}
            for name, rows in ({"down_proj": b} if parameter == "down_proj" else both).items():
                layer = stack.experts[name]
                made: Any = LoRASwitchLinear.from_base(layer, r=a.shape[1], dropout=0.0, scale=scale)
                made.lora_a, made.lora_b = a, rows
                adapted.append((f"{stack.block}.{name}", made))
        return adapted

    def _turned(self, inputs_first: bool) -> bool:
        """Whether rows and columns have changed places, where no shape tells: by PEFT's version.

        Until 0.18 a parameter's second axis was taken for its inputs, in 0.19.0 always for its outputs.
        """
        found = re.match(r"(\d+)\.(\d+)\.(\d+)", str(self.config.get("peft_version")))
        version = tuple(map(int, found.groups())) if found else (0, 17, 0)  # which did not write it
        return version == (0, 19, 0) or (version < (0, 19, 0) and not inputs_first)

    def _scale(self, path: str, rank: int) -> float:
        """What PEFT multiplies with in the module that transformers calls ``path``."""
        alphas = self.config.get("alpha_pattern") or {}
        of_its_own = (alpha for text, alpha in alphas.items() if pattern(rf"^(.*\.)?({text})\Z").search(path))
        alpha = next(of_its_own, self.config.get("lora_alpha", 8))
        return float(alpha) / (math.sqrt(rank) if self.config.get("use_rslora") else rank)


def _experts_at(path: str, modules: dict[str, Any]) -> str | None:
    """The path in mlx-lm's model of all experts of a layer, which transformers calls ``path``; None: it is no such."""
    if not path.endswith(".experts"):
        return None
    from mlx_lm.models.switch_layers import SwitchGLU

    layer = re.search(r"\blayers\.\d+\.", path)
    found = [at for at, module in modules.items() if isinstance(module, SwitchGLU) and layer and layer[0] in f"{at}."]
    if len(found) != 1:
        raise ValueError(f"the model has no {path}")
    return found[0]


def _module(path: str, modules: Iterable[str]) -> str:
    """The path in mlx-lm's model of a module that transformers calls ``path``. Raises ValueError without one."""
    others = (
        ("model.language_model.", "language_model.model."),
        ("model.language_model.", "model."),  # a model that reads images, and its language model alone
        ("language_model.model.", "model."),
        (".mlp.", ".block_sparse_moe."),
    )
    for name in (path, *(path.replace(theirs, ours, 1) for theirs, ours in others)):
        if name in modules:
            return name
    longer = [name for name in modules if name.endswith(f".{path}")]
    if len(longer) != 1:
        raise ValueError(f"the model has no {path}")
    return longer[0]


class _ReachedError(Exception):
    """A model's head was called."""


def _untie(model: Any, trained: set[str]) -> bool:
    """Give a model whose head is its embedding a head of its own, with the same weights, if one of the two was trained:
    PEFT lets the other be. Whether it has got one; ValueError where mlx-lm's model cannot have one.
    """
    import mlx.core as mx
    import mlx.nn as nn

    modules = dict(model.named_modules())
    table = next((at for at, one in modules.items() if isinstance(one, nn.Embedding | nn.QuantizedEmbedding)), "")
    trained = trained & {"lm_head", table.rpartition(".")[2]}
    if not trained or any(at.rpartition(".")[2] == "lm_head" for at in modules):
        return False
    owner = modules[".".join(table.split(".")[:-2])]
    holders: tuple[Any, Any] = owner, getattr(owner, "args", None)
    for holder in holders:
        if hasattr(holder, "tie_word_embeddings"):
            holder.tie_word_embeddings = False

    def head(x: Any) -> Any:
        raise _ReachedError

    owner.lm_head = head
    try:
        model(mx.zeros((1, 1), mx.int32))
    except _ReachedError:
        owner.lm_head = _head(modules[table])
        return True
    which = f"{' and '.join(sorted(trained))} trained by {'itself' if len(trained) == 1 else 'themselves'}"
    raise ValueError(f"it has {which}, and in mlx-lm's model the head is always the embedding")


def _head(table: Any) -> Any:
    """A projection with an embedding's weights."""
    import mlx.nn as nn

    rows, columns = _shape("", table)
    quantised = isinstance(table, nn.QuantizedEmbedding)
    form = {"group_size": table.group_size, "bits": table.bits, "mode": table.mode} if quantised else {}
    made: Any = (nn.QuantizedLinear if quantised else nn.Linear)(columns, rows, bias=False, **form)
    for name, array in table.parameters().items():
        made[name] = array
    return made


def _add_bias(path: str, layer: Any, bias: Any) -> None:
    """Let the layer add a bias, beside its own if it has one."""
    rows, _ = _shape(path, layer)
    if bias.shape != (rows,):
        raise ValueError(f"{path} has {rows} rows, and the adapter a bias of {tuple(bias.shape)}")
    layer.bias = layer.bias + bias if "bias" in layer else bias


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
