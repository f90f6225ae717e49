"""Matplotlib figures as inline SVG that takes its colours and its type from the page, light or dark.

Charts are drawn in placeholder colours, which become CSS variables; texts stay texts.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import Any

INK, MUTED, GRID, SERIES, SECOND, SURFACE = ("#010101", "#020202", "#030303", "#040404", "#050505", "#060606")
_VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid", SERIES: "series", SECOND: "second", SURFACE: "surface"}
SIZE = (4.4, 2.35)  # inches of 72 px: a phone's width, so that type keeps its size there
_STYLE: Any = {
    "svg.fonttype": "none",
    "font.size": 9.5,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "axes.formatter.limits": (-4, 12),
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "lines.linewidth": 1.6,
    "legend.frameon": False,
}


class Chart:
    """One chart being drawn: ``axes`` is matplotlib's; ``svg`` is there when the ``with`` block of ``chart`` ends."""

    def __init__(self, figure: Any) -> None:
        self.figure = figure
        self.axes = figure.subplots()
        self.svg = ""


@contextmanager
def chart(name: str, description: str, height: float = SIZE[1]) -> Iterator[Chart]:
    """A chart to draw on. ``name`` (unique on the page) keeps its ids apart, ``description`` is read to the blind."""
    import matplotlib

    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        from matplotlib.figure import Figure

        drawn = Chart(Figure(figsize=(SIZE[0], height), layout="constrained"))
        yield drawn
        text = io.StringIO()
        with warnings.catch_warnings():  # the browser has the glyphs that matplotlib's font lacks
            warnings.filterwarnings("ignore", "Glyph .* missing from font")
            drawn.figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        drawn.svg = _inline(text.getvalue(), name, description)


def _inline(text: str, name: str, description: str) -> str:
    """The SVG element alone: no prolog, no metadata, no styles that would reach the rest of the page."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'(id="|url\(#|xlink:href="#)', rf"\g<1>{name}-", text)
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", text)
    text = re.sub(r"; font-family: [^;\"]*|font-family: [^;\"]*; ", "", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    label = f' class="chart" role="img" aria-label="{escape(description)}"'
    return re.sub(
        r'<svg\b(.*?) width="[\d.]+pt" height="[\d.]+pt"',
        lambda match: f"<svg{match[1]}{label}",
        text,
        count=1,
        flags=re.DOTALL,
    )
