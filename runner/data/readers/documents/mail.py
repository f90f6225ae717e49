"""Mails as files: their headers, what they say, and the names of what is attached."""

from __future__ import annotations

from email import policy
from email.message import MIMEPart
from email.parser import BytesParser
from pathlib import Path
from typing import Any

from runner.data.readers.documents.html import html_text

_HEADERS = ("From", "To", "Cc", "Date", "Subject")


def eml_text(path: Path) -> str:
    """Headers, a blank line, the text, or the page as text; at the end the names of what is attached."""
    mail = BytesParser(policy=policy.default).parsebytes(path.read_bytes())
    headers = [f"{name}: {mail[name]}" for name in _HEADERS if mail[name]]
    body = mail.get_body(("plain", "html"))
    said = _said(body) if body is not None else ""
    if not headers and not mail.keys():
        raise ValueError("it is no mail: it has no headers")
    attached = [part.get_filename() or part.get_content_type() for part in mail.iter_attachments()]
    names = f"Attached: {', '.join(attached)}" if attached else ""
    return "\n\n".join(filter(None, ("\n".join(headers), said, names)))


READ = {".eml": eml_text}


def _said(body: MIMEPart[Any, Any]) -> str:
    text = str(body.get_content())
    return html_text(text) if body.get_content_subtype() == "html" else text.strip()
