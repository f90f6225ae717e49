"""The configuration of ``rowmill perplexity``."""

from __future__ import annotations

from dataclasses import dataclass, field

from runner.config.conf import CommonConf
from runner.keys import key
from runner.types import UserError


@dataclass
class PerplexityConf:
    r"""What is measured, and on how much of the text.

    Attributes:
        window: The length of a window in tokens, with the token that begins a text.
        stride: How many tokens after the last one the next window begins. null: a window's, so that none overlap.
        max_tokens: Use only this many tokens of the text. null: all.
        column: The column with the documents. null: ``text``, or the only column of texts.
        separator: What joins the documents. null: the model's end token; a text such as ``\n`` makes all rows one
            document, as for a book. ``''`` joins rows that keep their line ends, as the hub's, and those of a text
            file with ``document=lines`` or ``files``.
        document: What a document in a text file is: ``lines``, ``blank_lines``, ``files`` or ``wikitext``, as for
            ``dataset.document``. null: a row.
        bos: Whether each window begins with the token that begins a text, which is not scored. null: if the model's
            tokenizer puts it there.
        context: How many tokens at the beginning of each window are not scored, the one that begins a text among
            them; a last window that is shorter is left out then. null: that token and the window's first of the text.
    """

    window: int = key(4096, least=2)
    stride: int | None = key(None, least=1)
    max_tokens: int | None = key(100_000, least=2)
    column: str | None = None
    separator: str | None = None
    document: str | None = None
    bos: bool | None = None
    context: int | None = key(None, least=1)

    def __post_init__(self) -> None:
        if self.stride is not None and self.stride > self.window:
            why = f"beyond perplexity.window={self.window}, tokens would be skipped"
            raise UserError("perplexity.stride", why, value=self.stride)
        if self.context is not None and self.context >= self.window:
            raise UserError(
                "perplexity.context", f"nothing of perplexity.window={self.window} is scored", value=self.context
            )
        if self.separator is not None:  # Hydra leaves escapes as they are typed
            self.separator = self.separator.replace("\\n", "\n").replace("\\t", "\t")

    @property
    def step(self) -> int:
        """How many tokens after the last one the next window begins, whether it was said or not."""
        return self.stride or self.window


@dataclass
class PerplexityOutputConf:
    """``dir``, ``shared``: as for ``rowmill run``. ``report``: whether to write ``report.html`` at the end."""

    dir: str = "outputs"
    shared: bool = False
    report: bool = True


@dataclass
class PerplexityRunConf(CommonConf):
    """The groups of ``rowmill perplexity``; see ``RunConf`` for the keys without a group."""

    perplexity: PerplexityConf = field(default_factory=PerplexityConf)
    output: PerplexityOutputConf = field(default_factory=PerplexityOutputConf)
    resume: str = key("auto", among=("auto", "force"))
