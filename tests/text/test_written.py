"""What a template makes of a cell of a CSV file does not depend on the other rows of the file."""

import pytest

from runner.data.conf import DatasetConf
from runner.data.source import open_source
from runner.text.templates import Template

SOURCES = {
    "{{ n }}|{{ d }}|{{ z }}|{{ p }}": "5|0.5|007|1.50",
    "{{ n + 1 }} {{ 1 + n }} {{ n * 2 }} {{ 2 * n }} {{ n - 1 }} {{ 7 - n }} {{ n / 2 }} {{ n // 2 }} {{ n ** 2 }}": (
        "6 6 10 10 4 2 2.5 2 25"
    ),
    "{{ n % 2 }} {{ -n }} {{ n is odd }} {{ n is divisibleby 5 }} {{ n + d }} {{ p * 2 }} {{ n | abs }}": (
        "1 -5 True True 5.5 3.0 5"
    ),
    "{{ n > 3 }} {{ 3 > n }} {{ n == 5 }} {{ n == '5' }} {{ n != 5 }} {{ n in [5] }} {{ n in ['5'] }}": (
        "True False True True False True True"
    ),
    "{{ z == 7 }} {{ z == '007' }} {{ z == '7' }} {{ z[:2] }} {{ n[:2] }} {{ n | length }} {{ n ~ 'x' }}": (
        "True True False 00 5 1 5x"
    ),
    "{{ n + ' stars' }} {{ 'stars: ' + n }} {{ '-' * n }} {{ '%d, %s' % (n, p) }} {{ '%d' % n }}": (
        "5 stars stars: 5 ----- 5, 1.50 5"
    ),
    "{{ '{:.2f} {:03} {}'.format(d, n, p) }} {{ p | round(1) }} {{ n | float }} {{ p | int }}": (
        "0.50 005 1.50 1.5 5.0 1"
    ),
    "{{ {5: 'a'}[n] }} {{ {'5': 'b'}[n] }} {{ {5: 'c'}.get(n, '?') }} {{ 'abcdef'[n] }} {{ range(n) | list }}": (
        "a b c f [0, 1, 2, 3, 4]"
    ),
    "{{ 'yes' if zero else 'no' }} {{ n is number }} {{ z is integer }} {{ p is float }} {{ text is number }}": (
        "no True True True False"
    ),
    "{{ row.n + 1 }} {{ [n, d, z] | tojson }} {{ row | tojson }}": (
        '6 [5, 0.5, "007"] {"n": 5, "d": 0.5, "z": "007", "p": "1.50", "zero": 0, "text": "a 1"}'
    ),
    "{{ [n, d] | max }} {{ [n, d] | sum }} {{ n.startswith('5') }} {{ n | upper }}": "5 5.5 True 5",
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("csv")
    row = "n,d,z,p,zero,text\n5,0.5,007,1.50,0,a 1\n"
    (folder / "numbers.csv").write_text(row + "1,1.5,2,2.5,3,b\n")
    (folder / "mixed.csv").write_text(row + "N/A,N/A,N/A,N/A,N/A,b\n")
    return folder


def opened(files, name, **keys):
    return open_source(DatasetConf(kind="csv", path=str(files / name), **keys))


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("name", ["numbers.csv", "mixed.csv"])
def test_a_csv_cell_is_its_text_and_computes_as_a_number_whatever_other_rows_hold(files, name, source):
    data = opened(files, name)
    template = Template("prompt.user", source)
    template.check_names(data.column_names, data.written)
    assert template.render(next(data.rows())) == SOURCES[source]


@pytest.mark.parametrize(
    ("where", "chosen"),
    [
        *(("n == 5", True), ("n == 5.0", True), ("n == '5'", True), ("n == '05'", False), ("n != '05'", True)),
        *(("n > '10'", False), ("n > 10", False), ("n < '10'", True), ("d == '0.5'", True), ("d == '0.50'", False)),
        *(("n in ['5', '6']", True), ("n not in ['05']", True), ("zero == 0", True), ("n > 4.5", True)),
    ],
)
def test_where_chooses_a_csv_row_whatever_other_rows_hold(files, where, chosen):
    for name in ("numbers.csv", "mixed.csv"):
        found = [row["text"] for row in opened(files, name, where=f"({where}) and text != b or text == b").rows()]
        assert found == (["a 1", "b"] if chosen else ["b"])
