import datetime
import json
import tarfile
import zipfile

import pytest

from runner.data.conf import DatasetConf
from runner.data.readers.aclsum import paper_text
from runner.data.readers.documents import archives, find_documents
from runner.data.readers.documents.html import html_text
from runner.data.source import open_source
from runner.loop.task import Task
from runner.types import UnreadableRow, UserError

PAGE = "<html><head><title>t</title><style>p {}</style></head><body><h1>One</h1><p>a <b>bold</b> word<br>next\n line"
PAGE += "<script>var x = '<p>no</p>'</script></p><ul><li>x</li><li>y &amp; z</li></ul></body></html>"


def pdf(text):
    """A PDF of one page, made by hand."""
    stream = f"BT /F1 12 Tf 50 700 Td ({text}) Tj ET".encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R"
        b" /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    out, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    end = b"trailer << /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % len(out)
    return out + b"xref\n0 6\n0000000000 65535 f \n" + table + end


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "b.txt").write_text("plain\r\ntext\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.MD").write_text("# Head\n\nbody")
    (tmp_path / "c.html").write_text(PAGE)
    (tmp_path / "d.pdf").write_bytes(pdf("Hello from a page"))
    (tmp_path / "e.pdf").write_bytes(b"%PDF-1.4 and then nothing")
    (tmp_path / "f.txt").write_bytes(b"\x00\x01binary")
    (tmp_path / "g.txt").write_bytes("caf\xe9".encode("latin-1"))
    (tmp_path / "h.txt").write_text("  \n")
    (tmp_path / ".hidden.txt").write_text("no")
    (tmp_path / "i.png").write_bytes(b"\x89PNG")
    return tmp_path


def opened(path, **keys):
    return open_source(DatasetConf(kind="documents", path=str(path), **keys))


def test_every_document_is_a_row_in_the_order_of_its_path(folder):
    rows = list(opened(folder).rows())
    assert [row["file"] for row in rows] == [*(f"{name}" for name in ("b.txt", "c.html", "d.pdf", "e.pdf", "f.txt")),
                                             "g.txt", "h.txt", "sub/a.MD"]  # fmt: skip
    texts = {row["file"]: row["text"] for row in rows}
    assert texts["b.txt"] == "plain\ntext\n"
    assert texts["sub/a.MD"] == "# Head\n\nbody"
    assert texts["c.html"] == "One\n\na bold word\n\nnext line\n\nx\n\ny & z"
    assert "Hello from a page" in texts["d.pdf"]


def test_what_cannot_be_read_is_a_row_that_says_why(folder):
    rows = {row["file"]: row for row in opened(folder).rows()}
    unreadable = {name for name, row in rows.items() if isinstance(row, UnreadableRow)}
    assert unreadable == {"e.pdf", "f.txt", "g.txt", "h.txt"}
    assert rows["g.txt"].why.startswith(
        "ValueError: byte 3 is not utf-8; did you mean dataset.encoding=cp1252 ('café')"
    )
    assert rows["h.txt"].why == "it holds no text"
    task = Task(0, rows["f.txt"], job=None)
    assert task.start() == []
    assert task.output.error == "unreadable: ValueError: it is not text: it contains null bytes"


def test_encodings_are_said_or_stand_in_the_file(tmp_path):
    (tmp_path / "a.txt").write_bytes("caf\xe9".encode("latin-1"))
    (tmp_path / "b.txt").write_bytes("\ufeffcaf\xe9".encode())
    (tmp_path / "c.txt").write_bytes("caf\xe9".encode("utf-16"))
    (tmp_path / "d.html").write_bytes(b'<meta http-equiv="x" content="text/html; charset=cp1251"><p>\xea\xee\xf2')
    (tmp_path / "e.html").write_bytes('<META CHARSET="klingon"><p>caf\xe9'.encode("latin-1"))
    texts = [row["text"] for row in opened(tmp_path, encoding="latin-1").rows()]
    assert texts == ["caf\xe9", "caf\xe9", "caf\xe9", "\u043a\u043e\u0442", "caf\xe9"]
    with pytest.raises(UserError, match=r"dataset\.encoding=klingon: it is not a known encoding"):
        opened(tmp_path, encoding="klingon")


def test_the_fingerprint_follows_names_and_contents(folder):
    first = opened(folder).fingerprint
    assert opened(folder).fingerprint == first
    (folder / "b.txt").write_text("changed")
    second = opened(folder).fingerprint
    (folder / "b.txt").rename(folder / "bb.txt")
    assert len({first, second, opened(folder).fingerprint}) == 3


def test_one_file_and_some_files_are_data_sets_too(folder):
    assert [row["file"] for row in opened(folder / "b.txt").rows()] == ["b.txt"]
    assert [row["file"] for row in opened(folder / "[bg].txt").rows()] == ["b.txt", "g.txt"]
    (folder / "top").mkdir()
    (folder / "top" / "z.md").write_text("z")
    assert [row["file"] for row in opened(folder / "*" / "*.[mM]*").rows()] == ["sub/a.MD", "top/z.md"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("i.png", "holds no documents"),
        ("nothing", "no such file"),
        (".", "holds no documents"),
        ("a.tgz", "is not a document but a tar archive: unpack it"),
        ("a.zip", "is not a document but a zip archive: unpack it"),
        ("a.db", "is not a document but an SQLite database: use dataset=sqlite"),
    ],
)
def test_what_holds_no_documents_is_refused(tmp_path, name, says):
    (tmp_path / "i.png").write_bytes(b"\x89PNG")
    (tmp_path / "a.db").write_bytes(b"SQLite format 3\0")
    (tmp_path / "a.txt").write_text("inside")
    with tarfile.open(tmp_path / "a.tgz", "w:gz", format=tarfile.USTAR_FORMAT) as archive:
        archive.add(tmp_path / "a.txt", "a.txt")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.write(tmp_path / "a.txt", "a.txt")
    (tmp_path / "a.txt").unlink()
    with pytest.raises(UserError, match=says):
        opened(tmp_path / name)


def test_a_pdf_without_the_package_is_refused_at_once(folder, monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"d.pdf needs the package pypdf: pip install 'rowmill\[documents\]'"):
        opened(folder)


def test_html_without_an_end_is_text():
    assert html_text("a <p>b &lt; c") == "a\n\nb < c"
    assert html_text("<html><head><title>t<body>a page") == "a page"


def test_papers_have_headings_and_references(tmp_path):
    paper = {
        "title": "On X",
        "abstract": "We do X.",
        "pdf_parse": {
            "body_text": [
                {"section": "Intro", "text": "One.\u2028Two."},
                {"section": "Intro", "text": "Three."},
                {"section": "End", "text": "Four."},
            ]
        },
    }
    assert paper_text(paper) == "We do X.\n\nIntro\n\nOne.\u2028Two.\n\nThree.\n\nEnd\n\nFour."
    (tmp_path / "paper_jsons").mkdir()
    summary = {"challenge": "C.", "approach": "A.\u2028", "outcome": "O."}
    for split in ("train", "val", "test"):
        (tmp_path / "paper_jsons" / f"{split}-1.json").write_text(json.dumps(paper))
        line = json.dumps({"id": f"{split}-1", "summary": summary}, ensure_ascii=False)
        (tmp_path / f"{split}.jsonl").write_text(line + "\n")
    source = open_source(DatasetConf(kind="aclsum", path=str(tmp_path), gold="reference", where="split == test"))
    (row,) = source.rows()
    assert row == {"id": "test-1", "title": "On X", "text": paper_text(paper), "reference": "C. A. O.", "split": "test"}


def test_a_folder_that_is_not_aclsum_is_refused(tmp_path):
    with pytest.raises(UserError, match="not the folder `dataset` of the wheel aclsum"):
        open_source(DatasetConf(kind="aclsum", path=str(tmp_path)))


def test_links_give_the_files_that_they_lead_to_and_others_are_named(tmp_path, caplog):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.txt").write_text("there")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "b.txt").symlink_to(tmp_path / "other" / "a.txt")
    (folder / "c.txt").symlink_to("nowhere")
    (folder / "d").symlink_to(tmp_path / "other")
    (folder / "e").symlink_to(".")
    assert [row["file"] for row in opened(folder).rows()] == ["b.txt"]
    said = f"3 links in {folder} skipped, as they lead to a folder, which is not looked into, or nowhere: c.txt, d, e"
    assert said in caplog.text


def test_files_that_are_skipped_are_counted_and_named(tmp_path, caplog):
    for name in ("a.txt", "b.doc", "c.png", ".hidden", "~$b.docx"):
        (tmp_path / name).write_text("text")
    assert [file.name for file in find_documents([tmp_path])] == ["a.txt"]
    assert "2 files in " in caplog.text
    assert "skipped, as dataset=documents reads no such kind: b.doc, c.png" in caplog.text


def office_files(folder):
    """A document of each kind, by the packages that write them or by hand."""
    import docx
    import openpyxl
    import pptx
    from docx.opc.constants import RELATIONSHIP_TYPE
    from docx.opc.packuri import PackURI
    from docx.opc.part import Part

    word = docx.Document()
    word.add_heading("Head")
    word.add_paragraph("one ö")
    table = word.add_table(2, 2)
    for cell, text in zip((cell for row in table.rows for cell in row.cells), "abcd", strict=True):
        cell.text = text
    word.add_paragraph("two")
    notes = "".join(
        f'<w:footnote w:id="{n}" {kind}><w:p><w:r><w:t>{text}</w:t></w:r></w:p></w:footnote>'
        for n, (kind, text) in enumerate([('w:type="separator"', "---"), ("", "a note")])
    )
    content = (
        f'<w:footnotes xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main">{notes}</w:footnotes>'
    )
    part = Part(PackURI("/word/footnotes.xml"), "application/xml", content.encode(), word.part.package)
    word.part.relate_to(part, RELATIONSHIP_TYPE.FOOTNOTES)
    word.save(folder / "a.docx")
    show = pptx.Presentation()
    for title in ("First", "Second"):
        slide = show.slides.add_slide(show.slide_layouts[1])
        slide.shapes.title.text, slide.placeholders[1].text = title, f"{title} point"
        slide.notes_slide.notes_text_frame.text = "say it"
    cells = slide.shapes.add_table(2, 2, 0, 0, 9, 9).table
    cells.cell(0, 0).merge(cells.cell(0, 1))
    cells.cell(0, 0).text, cells.cell(1, 1).text = "wide", "x"
    show.save(folder / "b.pptx")
    book = openpyxl.Workbook()
    book.active.append(["name", "n"])
    book.active.append(["ö", 1.5, datetime.date(2024, 2, 29), True, "=B2+1", 0.1 + 0.2, 0.125, "a\nb", 10**9])
    book.active["G2"].number_format = "0%"
    book.active.append(
        [datetime.datetime(2024, 2, 29), datetime.datetime(2024, 2, 29, 13, 5), datetime.timedelta(1.25)]
    )
    book.create_sheet("Empty")
    book.save(folder / "c.xlsx")
    (folder / "d.rtf").write_text(r"{\rtf1\ansi{\fonttbl{\f0 Arial;}}\f0 Hi {\b bold} caf\'e9\par next\u8364?}")
    with zipfile.ZipFile(folder / "e.epub", "w") as epub:
        epub.writestr(
            "META-INF/container.xml", '<c xmlns="x"><rootfiles><rootfile full-path="O/b.opf"/></rootfiles></c>'
        )
        items = "".join(f'<item id="i{n}" href="ch%20{n}.xhtml"/>' for n in (1, 2))
        spine = '<itemref idref="i2"/><itemref idref="i1"/><itemref idref="gone"/>'
        epub.writestr("O/b.opf", f'<p xmlns="x"><manifest>{items}</manifest><spine>{spine}</spine></p>')
        for n in (1, 2):
            epub.writestr(
                f"O/ch {n}.xhtml", f"<html><head><title>t</title></head><body><p>chapter {n}</p></body></html>"
            )
    with zipfile.ZipFile(folder / "f.odt", "w") as odt:
        names = " ".join(
            f'xmlns:{n}="urn:oasis:names:tc:opendocument:xmlns:{n}:1.0"' for n in ("office", "text", "table")
        )
        cells = "<table:table-cell><text:p>a</text:p></table:table-cell><table:table-cell/>"
        note = "<text:note><text:note-body><text:p>n</text:p></text:note-body></text:note>"
        text = f"<text:h>Head</text:h><text:p>x<text:s text:c='2'/><text:span>y</text:span><text:tab/>z{note}</text:p>"
        body = f"{text}<table:table><table:table-row>{cells}</table:table-row></table:table>"
        odt.writestr("content.xml", f"<office:d {names}><office:body>{body}</office:body></office:d>")
    (folder / "g.eml").write_bytes(
        b"From: =?utf-8?q?Zo=C3=AB?= <z@x.org>\nSubject: Hi\nMIME-Version: 1.0\n"
        b"Content-Type: multipart/mixed; boundary=B\n\n"
        b"--B\nContent-Type: text/html; charset=latin-1\n\n<p>caf\xe9</p>\n"
        b"--B\nContent-Type: application/pdf\nContent-Disposition: attachment; filename=a.pdf\n\nx\n--B--\n"
    )


OFFICE = {
    "a.docx": "Head\n\none ö\n\na\tb\nc\td\n\ntwo\n\na note",
    "b.pptx": "First\nFirst point\nsay it\n\nSecond\nSecond point\nwide\n\tx\nsay it",
    "c.xlsx": "Sheet\nname\tn\nö\t1.5\t2024-02-29\tTRUE\t=B2+1\t0.3\t12.5%\ta b\t1000000000\n"
    "2024-02-29 00:00:00\t2024-02-29 13:05:00\t30:00:00",
    "d.rtf": "Hi bold café\nnext€",
    "e.epub": "chapter 2\n\nchapter 1",
    "f.odt": "Head\n\nx  y\tz\n\na\n\nn",
    "g.eml": "From: Zoë <z@x.org>\nSubject: Hi\n\ncafé\n\nAttached: a.pdf",
}


def test_word_says_what_stands_in_controls_changes_boxes_and_tables_within_tables(tmp_path):
    import docx
    from docx.oxml import parse_xml

    space = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
    other = 'xmlns:m="http://schemas.openxmlformats.org/markup-compatibility/2006"'
    word = docx.Document()
    run = "<w:r><w:t xml:space='preserve'>{}</w:t></w:r>".format
    box = "<w:txbxContent><w:p>" + run("box") + "</w:p></w:txbxContent>"
    drawn = f"<m:AlternateContent {other}><m:Choice>{box}</m:Choice><m:Fallback>{box}</m:Fallback></m:AlternateContent>"
    changed = f"<w:ins>{run('new')}</w:ins><w:del><w:r><w:delText>old</w:delText></w:r></w:del>"
    field = f"<w:sdt><w:sdtContent>{run(' field')}</w:sdtContent></w:sdt>"
    tabs = "<w:pPr><w:tabs><w:tab w:val='left' w:pos='1'/></w:tabs></w:pPr>"
    paragraph = f"<w:p>{tabs}{run('a ')}{changed}{field}<w:r><w:br w:type='page'/>{drawn}</w:r></w:p>"
    inner = f"<w:tbl><w:tr><w:tc>{paragraph}</w:tc></w:tr></w:tbl>"
    word.element.body.insert(0, parse_xml(f"<w:sdt {space}><w:sdtContent>{paragraph}</w:sdtContent></w:sdt>"))
    word.element.body.insert(1, parse_xml(f"<w:tbl {space}><w:tr><w:tc><w:p/>{inner}</w:tc><w:tc/></w:tr></w:tbl>"))
    word.save(tmp_path / "a.docx")
    assert [row["text"] for row in opened(tmp_path).rows()] == ["a new field\nbox\n\n\na new field box\t"]


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<table><tr><td>1<td>2</table>", "1\t2"),
        ("<table><caption>c</caption><tr><th><th>b<tr><td> x\n y</td><td></td></table>z", "c\n\n\tb\n\nx y\n\nz"),
        ("<p>a<aside>b</aside>c<pre>\n d\n  <b>e</b><br>f\n</pre>g  h", "a\n\nb\n\nc\n\n d\n  e\nf\n\ng h"),
    ],
)
def test_cells_of_pages_stand_apart_and_lines_of_code_stay_lines(tmp_path, page, text):
    (tmp_path / "a.html").write_text(page)
    assert [row["text"] for row in opened(tmp_path).rows()] == [text]


def test_documents_of_office_programs_books_and_mails_are_rows(tmp_path):
    office_files(tmp_path)
    assert {row["file"]: row["text"] for row in opened(tmp_path).rows()} == OFFICE


@pytest.mark.parametrize("content", [b"", b"not what it is called", b"PK\x03\x04 torn"])
def test_a_damaged_document_is_an_error_of_its_own_row(tmp_path, content):
    for name in OFFICE:
        (tmp_path / name).write_bytes(content)
    (tmp_path / "fine.txt").write_text("fine")
    rows = list(opened(tmp_path).rows())
    assert [row["text"] for row in rows if not isinstance(row, UnreadableRow)] == ["fine"]
    assert len(rows) == len(OFFICE) + 1


def test_a_document_that_unpacks_to_more_than_memory_holds_is_not_read(tmp_path, monkeypatch):
    office_files(tmp_path)
    monkeypatch.setattr(archives, "MOST_BYTES", 10)
    unreadable = [row["file"] for row in opened(tmp_path).rows() if isinstance(row, UnreadableRow)]
    assert unreadable == ["a.docx", "b.pptx", "c.xlsx", "e.epub", "f.odt"]
