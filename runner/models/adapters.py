r"""An adapter trained on a model, as mlx-lm's LoRA trainer or PEFT saves it, as part of the model's layers.

What one model has labelled or made up becomes training data, and another learns from it:

    rowmill export outputs/mail train.jsonl --format chat --validation 0.2

mlx-lm's trainer reads this folder's train.jsonl and valid.jsonl, of which each needs four examples or more (or
``--batch-size 1``). FOLDER is the model's, or its hub id:

    mlx_lm.lora --train --model FOLDER --data . --adapter-path mail_adapter

A run with the adapter, and what has changed:

    rowmill run job=label 'job.labels=[ham,spam]' dataset=csv dataset.path=mail.csv \
        'prompt.user=Ham or spam? {{ text }}' model.path=FOLDER model.adapter=mail_adapter run_name=adapted
    rowmill diff outputs/mail outputs/adapted

``model.adapter`` takes what the trainer or PEFT has saved, LoRA or DoRA: a folder with an ``adapter_config.json`` and
safetensors, or its hub id; what PEFT has learned for single experts, for parameters of all of them
(``target_parameters``) and as biases (``lora_bias``) counts, too. Where a model's head is its embedding, what PEFT has
learned for one of the two leaves the other as it was. An adapter that does not fit the model is refused,
and so is one that belongs to weights that its training changed (PiSSA, OLoRA); which model it was trained on is said.
``convert`` fuses the two:

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
import shutil
from pathlib import Path
from typing import Any

from runner.cache import cache_dir, publish
from runner.disk import file_sha256
from runner.models.peft import Peft
from runner.types import UserError
from runner.words import first_line

FOLDER = "adapter"  # in a model's folder
CONFIG = "adapter_config.json"
MLX_FILE, PEFT_FILE = "adapters.safetensors", "adapter_model.safetensors"
_KEY = "model.adapter"
# What PEFT's settings make of an adapter that is more than A and B on top of the model.
_MORE = {
    "alora_invocation_tokens": "tokens from which on it counts (aLoRA)",
    "layer_replication": "layers that it repeats",
    "kasa_config": "singular values of its own, for weights that its training changed (KaSA)",
    "use_bdlora": "matrices in blocks (BD-LoRA)",
    "use_qalora": "averaged inputs (QA-LoRA)",
    "monteclora_config": "weights that are drawn (MonteCLoRA)",
    "arrow_config": "other adapters that it chooses from (Arrow)",
    "trainable_token_indices": "single tokens that were trained",
}
_CHANGING = ("pissa", "olora", "corda", "loftq", "lora_ga")  # ways to begin that take something off the model's weights


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
    for name, factor in _factors(config).items():
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not math.isfinite(factor):
            raise UserError(_KEY, f"in its {CONFIG} {name} is {json.dumps(factor)}, and not a number", value=adapter)
    return config


def _factors(config: dict[str, Any]) -> dict[str, Any]:
    """What the adapter is multiplied with, by where its settings say so."""
    if _is_peft(config):
        patterns = config.get("alpha_pattern") or {}
        return {"lora_alpha": config.get("lora_alpha", 8), **(patterns if isinstance(patterns, dict) else {})}
    parameters = config.get("lora_parameters")
    return {"scale": parameters["scale"]} if isinstance(parameters, dict) and "scale" in parameters else {}


def trained_on(config: dict[str, Any]) -> str | None:
    """The model that an adapter says it was trained on: a path, or a hub id."""
    return config.get("base_model_name_or_path") or config.get("model") or None


def apply(model: Any, folder: Path, settings: dict[str, Any]) -> None:
    """Put the adapter in ``folder``, if it has one, into the layers of the loaded ``model``, which has these settings.
    Raises UserError.
    """
    adapter = folder / FOLDER
    if not adapter.is_dir():
        return
    config = read_config(adapter)
    try:
        if _is_peft(config):
            if Peft(config).apply(model, adapter / PEFT_FILE):
                for part in (settings, settings.get("text_config")):
                    if part is not None:
                        part["tie_word_embeddings"] = False
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
