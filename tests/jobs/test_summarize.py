import itertools

import pytest

from jobs.summarize import Summarize, flaw_of
from runner import run
from runner.types import Completion, Request, RowError, Setting, UserError


def count(texts):
    return [len(text.split()) for text in texts]


class Words:
    """A source of one row."""

    column_names = ("text",)


def opened(context=None, max_tokens=10, prompt=0, **keys):
    job = Summarize(**{"chunk_tokens": 40, "target_words": 100, **keys})
    job.open(Setting(Words(), 0, max_tokens, context, count, lambda request: prompt))
    return job


def drive(job, text, answer):
    """The output, and the questions of each yield, when ``answer(variables, request)`` gives the texts."""
    steps, waves = job.steps({"text": text}), []
    try:
        asked = next(steps)
        while True:
            requests = [asked] if isinstance(asked, Request) else asked
            waves.append([(one.variables["step"], one.variables["passage"]) for one in requests])
            texts = [answer(one.variables, one) for one in requests]
            answers = [one if isinstance(one, Completion) else Completion(one) for one in texts]
            asked = steps.send(answers[0] if isinstance(asked, Request) else answers)
    except StopIteration as end:
        return end.value, waves


def numbered():
    """Answers that differ: ``Summary 0``, ``Summary 1``..."""
    numbers = itertools.count()
    return lambda variables, request: f"Summary {next(numbers)}."


def document(sentences):
    return " ".join(f"Sentence {i} of a text." for i in range(sentences))


def test_a_document_of_one_chunk_is_asked_about_once():
    output, waves = drive(opened(), "A short text.", numbered())
    assert waves == [[("whole", "A short text.")]]
    assert output == {"summary": "Summary 0.", "flaw": None, "chunks": 1, "levels": 1, "tokens": 3, "flawed_parts": 0}


def test_chunks_are_asked_about_together_then_merged_in_groups_until_one_is_left():
    output, waves = drive(opened(fan_in=3, intermediate=True), document(160), numbered())  # 800 words, 20 chunks
    assert [len(wave) for wave in waves] == [20, 7, 2, 1]
    assert [{step for step, _ in wave} for wave in waves] == [{"part"}, {"merge"}, {"merge"}, {"merge"}]
    assert waves[1][0][1] == "Summary 0.\n\nSummary 1.\n\nSummary 2."
    assert (output["summary"], output["chunks"], output["levels"], output["tokens"]) == ("Summary 29.", 20, 4, 800)
    assert [part["level"] for part in output["parts"]] == [1] * 20 + [2] * 7 + [3] * 3
    assert " ".join(passage for _, passage in waves[0]) == document(160)


def test_a_group_holds_no_more_than_a_chunk_and_the_last_summary_may_go_up_as_it_is():
    answers = iter([*("word " * 15 for _ in range(5)), *("fine " * 15 for _ in range(9))])
    job = opened(fan_in=5, retries=0)
    output, waves = drive(job, document(40), lambda variables, request: next(answers))  # 200 words, 5 chunks
    assert [len(wave) for wave in waves] == [5, 2, 1, 1]
    assert all(len(passage.split()) <= 40 for wave in waves for _, passage in wave)
    assert output["levels"] == 4


def test_refine_goes_through_the_chunks_with_the_summary_so_far():
    seen = []

    def answer(variables, request):
        seen.append((variables["step"], variables["summary"], variables["part"]))
        return "" if len(seen) == 2 else f"Summary {len(seen)}."

    output, _ = drive(opened(method="refine", retries=0), document(24), answer)
    assert seen == [("part", "", 1), ("refine", "Summary 1.", 2), ("refine", "Summary 1.", 3)]
    assert output["summary"] == "Summary 3."
    assert output["chunks"] == output["levels"] == 3


def test_stuff_takes_what_the_context_leaves_and_refuses_the_rest():
    job = opened(method="stuff", context=168, max_tokens=50, prompt=10, chunk_tokens=None)
    assert drive(job, document(20), numbered())[0]["chunks"] == 1
    with pytest.raises(RowError, match=r"too long: 105 tokens, but job.method=stuff takes at most 100"):
        drive(job, document(21), numbered())


def test_a_long_document_is_asked_about_some_hundred_chunks_at_a_time():
    output, waves = drive(opened(fan_in=100), document(8 * 300), numbered())
    assert [len(wave) for wave in waves][:2] == [256, 44]
    assert output["chunks"] == 300
    assert output["levels"] >= 3


def test_empty_and_copied_summaries_are_asked_for_again_then_marked():
    copied = document(8)

    def answer(variables, request):
        first = request.sampling is None
        if variables["step"] == "part":
            return "" if first else "Second try."
        return variables["passage"]

    output, waves = drive(opened(intermediate=True), document(16), answer)
    assert [len(wave) for wave in waves] == [2, 2, 1, 1]
    assert output["summary"] == "Second try.\n\nSecond try."
    assert (output["flaw"], output["flawed_parts"]) == ("copy", 0)
    output, _ = drive(opened(retries=2), "Some text.", lambda variables, request: " \n")
    assert (output["summary"], output["flaw"]) == (None, "empty")
    assert flaw_of(copied, document(30)) == "copy"
    assert flaw_of("Sentence 3 of a text.", document(30)) is None  # some words of it may stand there


def test_a_document_whose_parts_all_give_nothing_is_in_error():
    with pytest.raises(RowError, match="no summary: the model's answers to all parts are empty"):
        drive(opened(), document(20), lambda variables, request: "")


def test_the_target_length_is_kept():
    long = " ".join(f"New sentence {i} stands here." for i in range(8))  # 40 words

    def answer(variables, request):
        return "Five words are left now." if variables["step"] == "shorten" and shortens else long

    shortens = True
    output, waves = drive(opened(target_words=20), "A text.", answer)
    assert waves[-1] == [("shorten", long)]
    assert (output["summary"], output["flaw"]) == ("Five words are left now.", None)
    shortens = False
    output, _ = drive(opened(target_words=20), "A text.", answer)
    assert output["summary"].split() == long.split()[:20]  # 24 words are allowed, 4 sentences fit
    assert output["flaw"] == "cut to 24 words"


def test_an_answer_that_was_cut_off_ends_with_its_last_whole_sentence():
    answer = Completion("It is so. And then it", finish_reason="length")
    assert drive(opened(), "A text.", lambda *_: answer)[0]["summary"] == "It is so."


def test_a_title_that_the_prompt_ends_with_is_no_part_of_a_summary():
    assert drive(opened(), "A text.", lambda *_: "Summary: It is so.")[0]["summary"] == "It is so."
    assert drive(opened(retries=0), "A text.", lambda *_: " Summary:\n")[0]["flaw"] == "empty"


@pytest.mark.parametrize("text", [None, "", "  \n", 5])
def test_a_document_without_text_is_in_error(text):
    with pytest.raises(RowError, match="empty document: column text"):
        drive(opened(), text, numbered())


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"method": "reduce"}, "job.method=reduce: it can be map_reduce, refine, stuff"),
        ({"fan_in": 1}, "job.fan_in=1: it must be at least 2"),
        ({"target_words": 0}, "job.target_words=0"),
        ({"column": "body"}, "job.column: no column 'body'; valid: text"),
        ({"chunk_tokens": 19}, "job.chunk_tokens=19: a chunk must have room for two answers.*at least 20 tokens"),
        ({"overlap_tokens": 21}, "job.chunk_tokens=40: .*at least 42 tokens"),
        ({"context": 50}, "job.chunk_tokens=40: the context of 50 tokens, .* leaves 32 tokens for a chunk"),
        ({"context": 15}, "leaves no room for a document"),
    ],
)
def test_what_does_not_go_together_is_refused_before_the_model_loads(keys, says):
    with pytest.raises(UserError, match=says):
        opened(**keys)


def test_a_run_over_a_folder_of_documents(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "books").mkdir()
    (tmp_path / "books" / "long.txt").write_text(document(500))
    (tmp_path / "books" / "short.md").write_text("# A title\n\nA few words.")
    (tmp_path / "books" / "broken.pdf").write_bytes(b"nothing")
    words = ["job=summarize", "job.intermediate=true", "dataset=documents", "dataset.path=books"]
    figures = run([*words, "engine.backend=fake", "output.keep=[file]"])
    assert figures["errors"] == 1
    assert list(figures["error_kinds"]) == ["unreadable"]
    import datasets

    broken, long, short = datasets.load_from_disk(figures["path"])
    assert broken["error"].startswith("unreadable: ")
    assert long["chunks"] == len([part for part in long["parts"] if part["level"] == 1]) > 5
    assert short["chunks"] == 1
    assert short["summary"]
