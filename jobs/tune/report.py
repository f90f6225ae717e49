"""What was measured as a table, and as JSON to send in."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from statistics import median
from typing import Any

from jobs.tune.found import Found
from runner.machine.device import Device
from runner.machine.facts import versions
from runner.words import aligned

DIMENSIONS = (
    *("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim"),
    *("intermediate_size", "vocab_size", "sliding_window", "num_local_experts", "num_experts", "num_experts_per_tok"),
    *("moe_intermediate_size", "kv_lora_rank"),
)


AS_USUAL = "  as usual: nothing is faster by more than the turns differ"


def as_json(found: Found, device: Device, config: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Nothing in it says whose machine it was."""
    table = {**config, **(config.get("text_config") or {})}
    dimensions = {name: table[name] for name in DIMENSIONS if isinstance(table.get(name), int | str)}
    quantization = config.get("quantization") or {}
    dimensions |= {name: quantization[name] for name in ("bits", "group_size", "mode") if name in quantization}
    system = f"{platform.system()} {platform.mac_ver()[0] or platform.release()} {platform.machine()}"
    return {
        "versions": versions(),
        "machine": {"system": system, "python": platform.python_version(), "cores": os.cpu_count()},
        "device": {"kind": device.kind, "name": device.name, "memory_bytes": device.memory_bytes},
        "model": dimensions,
        "seconds": round(seconds, 1),
        "quick": found.quick,
        "complete": found.complete,
        "chosen": found.chosen,
        "measured": found.measured,
    }


def as_text(sent: Mapping[str, Any]) -> str:
    """The tables, and what later runs will do."""
    measured, chosen = sent["measured"], sent["chosen"]
    blocks = [_ways(measured.get("ways", {}), chosen.get("copies"))]
    blocks += [
        _rates("prompt tokens/s, by the most of them in a step", measured.get("prefill", {}), "prefill_tokens", chosen),
        _rates("decoded tokens/s, by sequences at once", measured.get("decode", {}), "batch_size", chosen),
        _buffers(measured.get("buffers", {}), chosen.get("buffers")),
    ]
    return "\n\n".join(block for block in blocks if block)


def _ways(cells: Mapping[str, list[Any]], copies: list[int] | None) -> str:
    if not cells:
        return ""
    prefixes, counts = ([*dict.fromkeys(cell[at] for cell in cells.values())] for at in (0, 1))
    times = {(prefix, count): median(copied) / median(shared) for prefix, count, copied, shared in cells.values()}
    head = ["sequences", *(f"{count}" for count in sorted(counts))]
    rows = [
        [f"prefix {prefix:,}", *(_ratio(times.get((prefix, count))) for count in sorted(counts))] for prefix in prefixes
    ]
    limits = ["", "copies are used for", *_limits(prefixes, copies)] if copies else []
    title = "attention in a decode step: time over copies of the prefix / over one shared copy"
    return "\n".join([title, *_columns([head, *rows]), *limits])


def _limits(prefixes: list[int], copies: list[int]) -> list[str]:
    pairs = zip(prefixes, copies, strict=False)
    return [f"  prefix {prefix:,}: {f'up to {most} sequences' if most else 'none'}" for prefix, most in pairs]


def _ratio(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}"


def _rates(title: str, turns: Mapping[str, list[float] | None], name: str, chosen: Mapping[str, Any]) -> str:
    if not turns:
        return ""
    best = chosen.get(name)
    rows = [[size, *_turns(rates), "used from now on" if size == str(best) else ""] for size, rates in turns.items()]
    kept = [] if best or name not in chosen else [AS_USUAL]
    return "\n".join([f"{title}; lowest and highest of some turns", *_columns(rows), *kept])


def _turns(rates: list[float] | None) -> list[str]:
    if rates is None:
        return ["no room", ""]
    return [f"{median(rates):,.0f}", f"{min(rates):,.0f} to {max(rates):,.0f}" if len(rates) > 1 else ""]


def _buffers(rates: Mapping[str, list[float]], chosen: list[int] | None) -> str:
    if not rates:
        return ""
    rows = [["operations x MB", "decoded tokens/s", "prompt tokens/s"]]
    rows += [[name, f"{one[0]:,.0f}", f"{one[1]:,.0f}"] for name, one in rates.items()]
    taken = f"  used from now on: {chosen[0]} x {chosen[1]}" if chosen else AS_USUAL
    return "\n".join(["Metal's command buffers", *_columns(rows), taken])


def _columns(rows: list[list[str]]) -> list[str]:
    return [f"  {line}" for line in aligned(rows)]
