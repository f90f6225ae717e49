import pytest

from runner import open_run, run
from runner.results.rouge import Words, need_rouge, rouge_lines
from runner.types import UserError

RUN = ["job=summarize", "dataset=csv", "dataset.path=rows.csv", "dataset.gold=reference", "engine.backend=fake"]
REFERENCE = "amber birch cedar dune"


@pytest.fixture
def figures(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [f"text number {i},{REFERENCE}" for i in range(20)]
    (tmp_path / "rows.csv").write_text("\n".join(["text,reference", *lines, '"",amber', "more text,"]) + "\n")
    return run(RUN)


def test_summaries_are_scored_against_the_reference_column(figures):
    rouge = figures["rouge"]
    assert rouge["rows"] == 21  # the row in error counts, the one without a reference does not
    assert figures["errors"] == 1
    summaries = [(row["summary"] or "").split() for row in open_run(figures["path"]).rows()][:21]
    shared = [2 * len({*words} & {*REFERENCE.split()}) / (len(words) + 4) for words in summaries]
    assert rouge["rouge1"]["f1"] == pytest.approx(sum(shared) / 21)
    assert rouge["rouge1"] == pytest.approx({"f1": 0.197317, "low": 0.118491, "high": 0.270069}, abs=1e-6)
    assert rouge["rouge2"] == {"f1": 0.0, "low": 0.0, "high": 0.0}
    assert rouge["rougeL"] == pytest.approx({"f1": 0.177211, "low": 0.108820, "high": 0.235421}, abs=1e-6)
    assert rouge_lines(rouge)[0] == "ROUGE-1 0.197 (0.118 to 0.270)"


def test_words_with_other_letters_than_a_to_z_count():
    from rouge_score.rouge_scorer import RougeScorer

    ours, usual = RougeScorer(["rouge1"], tokenizer=Words()), RougeScorer(["rouge1"], use_stemmer=True)
    assert ours.score("今天天气很好", "今天下雨")["rouge1"].fmeasure == pytest.approx(0.4)
    assert ours.score("größe", "große")["rouge1"].fmeasure == 0
    english = ("The cats weren't running_away", "A cat that runs, don\u2019t run away")
    assert ours.score(*english) == usual.score(*english)


def test_the_same_summaries_have_the_same_interval(figures):
    assert run(RUN)["rouge"] == figures["rouge"]


def test_without_the_package_a_run_with_references_does_not_start(monkeypatch):
    monkeypatch.setattr("runner.results.rouge.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"dataset.gold=abstract: .*'rowmill\[summarize\]'; .* dataset.gold=null"):
        need_rouge("abstract")
