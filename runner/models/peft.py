"""What PEFT has learned, tensor by tensor, as layers of mlx-lm's models.

``lora_A [r, in]`` and ``lora_B [out, r]`` belong to a module of transformers' by its path. transformers keeps the
experts of a layer in two parameters (PEFT's ``target_parameters``): gates and ups together in ``gate_up_proj``, and
``down_proj``; mlx-lm has three layers. What was learned for a parameter of all E experts is ``lora_A [E r, in]`` and
``lora_B [out, r E]``, where in and out change places with PEFT's versions: the shape says which is which.
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
_TAKING_TURNS = ("gpt_oss",)  # models whose gate_up_proj has a gate, an up, a gate and so on


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

    def apply(self, model: Any, file: Path) -> None:
        import mlx.core as mx
        from mlx.utils import tree_unflatten

        modules = dict(model.named_modules())
        found: dict[str, dict[str, Any]] = defaultdict(dict)
        experts: dict[str, dict[int, dict[str, Any]]] = defaultdict(lambda: defaultdict(dict))
        stacks: dict[str, _Stack] = {}
        tensors: Any = mx.load(str(file))
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
        adapted += self._stacked(list(stacks.values()), getattr(model, "model_type", None) in _TAKING_TURNS)
        model.update_modules(tree_unflatten(adapted))

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
        if whole:
            layer = _replaced(path, layer, whole)
        if "A" not in parts and "B" not in parts:
            return layer
        if set(parts) - set(whole) - {"magnitude_vector", "B's bias"} != {"A", "B"}:
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

    def _stacked(self, stacks: list[_Stack], in_turns: bool) -> list[tuple[str, Any]]:
        """The layers of experts. ``in_turns``: rows of gates and ups alternate; else all gates come first."""
        from mlx_lm.tuner.lora import LoRASwitchLinear

        turned = {turn for one in stacks if len(turns := one.turns()) == 1 for turn in turns}
        if stacks and len(turned) != 1:
            alone = "it is square, and gate_up_proj, which would tell, was not trained"
            raise ValueError(f"which are rows and which columns of {stacks[0].path} cannot be told: {alone}")
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
    others = (("model.language_model.", "language_model.model."), (".mlp.", ".block_sparse_moe."))
    for name in (path, *(path.replace(theirs, ours, 1) for theirs, ours in others)):
        if name in modules:
            return name
    longer = [name for name in modules if name.endswith(f".{path}")]
    if len(longer) != 1:
        raise ValueError(f"the model has no {path}")
    return longer[0]


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
