"""Texts whose encoding was not said: told by their bytes, never read as something else without a word."""

import base64
import codecs
import zipfile

import pytest

from runner.data.conf import DatasetConf
from runner.data.readers.raw.detection import detected
from runner.data.source import open_source
from runner.types import UserError

TEXTS = {  # none has a line end, a space or any other character of ASCII
    "simplified": "我们今天去公园散步看见很多人在那里跳舞",
    "traditional": "我們今天去公園散步看見很多人在那裡跳舞",
    "hiragana": "わたしはがくせいですきょうはいいてんき",
    "japanese": "本日は晴天なのでみんなで海へ出かけました",
    "hangul": "우리는오늘공원에서많은사람들을보았습니다",
    "thai": "วันนี้พวกเราไปเดินเล่นที่สวน",
    "khmer": "ថ្ងៃនេះយើងទៅដើរលេង",
    "lao": "ມື້ນີ້ພວກເຮົາໄປຍ່າງຫຼິ້ນ",
    "burmese": "ဒီနေ့ကျွန်တော်တို့ပန်းခြံကိုသွားတယ်",
    "arabic": "ذهبنااليومالىالحديقة",
    "emoji": "😀😃😄😁😆😅😂🤣",
}
WIDE = ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"]


def texts(path, kind="text", **conf):
    rows = open_source(DatasetConf(kind=kind, path=str(path), **conf)).rows()
    return [row["text"] for row in rows]


@pytest.mark.parametrize("name", TEXTS)
def test_wide_characters_without_a_mark_and_without_ascii_are_told(tmp_path, caplog, name):
    for encoding in WIDE:
        folder = tmp_path / encoding
        folder.mkdir()
        file = folder / "a.txt"
        file.write_bytes(TEXTS[name].encode(encoding))
        with pytest.raises(UserError, match=f"dataset.encoding={encoding}"):
            texts(file)
        for said in ("latin-1", "cp932", *WIDE):
            assert detected(file.read_bytes(), said) == (None if said == encoding else encoding)
        assert texts(file, encoding=encoding) == [TEXTS[name]]
        assert texts(folder, "documents") == [TEXTS[name]]
        assert f"a.txt is read as {encoding}" in caplog.text


@pytest.mark.parametrize("text", ["a", "ok", "aa\n", "1\n1\n1\n"])
@pytest.mark.parametrize("encoding", WIDE)
def test_ascii_in_wide_characters_is_told_however_short_it_is(text, encoding):
    assert detected(text.encode(encoding), "utf-8") == encoding
    assert detected(text.encode(encoding), encoding) is detected(b"", "utf-8") is detected(b"", encoding) is None


@pytest.mark.parametrize(
    "text",
    [
        "this app can break",  # read as 桴獩愠灰挠湡戠敲歡 by those who look at the number of different bytes only
        "supercalifragilisticexpialidocious" * 9,
        "B0D0F0G0" * 2,
        " " * 40,
        "zz" * 40,
        *TEXTS.values(),
        "name,text\n1,größe\n",
        "日本語\0テスト",
    ],
)
def test_a_text_in_the_encoding_that_was_said_is_taken_for_no_other(text):
    assert detected(text.encode(), "utf-8") is None
    for encoding in WIDE:
        assert detected(text.encode(encoding), encoding) is None


@pytest.mark.parametrize(
    ("encoding", "name"),
    [("gb18030", "simplified"), ("big5", "traditional"), ("cp932", "japanese"), ("cp949", "hangul"), ("cp874", "thai")],
)
def test_older_encodings_are_not_taken_for_wide_characters(encoding, name):
    assert detected(TEXTS[name].encode(encoding), encoding) is None
    assert detected(TEXTS[name].encode(encoding), "utf-8") is None  # which it is not: refused where it is read


@pytest.mark.parametrize(
    ("encoding", "name", "said"),
    [("iso2022_jp", "japanese", "iso2022_jp_ext"), ("iso2022_kr", "hangul", "iso2022_kr"), ("hz", "simplified", "hz")],
)
def test_encodings_of_seven_bits_are_told(tmp_path, encoding, name, said):
    file = tmp_path / "a.txt"
    file.write_bytes(TEXTS[name].encode(encoding))
    with pytest.raises(UserError, match=f"dataset.encoding={said}"):
        texts(file)
    assert texts(file, encoding=said) == texts(file, encoding=encoding) == [TEXTS[name]]


def test_documents_with_marks_and_pages_that_name_their_encoding_are_read(tmp_path):
    (tmp_path / "a.txt").write_bytes(codecs.BOM_UTF32_LE + "größe".encode("utf-32-le"))
    (tmp_path / "b.txt").write_bytes(codecs.BOM_UTF32_BE + "größe".encode("utf-32-be"))
    (tmp_path / "c.xhtml").write_bytes('<?xml version="1.0" encoding="iso-8859-2"?><p>łódź</p>'.encode("iso-8859-2"))
    (tmp_path / "d.html").write_bytes("<html><p>größe</p></html>".encode("utf-16-le"))
    with zipfile.ZipFile(tmp_path / "e.epub", "w") as book:
        book.writestr("META-INF/container.xml", '<c><rootfile full-path="b.opf"/></c>')
        book.writestr(
            "b.opf",
            '<p><manifest><item id="a" href="a.xhtml"/></manifest><spine><itemref idref="a"/></spine></p>',
        )
        book.writestr("a.xhtml", '<?xml version="1.0" encoding="utf-16"?><p>łódź</p>'.encode("utf-16"))
    assert texts(tmp_path, "documents") == ["größe", "größe", "łódź", "größe", "łódź"]


def test_the_other_order_of_bytes_than_was_said_is_refused(tmp_path):
    file = tmp_path / "a.csv"
    file.write_bytes("text\ngröße\n".encode("utf-16-be"))
    with pytest.raises(UserError, match="in utf-16-be it begins"):
        texts(file, "csv", encoding="utf-16-le")
    with pytest.raises(UserError, match="in utf-16-be it begins"):
        texts(file, "csv", encoding="utf-16")


@pytest.mark.parametrize(
    ("text", "said"),
    [("café\n", "latin-1"), ("café\n", "cp1252"), ("привет мир\n", "cp1251"), ("我们今天去公园散步\n", "gb18030")],
)
def test_utf8_is_not_read_as_an_older_encoding(tmp_path, text, said):
    file = tmp_path / "a.txt"
    file.write_text(text, "utf-8")
    with pytest.raises(UserError, match=f"is not {said}: in utf-8 it begins"):
        texts(file, encoding=said)
    file.write_text(text, said)
    assert texts(file, encoding=said) == [text.strip()]


def test_files_that_mix_encodings_are_told(tmp_path, caplog):
    file = tmp_path / "a.txt"
    file.write_bytes("café\n".encode() + "naïve\n".encode("cp1252"))
    with pytest.raises(UserError, match=r"line 2 is not utf-8; lines before it are: the file mixes encodings"):
        texts(file)
    assert texts(file, encoding="cp1252") == ["cafÃ©", "naïve"]
    assert "does the file mix encodings?" in caplog.text
    caplog.clear()
    file.write_text("“L’ÉTÉ” À BÂLE »\n", "cp1252")
    assert texts(file, encoding="cp1252") == ["“L’ÉTÉ” À BÂLE »"]
    assert not caplog.text


def test_mails_with_another_charset_than_they_say_are_read_and_told(tmp_path, caplog):
    head = "From: Zoë <z@x.org>\nSubject: café\n"
    said = "Content-Type: text/plain; charset={}\n"
    mails = {
        "a": f"{head}\ncafé\n".encode(),
        "b": f"{head}{said.format('us-ascii')}\ncafé\n".encode("cp1252"),
        "c": f"\ufeff{head}{said.format('x-unknown')}\ncafé\n".encode(),
        "d": f"{head}{said.format('iso-8859-15')}\ncafé\n".encode("iso-8859-15"),
    }
    for name, mail in mails.items():
        (tmp_path / f"{name}.eml").write_bytes(mail)
    assert texts(tmp_path, "documents") == ["From: Zoë <z@x.org>\nSubject: café\n\ncafé"] * 4
    assert "b.eml is read as cp1252, and so are others, as their texts are not us-ascii" in caplog.text
    assert "c.eml is read as utf-8, and so are others, as their texts are not x-unknown" in caplog.text


def test_mails_are_read_as_browsers_take_their_charset_or_as_is_said_where_they_have_none(tmp_path, caplog):
    head = "From: z@x.org\nSubject: {}\nMIME-Version: 1.0\n"
    typed = "Content-Type: text/plain; charset={}\nContent-Transfer-Encoding: 8bit\n"
    mails = {
        "a": (typed.format("gb2312"), "朱镕基", "gb18030"),  # the second letter is not in GB 2312
        "b": (typed.format("iso-8859-1"), "“café”", "cp1252"),  # the quotes are control characters in ISO 8859
        "c": (typed.format("iso-8859-1"), "café", "iso-8859-1"),
        "d": (typed.format("utf-8"), "a\x92b", "utf-8"),
        "e": ("", "もけら", "cp932"),
    }
    for name, (kind, text, encoding) in mails.items():
        (tmp_path / f"{name}.eml").write_bytes(f"{head.format(name)}{kind}\n{text}\n".encode(encoding))
    found = texts(tmp_path, "documents", encoding="cp932")
    assert found == [f"From: z@x.org\nSubject: {name}\n\n{text}" for name, (_, text, _) in mails.items()]
    assert "a.eml is read as gb18030, and so are others, as their texts are not gb2312" in caplog.text
    word = f"=?gb2312?B?{base64.b64encode('朱镕基'.encode('gbk')).decode()}?="
    file = tmp_path / "f.eml"
    file.write_text(f"From: {word} <z@x.org>\nSubject: Re: {word} {word}\n and more\n\nsaid\n")
    assert texts(file, "documents") == ["From: 朱镕基 <z@x.org>\nSubject: Re: 朱镕基朱镕基 and more\n\nsaid"]


@pytest.mark.parametrize("kind", ["csv", "text", "jsonl"])
@pytest.mark.parametrize("said", ["cp037", "cp500", "punycode", "undefined"])
@pytest.mark.parametrize("text", ['{"text": "a"}\n{"text": "b"}\n', "text,größe\nä,1\nö,2\n"])
def test_a_text_in_utf8_is_refused_in_an_encoding_that_no_text_is_in(tmp_path, kind, said, text):
    file = tmp_path / f"a.{kind}"
    file.write_text(text.replace("{", "[").replace("}", "]") if kind == "csv" else text)
    with pytest.raises(UserError, match=rf"is not {said}.*did you mean dataset.encoding=utf-8"):
        texts(file, kind, encoding=said)


def test_ebcdic_is_read(tmp_path):
    file = tmp_path / "a.csv"
    file.write_bytes("text,kind\r\nHello there,ham\r\nPills,spam\r\n".encode("cp037"))
    assert texts(file, "csv", encoding="cp037") == ["Hello there", "Pills"]


@pytest.mark.parametrize("kind", ["text", "documents"])
def test_only_encodings_in_which_all_of_a_file_reads_are_suggested(tmp_path, kind):
    """Windows' Western set reads the first line, and neither it nor the Cyrillic one the second."""
    file = tmp_path / "a.txt"
    file.write_text("wait—\nè, ò\n", encoding="mac_roman")  # bytes 8f and 98
    if kind == "documents":
        (row,) = open_source(DatasetConf(kind=kind, path=str(file))).rows()
        said = row.why
    else:
        with pytest.raises(UserError) as refused:
            texts(file)
        said = str(refused.value)
    assert "did you mean dataset.encoding=mac_roman ('wait—" in said
    assert "cp125" not in said
