"""HTML as the text that a browser would show."""

from __future__ import annotations

import codecs
import re
from html.parser import HTMLParser

HIDDEN = {"script", "style", "noscript", "template", "head", "svg"}
_AS_BROWSERS = {  # what they take these names for: sets that hold more letters, which pages then use
    **{"ascii": "cp1252", "iso8859-1": "cp1252", "iso8859-9": "cp1254"},
    **{"gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "euc_kr": "cp949"},
}
BLOCKS = {
    *("p", "div", "br", "li", "ul", "ol", "tr", "table", "section", "article", "header", "footer", "main", "nav"),
    *("blockquote", "pre", "dl", "dt", "dd", "figure", "figcaption", "h1", "h2", "h3", "h4", "h5", "h6"),
    *("aside", "address", "hr", "form", "fieldset", "legend", "caption", "details", "summary", "dialog", "menu"),
    *("option", "select", "textarea", "center", "body", "thead", "tbody", "tfoot", "hgroup", "search"),
}
_OURS = dict.fromkeys(map(ord, "\f\v\0"), " ")  # in a page they are white space
_CELLS = {"td", "th"}
_AS_IT_IS = "\0"  # begins a block whose white space is shown


def html_text(source: str) -> str:
    """The text that a browser would show: blocks as paragraphs, no scripts, no styles, tabs between cells."""
    reader = _Reader()
    reader.feed(source)
    reader.close()
    paragraphs = map(_paragraph, "".join(reader.pieces).split("\f"))
    return "\n\n".join(block for block in paragraphs if block)


def _paragraph(block: str) -> str:
    if block.startswith(_AS_IT_IS):
        return block[1:].strip("\n") if block[1:].strip() else ""
    before, *cells = (" ".join(cell.split()) for cell in block.split("\v"))
    return "\t".join([before, *cells] if before else cells).rstrip()


def declared(page: bytes) -> str | None:
    """The encoding that a page names in its first kilobyte, as HTML or as XML, if Python knows it."""
    named = rb"""<(?:meta[^>]*charset|\?xml[^>]*encoding)\s*=\s*["']?\s*([\w:.-]+)"""
    found = re.search(named, page[:1024], re.IGNORECASE)
    return as_browsers(found[1].decode()) if found else None


def as_browsers(name: str) -> str | None:
    """The encoding that browsers take one of this name for, None if Python knows none."""
    try:
        known = codecs.lookup(name).name
    except LookupError:
        return None
    return _AS_BROWSERS.get(known, known)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []
        self._hidden = 0
        self._is_shown_as_it_is = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._hidden = 0 if tag == "body" else self._hidden + (tag in HIDDEN)  # a head need not be ended
        if self._is_shown_as_it_is:
            self.pieces.append("\n" if tag == "br" else "")
        elif tag in BLOCKS:
            self.pieces.append("\f")
        elif tag in _CELLS:
            self.pieces.append("\v")
        if tag == "pre":
            self._is_shown_as_it_is = True
            self.pieces.append(_AS_IT_IS)

    def handle_endtag(self, tag: str) -> None:
        if tag in HIDDEN and self._hidden:
            self._hidden -= 1
        if tag == "pre":
            self._is_shown_as_it_is = False
        if tag in BLOCKS and not self._is_shown_as_it_is:
            self.pieces.append("\f")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.pieces.append(data.translate(_OURS))
