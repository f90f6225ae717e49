"""Mails as files or in mailboxes: their headers, what they say, and the names of what is attached."""

from __future__ import annotations

import codecs
import contextlib
import re
from collections.abc import Iterator
from email import policy
from email.message import MIMEPart
from email.parser import BytesParser
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

from runner.console import warn_once
from runner.data.readers.documents import archives
from runner.data.readers.documents.html import as_browsers, declared, html_text
from runner.data.readers.raw.encodings import open_bytes

SUFFIXES = (".eml",)
BOXES = (".mbox",)
APPLES = "mbox"  # the file in the folder that Apple's Mail exports
_HEADERS = ("From", "To", "Cc", "Date", "Subject")
_ENCODED = re.compile(r"=\?([\w.:-]+)\?")  # how an encoded word of a header begins: the name of its charset
_CONTROLS = re.compile("[\x80-\x9f]")  # which 8 bits hold in ISO 8859 and not in Windows' own sets
# RFC 4155: a line of sender and time stands before each mail; Thunderbird leaves both out. Where a mail has such a line
# itself, mboxo and mboxrd write it as a quotation.
_BEGINS = re.compile(rb"From (.*\d\d:\d\d.*)?\r?\n")
_FIELD = re.compile(rb"[!-9;-~]+:")  # how a header begins
_QUOTED = re.compile(rb">+From ")


def mails(path: Path) -> Iterator[bytes]:
    """The mails of a mailbox, which may be compressed, one in memory at a time.

    OSError for a damaged file, ValueError for a mail that is larger than memory should hold.
    """
    mail = bytearray()
    with open_bytes(path) as file:
        for line, following in pairwise(chain(file, [b""])):
            if _BEGINS.fullmatch(line) and _FIELD.match(following):
                if mail.strip():
                    yield bytes(mail)
                mail.clear()
            else:
                mail += line[1:] if _QUOTED.match(line) else line
            if len(mail) > archives.MOST_BYTES:
                raise ValueError(f"it has more than {archives.MOST_BYTES:,} bytes")
    if mail.strip():
        yield bytes(mail)


def mail_text(content: bytes, encoding: str, place: str) -> str:
    """Headers, a blank line, the text, or the page as text; at the end the names of what is attached.

    ``encoding`` is that of what does not say in which it is; ``place``, such as the name of its file,
    is for messages. ValueError for what is no mail.
    """
    mail = BytesParser(policy=policy.default).parsebytes(content.removeprefix(codecs.BOM_UTF8))
    headers = [f"{name}: {_header(mail, name, encoding, place)}" for name in _HEADERS if mail[name]]
    body = mail.get_body(("plain", "html"))
    said = _said(body, encoding, place) if body is not None else ""
    if not headers and not mail.keys():
        raise ValueError("it is no mail: it has no headers")
    attached = [part.get_filename() or part.get_content_type() for part in mail.iter_attachments()]
    names = f"Attached: {', '.join(attached)}" if attached else ""
    return "\n\n".join(filter(None, ("\n".join(headers), said, names)))


def _said(body: MIMEPart[Any, Any], encoding: str, place: str) -> str:
    content = body.get_payload(decode=True)
    is_page = body.get_content_subtype() == "html"
    charset = body.get_content_charset() or (is_page and declared(bytes(content))) or encoding
    text = _decoded(bytes(content), charset, place).replace("\r\n", "\n")
    return html_text(text) if is_page else text.strip()


def _header(mail: MIMEPart[Any, Any], name: str, encoding: str, place: str) -> str:
    """A header, whose bytes may stand there as they are, or be of a charset that browsers take for a larger one."""
    value = str(mail[name])
    if "\ufffd" not in value:
        return value
    raw = "".join(next(str(text) for key, text in mail.raw_items() if key.lower() == name.lower()).splitlines())
    if "=?" in raw:
        larger = _ENCODED.sub(lambda found: f"=?{as_browsers(found[1]) or found[1]}?", raw)
        return str(policy.default.header_factory(name, larger))
    content = raw.encode("utf-8", "surrogateescape")
    return value if content.isascii() else " ".join(_decoded(content, encoding, place).split())


def _decoded(content: bytes, charset: str, place: str) -> str:
    """In the mail's own charset; as UTF-8, browsers or Windows have it where that fits, which is told.

    A charset of 8 bits in which it has control characters does not fit: no mail means them.
    """
    for encoding in (charset, "utf-8", as_browsers(charset) or charset, "cp1252"):
        with contextlib.suppress(LookupError, UnicodeDecodeError):
            text = content.decode(encoding)
            if len(text) == len(content) and _CONTROLS.search(text):
                continue
            if encoding != charset:
                # Of the first mail only: old ones by thousands have no charset, or a wrong one.
                others = "and so are others, as their texts are not"
                warn_once((encoding, charset), "%s is read as %s, %s %s", place, encoding, others, charset)
            return text
    raise ValueError(f"its text is not {charset}")
