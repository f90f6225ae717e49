import pytest

from runner import run
from runner.results.rouge import need_rouge, rouge_lines
from runner.types import UserError

RUN = ["job=summarize", "dataset=csv", "dataset.path=rows.csv", "dataset.gold=reference", "engine.backend=fake"]


@pytest.fixture
def figures(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [f"text number {i},amber birch cedar dune" for i in range(20)]
    (tmp_path / "rows.csv").write_text("\n".join(["text,reference", *lines, '"",amber', "more text,"]) + "\n")
    return run(RUN)


def test_summaries_are_scored_against_the_reference_column(figures):
    rouge = figures["rouge"]
    assert rouge["rows"] == 21  # the row in error counts, the one without a reference does not
    assert figures["errors"] == 1
    for kind in ("rouge1", "rouge2", "rougeL"):
        assert 0 <= rouge[kind]["low"] <= rouge[kind]["f1"] <= rouge[kind]["high"] <= 1
    assert rouge["rouge1"]["f1"] > rouge["rouge2"]["f1"]
    assert rouge["rouge1"]["high"] > rouge["rouge1"]["low"]
    assert rouge_lines(rouge)[0].startswith(f"ROUGE-1 {rouge['rouge1']['f1']:.3f} (")


def test_the_same_summaries_have_the_same_interval(figures):
    assert run(RUN)["rouge"] == figures["rouge"]


def test_without_the_package_a_run_with_references_does_not_start(monkeypatch):
    monkeypatch.setattr("runner.results.rouge.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"dataset.gold=abstract: .*'rowmill\[summarize\]'; .* dataset.gold=null"):
        need_rouge("abstract")
