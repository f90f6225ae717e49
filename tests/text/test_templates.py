"""Templates over the columns of a row, whatever these are called and hold."""

import pytest

from runner.text.templates import Template, cell
from runner.types import RowError, UserError

NAMES = ["Review Text", "label-coarse", " text", "Größe", "a.b", "class", "1st", 'a "b"', "it's", "{{ x }}", "a\\b"]
NAMES += ["a\nb", "名前", "loop", "range", "dict", "self", "none", "True", "in", "not", "if", "row", "columns", "items"]


@pytest.mark.parametrize("name", NAMES)
def test_any_column_can_be_printed_as_init_writes_it(name):
    template = Template("prompt.user", f"<{cell(name)}>")
    template.check_names([name, "text"])
    assert template.render({name: "cell", "text": "other"}) == "<cell>"
    assert template.names == {name}


@pytest.mark.parametrize("name", ["row", "columns"])
def test_a_column_called_row_or_columns_is_what_it_is_called(name):
    other = {"row": "columns", "columns": "row"}[name]
    template = Template("prompt.user", f"{{{{ {name} }}}} {{{{ {other}['a b'] }}}} {{{{ {other}.{name} }}}}")
    template.check_names([name, "a b"])
    assert template.render({name: 7, "a b": "x"}) == "7 x 7"


def test_a_column_called_row_may_have_parts():
    template = Template("prompt.user", "{{ row['x'] }} {{ row.y }}")
    template.check_names(["row"])
    assert template.names == {"row"}
    assert template.render({"row": {"x": 1, "y": 2}}) == "1 2"


def test_a_column_called_row_that_holds_numbers_or_texts_leaves_the_row_what_it_is():
    template = Template("prompt.user", "{{ row }} {{ row['a b'] }} {{ row.real }} {{ row * 2 }} {{ row | tojson }}")
    template.check_names(["row", "a b", "real"])
    assert template.names == {"row", "a b", "real"}
    assert template.render({"row": 7, "a b": "x", "real": "y"}) == "7 x y 14 7"
    assert template.render({"row": "r", "a b": "x", "real": "y"}) == 'r x y rr "r"'
    template.take_columns(["row", "a b", "real"], ["row"])
    assert template.render({"row": "7", "a b": "x", "real": "y"}) == "7 x y 14 7"
    assert Template("x", "{{ row.upper() }}{{ row[0] }}").render({"row": "r"}) == "Rr"


def test_a_column_called_row_that_hides_the_row_is_named():
    template = Template("prompt.user", "{{ row['a b'] }}")
    template.check_names(["row", "a b"])
    with pytest.raises(RowError, match=r'row is the column of this name here: write \{\{ columns\["a b"\] \}\}'):
        template.render({"row": {"c": 1}, "a b": "x"})
    with pytest.raises(RowError, match=r"is null; row is the column of this name here"):
        template.render({"row": {"a b": None}, "a b": "x"})


def test_a_whole_row_can_be_gone_through():
    template = Template("prompt.user", "{% for name, value in row.items() %}{{ name }}: {{ value }}\n{% endfor %}")
    template.check_names(["a b", "c"])
    assert template.render({"a b": 1, "c": 2}) == "a b: 1\nc: 2\n"
    assert Template("x", "{{ row | tojson }}").render({"a b": 1, "c": "é"}) == '{"a b": 1, "c": "é"}'
    assert Template("x", "{{ 'a b' in row }} {{ row.get('z', 'none') }}").render({"a b": 1}) == "True none"


def test_a_template_cannot_change_its_row():
    row = {"a b": 1}
    Template("x", "{{ row.update({'a b': 2}) or '' }}").render(row)
    assert row == {"a b": 1}


def test_row_has_the_columns_that_variables_of_the_job_hide():
    template = Template("x", "{{ labels }} {{ row['labels'] }}")
    assert template.render({"labels": "the job's"}, row={"labels": "the column"}) == "the job's the column"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{{ Review Text }}", 'a column of this name is written {{ row["Review Text"] }}'),
        ("{{ 1st }}", 'a column of this name is written {{ row["1st"] }}'),
        ("{{ review-text }}", "no column 'review' (did you mean 'review-text'?)"),
        ("{{ review-text }}", 'write {{ row["review-text"] }}'),
        ("{{ text }}", 'write {{ row[" text"] }}'),
        ("{{ row['Review'] }}", "no column 'Review'"),
        ("{{ row.nope }}", "no column 'nope'"),
        ("{{ columns['nope'] }}", "no column 'nope'"),
        ("{{ range }}", "no column 'range'"),
        ("{{ none }}", 'write {{ row["none"] }}'),
        ("{{ self }}", 'write {{ row["self"] }}'),
    ],
)
def test_what_cannot_be_a_column_is_told_with_how_to_write_it(source, said):
    with pytest.raises(UserError) as refusal:
        Template("prompt.user", source).check_names(["review-text", " text", "none", "self"])
    assert said in str(refusal.value)


@pytest.mark.parametrize("source", ["{% include 'x' %}", "a\n{% extends 'x' %}", "{% from 'x' import y %}{{ text }}"])
def test_a_template_that_wants_another_file_is_refused(source):
    with pytest.raises(UserError, match=r"prompt\.user: line \d: a template reads no file"):
        Template("prompt.user", source)


@pytest.mark.parametrize(
    "source",
    ["{{ row['nope'] | default('-') }}", "{{ '-' if row['nope'] is not defined }}", "{{ nope | d('-') }}"],
)
def test_a_column_with_a_default_may_be_missing(source):
    template = Template("prompt.user", source)
    template.check_names(["text"])
    assert template.render({"text": "x"}) == "-"


def test_a_null_is_named_however_it_is_written():
    for source in ("{{ row['a b'] }}", "{{ columns['a b'] }}"):
        with pytest.raises(RowError, match="column a b is null"):
            Template("prompt.user", source).render({"a b": None})
    with pytest.raises(RowError, match="columns a, b are null"):
        Template("prompt.user", "{{ a }} {{ b }} {{ c }}").render({"a": None, "b": None, "c": 1})


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{{ row.keys }}", r'a column of the name is row\["keys"\]'),
        ("{{ text.upper }}", r"prints a function: upper\(\) calls it"),
        ("{{ tags | map('upper') }}", r"add \| list or \| join"),
    ],
)
def test_nothing_is_printed_that_has_only_an_address(source, said):
    with pytest.raises(RowError, match=said):
        Template("prompt.user", source).render({"text": "a", "tags": ["x"], "keys": 1})
    fixed = source.replace(".keys", "['keys']").replace(".upper", ".upper()").replace(" }}", " | list }}")
    assert "object at" not in Template("prompt.user", fixed).render({"text": "a", "tags": ["x"], "keys": "1"})


def test_no_row_sees_what_a_template_made_of_the_row_before():
    """Neither variables that it set nor cells, also when a rendering ended in the middle."""
    source = "{% if a is defined %}{% set seen = a %}{{ a }}{{ b }}{% endif %}{{ seen is defined }}"
    template = Template("prompt.user", source)
    assert template.render({"a": 1, "b": 2}) == "12True"
    assert template.render({}) == "False"
    with pytest.raises(RowError, match="column b is null"):
        template.render({"a": 1, "b": None})
    assert template.render({"b": 2}) == "False"


def test_a_row_of_many_columns_is_all_there_where_the_whole_row_is_asked_for():
    columns = {f"c{number}": f"{number}" for number in range(3)}
    template = Template("prompt.user", "{{ c1 + 1 }} {{ row.values() | join(',') }} {{ row['c2'] + 1 }}")
    template.take_columns(columns, columns)
    assert template.render(columns) == "2 0,1,2 3"
