"""A converted model's card: what it is made from, what it weighs, what was measured here and what was not."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from jobs.convert.quantise import Converted, Precision
from runner.machine.facts import shown, versions
from runner.words import size


def model_card(done: Converted, base: str, source: Path, machine: str, adapter: str | None = None) -> str:
    """The README.md of ``done``, with the front matter that the hub reads. ``base``, ``adapter``: ids or folders."""
    licence = licence_of(source)
    name = f"{Path(base.rstrip('/')).name}, MLX {done.bits}-bit, group size {done.group_size}"
    front = ["library_name: mlx", "pipeline_tag: text-generation", f"license: {licence or 'unknown'}"]
    if not Path(base).expanduser().exists():
        front += [f"base_model: {base}", "base_model_relation: quantized"]
    front += ["tags:", "- mlx", f"- {done.bits}-bit", f"- group-size-{done.group_size}"]
    lines = [
        *("---", *front, "---", ""),
        f"# {name}",
        "",
        f"Made by `rowmill convert` from `{base}`: affine quantisation, {done.bits} bits in groups of "
        f"{done.group_size}. Weights that the base model has in another quantisation were dequantised first.",
        "",
        *_table(("", ""), _facts(done, base, adapter, licence)),
        "",
        "Kept in higher precision:",
        "",
        *_table(("Tensors", "Bits", "Number", "MB"), map(_row, done.higher)),
        "",
        "## Measured on this machine",
        "",
        f"{machine}; {shown(versions())}. The conversion took {done.seconds:,.0f} s and at most "
        f"{size(done.peak_bytes)} of the device's memory. Sizes and bits per weight were read from the files.",
        "",
        "## Not measured",
        "",
        "- How good it is: `rowmill perplexity model.path=FOLDER dataset=text dataset.path=FILE`",
        "- How fast it is: `rowmill benchmark benchmark.workload=card model.path=FOLDER`",
        "",
    ]
    return "\n".join(lines)


def licence_of(source: Path) -> str | None:
    """The licence that the base model's card names, else the first line of its licence file; None without either."""
    card = source / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    named = re.match(r"---\n(?:.*\n)*?license:[ \t]*(\S+)[ \t]*\n(?:.*\n)*?---", text)
    if named:
        return named[1]
    for file in sorted(source.glob("LICENSE*")):
        lines = (line.strip() for line in file.read_text(encoding="utf-8", errors="replace").splitlines())
        first = next((line for line in lines if line), "")
        return {"Apache License": "apache-2.0", "MIT License": "mit"}.get(first, first[:60] or None)
    return None


def _facts(done: Converted, base: str, adapter: str | None, licence: str | None) -> list[tuple[str, str]]:
    return [
        ("Base model", f"`{base}`"),
        *([("Adapter, fused", f"`{adapter}`")] if adapter else []),
        ("Licence", licence or "not stated in the files: see the base model"),
        ("Bits, group size", f"{done.bits}, {done.group_size}"),
        ("Bits per weight, including scales", f"{done.bits_per_weight:.3f}"),
        ("Weights", size(done.weight_bytes)),
        ("On disk", size(done.disk_bytes)),
    ]


def _row(kind: Precision) -> tuple[str, ...]:
    bits = f"{kind.bits:g}" if kind.group_size is None else f"{kind.bits:g} (groups of {kind.group_size})"
    return f"`{kind.name}`", bits, str(kind.tensors), f"{kind.size_bytes / 1e6:.2f}"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    lines = [head, ("---",) * len(head), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]
