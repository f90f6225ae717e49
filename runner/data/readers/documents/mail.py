"""Mails as files: their headers, what they say, and the names of what is attached."""

from __future__ import annotations

import codecs
import contextlib
from email import policy
from email.message import MIMEPart
from email.parser import BytesParser
from pathlib import Path
from typing import Any

from runner.console import warn_once
from runner.data.readers.documents.html import declared, html_text

_HEADERS = ("From", "To", "Cc", "Date", "Subject")


def eml_text(path: Path) -> str:
    """Headers, a blank line, the text, or the page as text; at the end the names of what is attached."""
    content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    mail = BytesParser(policy=policy.default).parsebytes(content)
    headers = [f"{name}: {_header(mail, name, path)}" for name in _HEADERS if mail[name]]
    body = mail.get_body(("plain", "html"))
    said = _said(body, path) if body is not None else ""
    if not headers and not mail.keys():
        raise ValueError("it is no mail: it has no headers")
    attached = [part.get_filename() or part.get_content_type() for part in mail.iter_attachments()]
    names = f"Attached: {', '.join(attached)}" if attached else ""
    return "\n\n".join(filter(None, ("\n".join(headers), said, names)))


READ = {".eml": eml_text}


def _said(body: MIMEPart[Any, Any], path: Path) -> str:
    content = body.get_payload(decode=True)
    is_page = body.get_content_subtype() == "html"
    charset = body.get_content_charset() or (is_page and declared(bytes(content))) or "utf-8"
    text = _decoded(bytes(content), charset, path).replace("\r\n", "\n")
    return html_text(text) if is_page else text.strip()


def _header(mail: MIMEPart[Any, Any], name: str, path: Path) -> str:
    """A header, whose bytes may stand there as they are."""
    value = str(mail[name])
    raw = next(text for key, text in mail.raw_items() if key.lower() == name.lower())
    if (
        "\ufffd" in value
        and "=?" not in raw
        and (content := str(raw).encode("utf-8", "surrogateescape"))
        and not content.isascii()
    ):
        return " ".join(_decoded(content, "utf-8", path).split())
    return value


def _decoded(content: bytes, charset: str, path: Path) -> str:
    """In the mail's own charset; as UTF-8 or Windows has it where that does not fit, which is told."""
    for encoding in (charset, "utf-8", "cp1252"):
        with contextlib.suppress(LookupError, UnicodeDecodeError):
            text = content.decode(encoding)
            if encoding != charset:
                # Of the first mail only: old ones by thousands have no charset, or a wrong one.
                others = "and so are others, as their texts are not"
                warn_once((encoding, charset), "%s is read as %s, %s %s", path, encoding, others, charset)
            return text
    raise ValueError(f"its text is not {charset}")
