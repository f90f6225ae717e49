import contextlib
import json
import math
import os
import re
import shlex
import shutil
import signal
import sqlite3
import time
from pathlib import Path

import numpy as np
import pytest

import runner
from jobs.perplexity import Asked, prepare_all
from jobs.perplexity.check import exact_loss, self_check
from jobs.perplexity.conf import PerplexityConf
from jobs.perplexity.run import PerplexityRun
from jobs.perplexity.table import Variant, as_json, as_markdown, as_text, delta
from jobs.perplexity.windows import Window, cut_windows, read_tokens
from runner.checkpoint.deaths import Deaths, read_flight
from runner.cli import main
from runner.config.flow import combinations
from runner.data.conf import DatasetConf
from runner.data.source import open_source
from runner.engine.windows import engine as scorer
from runner.engine.windows.losses import loss
from runner.machine.device import cpu_streams
from runner.night import night
from runner.results.perplexity import estimate
from runner.text.vocabulary import ByteTokenizer
from runner.types import UserError
from tests.support import fleets, runs

WORDS = "the sea was calm and bright when old ships came home with salt wind".split


def write_text(path, lines=40):
    draw = np.random.default_rng(0)
    path.write_text("\n".join(" ".join(draw.choice(WORDS(), 20)) for _ in range(lines)) + "\n")
    return path


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("text") / "sea.txt")


@pytest.fixture
def words(tiny_model_folder, text, tmp_path):
    window = ["perplexity.window=128"]
    where = [f"model.path={tiny_model_folder}", "engine.backend=cpu", f"output.dir={tmp_path / 'outputs'}"]
    return [f"dataset.path={text}", *window, *where, "output.report=false"]


def perplexity(*words):
    assert main(["perplexity", *words]) == 0


def figures(tmp_path, place="perplexity-tiny-text/perplexity"):
    return json.loads((tmp_path / "outputs" / f"{place}.json").read_text())


# Windows


def test_windows_side_by_side_leave_each_ones_first_token_out():
    assert cut_windows(10, 4, 4) == [Window(0, 4, 3), Window(4, 8, 3), Window(8, 10, 1)]


def test_overlapping_windows_score_new_tokens_only():
    assert cut_windows(10, 4, 2) == [Window(0, 4, 3), Window(2, 6, 2), Window(4, 8, 2), Window(6, 10, 2)]


@pytest.mark.parametrize(("tokens", "window", "stride"), [(100, 7, 3), (100, 7, 7), (5, 7, 7), (8, 7, 1), (2, 2, 1)])
def test_no_token_is_scored_twice_and_every_window_scores(tokens, window, stride):
    found = cut_windows(tokens, window, stride)
    scored = [token for one in found for token in range(one.end - one.scored, one.end)]
    assert len(scored) == len(set(scored))
    assert all(one.scored > 0 and one.end - one.begin <= window for one in found)
    assert found[-1].end == tokens
    if stride < window:
        assert scored == list(range(1, tokens))


def test_a_last_window_of_one_token_scores_nothing():
    assert cut_windows(9, 4, 4) == [Window(0, 4, 3), Window(4, 8, 3)]


def test_tokens_that_are_context_are_scored_by_no_whole_window():
    assert cut_windows(19, 8, 8, 5) == [Window(0, 8, 3), Window(8, 16, 3)]
    assert cut_windows(13, 8, 2, 5) == [Window(0, 8, 3), Window(2, 10, 2), Window(4, 12, 2)]


# The text


def rows(tmp_path, lines):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    return open_source(DatasetConf(kind="jsonl", path=str(path)))


def tokens(source, **conf):
    return read_tokens(source, "text", ByteTokenizer(), 256, PerplexityConf(**conf)).tolist()


def test_documents_are_joined_by_the_end_token_and_empty_ones_left_out(tmp_path):
    source = rows(tmp_path, ["ab", "", "  ", None, "c"])
    assert tokens(source) == [*b"ab", 256, *b"c"]


def test_a_separator_makes_one_document_of_all_rows(tmp_path):
    source = rows(tmp_path, ["ab", "", "c"])
    assert tokens(source, separator="\\n") == list(b"ab\n\nc")


def test_the_budget_cuts_the_text(tmp_path):
    source = rows(tmp_path, ["abcdef"] * 5000)
    assert tokens(source, max_tokens=9) == [*b"abcdef", 256, *b"ab"]
    assert len(tokens(source, max_tokens=None)) == 7 * 5000 - 1


def test_a_text_of_nothing_is_refused(tmp_path):
    with pytest.raises(UserError, match="nothing to measure"):
        tokens(rows(tmp_path, ["a"]))


# The result


def test_the_estimate_is_the_mean_over_tokens():
    found = estimate([6.0, 2.0], [3, 1])
    assert found.perplexity == pytest.approx(math.exp(2))
    assert found.standard_error == 0
    assert (found.tokens, found.windows) == (4, 2)


def test_the_standard_error_is_that_of_repeated_texts():
    draw = np.random.default_rng(1)
    nlls = draw.normal(300, 15, (2000, 50))
    spread = np.exp(nlls.sum(axis=1) / 5000).std()
    errors = [estimate(list(row), [100] * 50).standard_error for row in nlls[:200]]
    assert np.mean(errors) == pytest.approx(spread, rel=0.1)
    assert estimate([1.0], [3]).standard_error is None


def test_it_equals_one_forward_pass_over_each_window(words, text, tiny_model_folder, tmp_path):
    import mlx.core as mx

    from runner.engine.weights import load_lazily, load_tokenizer
    from runner.models.resolve import read_config

    perplexity(*words)
    (found,) = figures(tmp_path)
    model, _ = load_lazily(tiny_model_folder)
    tokenizer = load_tokenizer(tiny_model_folder, read_config(tiny_model_folder))
    end = tokenizer.eos_token_id
    ids = [token for line in text.read_text().splitlines() for token in [*tokenizer.encode(line), end]][:-1]
    total, count = 0.0, 0
    for begin in range(0, len(ids), 128):
        window = mx.array([ids[begin : begin + 128]])
        if window.shape[1] < 2:
            break
        scores = model(window[:, :-1])
        scores = scores - mx.logsumexp(scores, axis=-1, keepdims=True)
        total -= float(mx.take_along_axis(scores, window[:, 1:, None], axis=-1).sum())
        count += window.shape[1] - 1
    assert found["tokens"] == count
    assert found["nll"] == pytest.approx(total / count, rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(total / count), rel=1e-4)


def test_it_equals_mlx_lms_own_program_on_one_document(words, text, tiny_model_folder, tmp_path, monkeypatch):
    """With the settings that the help names."""
    from mlx_lm import perplexity as peer
    from mlx_lm.tuner.datasets import TextDataset

    from runner.engine.weights import load_lazily, load_tokenizer
    from runner.models.resolve import read_config

    perplexity(*words, "dataset=text", "perplexity.document=files", "perplexity.bos=false", "perplexity.context=1")
    (found,) = figures(tmp_path)
    model, _ = load_lazily(tiny_model_folder)
    tokenizer = load_tokenizer(tiny_model_folder, read_config(tiny_model_folder))
    rows = TextDataset([{"text": text.read_text()}], tokenizer)
    monkeypatch.setattr(peer, "load_dataset", lambda *_: (rows,))
    data = peer.load_data(tokenizer, "", num_samples=30, sequence_length=128)
    value, _ = peer.eval_ppl(model, data)
    assert found["tokens"] == len(data) * 127 == 30 * 127
    assert "the first token of each is context only" in found["method"]
    assert found["perplexity"] == pytest.approx(value, rel=1e-4)


def test_batches_chunks_and_streams_change_nothing(words, tmp_path, monkeypatch):
    from runner.engine.windows import losses as module

    perplexity(*words, "run_name=one", "engine.batch_size=1")
    (one,) = figures(tmp_path, "one/perplexity")
    monkeypatch.setitem(module.SCORE_BYTES, "cpu", 1)
    perplexity(*words, "run_name=many", "engine.batch_size=5")
    (many,) = figures(tmp_path, "many/perplexity")
    assert many["nll"] == pytest.approx(one["nll"], rel=1e-6)
    assert many["tokens"] == one["tokens"]


def test_sliding_windows_of_the_model_are_kept_in_chunks(monkeypatch):
    import mlx.core as mx

    from runner.engine.windows.losses import losses
    from tests.support.tiny import tiny_gpt_oss

    model = tiny_gpt_oss()
    ids = np.random.default_rng(0).integers(0, 97, (3, 40))
    (found,) = losses(model, [ids], [mx.default_stream(mx.default_device())], 7)
    whole = np.array(loss(model(mx.array(ids[:, :-1])), mx.array(ids[:, 1:])))
    assert found.shape == (3, 39)
    assert np.abs(found - whole).max() < 1e-4


def test_self_check_tells_how_far_batches_are_from_single_passes(words, capsys):
    perplexity(*words, "--self-check")
    line = capsys.readouterr().out.splitlines()[0]
    assert line.startswith("self-check of ")
    batched, single = line.split("perplexity ")[1].split(" in a batch, ")
    assert float(batched) == pytest.approx(float(single.split(" ")[0]), rel=1e-3)


@pytest.mark.parametrize("family", ["gemma3n", "gemma4_text", "deepseek_v3", "llama4"])
def test_self_check_holds_for_families_whatever_their_layers_share(family):
    import mlx.core as mx

    from tests.support.attentions import tiny
    from tests.support.tiny import VOCAB

    mx.set_default_device(mx.cpu)
    ids = np.random.default_rng(0).integers(0, VOCAB, (2, 24))
    assert self_check(tiny(family), [ids], [mx.default_stream(mx.cpu)], 5).mean < 1e-4


def test_self_check_fails_where_they_differ(words, capsys, monkeypatch):
    from jobs.perplexity import check as module

    exact = module.losses
    monkeypatch.setattr(module, "losses", lambda *given: [part + 0.01 for part in exact(*given)])
    assert main(["perplexity", *words, "--self-check"]) == 3
    assert "self-check: batches differ from single passes by 0.01 nats" in capsys.readouterr().err


def test_self_check_fails_where_the_loss_itself_is_off(words, capsys, monkeypatch):
    """As sums in single precision were: batches and single passes agreed on what was wrong."""
    from runner.engine.windows import losses as module

    exact = module.loss
    monkeypatch.setattr(module, "loss", lambda *given: exact(*given) - 1e-4)
    assert main(["perplexity", *words, "--self-check"]) == 3
    assert "self-check: batches differ from single passes by 0.0001 nats" in capsys.readouterr().err


def test_losses_under_a_large_vocabulary_are_those_of_double_precision():
    import mlx.core as mx

    random = np.random.default_rng(0)
    logits, targets = random.normal(0, 2.5, (2, 3, 262_144)).astype(np.float32), random.integers(0, 262_144, (2, 3))
    logits[..., :5] += 9
    found = np.array(loss(mx.array(logits), mx.array(targets)))
    for row, scores, wanted in zip(found, logits, targets, strict=True):
        assert np.abs(row - exact_loss(mx.array(scores), wanted)).max() < 3e-6


# The token that begins a text


@pytest.fixture
def beginning(tiny_model_folder, tmp_path):
    """A model whose tokenizer puts a token before each text."""
    folder = shutil.copytree(tiny_model_folder, tmp_path / "tiny_bos")
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    piece = {"SpecialToken": {"id": "<end>", "type_id": 0}}
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [piece, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [piece, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<end>": {"id": "<end>", "ids": [256], "tokens": ["<end>"]}},
    }
    file.write_text(json.dumps(tokenizer))
    return folder


def by_window(model_folder, text, ids_before, size):
    """The mean surprise over windows of ``size`` tokens of the text, each behind ``ids_before``."""
    import mlx.core as mx

    from runner.engine import weights
    from runner.machine.device import Device

    model, config = weights.load(model_folder, Device("cpu", "a CPU", None, 1 << 34))
    tokenizer = weights.load_tokenizer(model_folder, config)
    documents = [tokenizer.encode(line, add_special_tokens=False) for line in text.read_text().splitlines()]
    ids = [one for document in documents for one in [*document, 256]][:-1]
    found = []
    for at in range(0, len(ids), size):
        window = np.array([*ids_before, *ids[at : at + size]])
        if len(window) > len(ids_before) + 1:
            losses = exact_loss(model(mx.array(window[None, :-1]))[0], window[1:])
            found += losses[len(ids_before) :].tolist()
    return float(np.mean(found))


@pytest.mark.parametrize(("asked", "begins"), [("null", True), ("false", False), ("true", True)])
def test_windows_begin_with_the_token_that_the_tokenizer_puts_before_a_text(
    words, beginning, text, tmp_path, asked, begins, capsys
):
    words = [word for word in words if not word.startswith("model.path")]
    perplexity(*words, f"model.path={beginning}", f"perplexity.bos={asked}", "run_name=b", "--self-check")
    said = capsys.readouterr().out
    assert ("each beginning with <end>, which is not scored" in said) == begins
    assert ("without a token at the beginning" in said) != begins
    assert "documents joined by the end token; windows of 128 tokens every" in said
    (found,) = figures(tmp_path, "b/perplexity")
    want = by_window(beginning, text, [256] if begins else [], 127 if begins else 128)
    assert found["nll"] == pytest.approx(want, abs=1e-5)


def test_it_equals_llama_perplexitys_way_with_the_settings_that_the_help_names(words, beginning, text, tmp_path):
    """Worked out as that program does: one list of tokens, cut into chunks, of which each one's first is replaced by
    the token that begins a text, and the logits of the second half are taken.
    """
    import mlx.core as mx

    from runner.engine.weights import load_lazily, load_tokenizer
    from runner.models.resolve import read_config

    folder, size = beginning, 64
    whole = text.with_name("book.txt")
    whole.write_text("\n\n= Sea =\r\n" + text.read_text()[:900] + "\x0c\u2028 end")
    model, _ = load_lazily(folder)
    ids = load_tokenizer(folder, read_config(folder)).encode(whole.read_bytes().decode())
    assert ids[0] == 256
    found = []
    for at in range(0, len(ids) - size + 1, size):
        chunk = np.array([256, *ids[at + 1 : at + size]])
        found += exact_loss(model(mx.array(chunk[None, :-1]))[0][size // 2 :], chunk[size // 2 + 1 :]).tolist()
    words = [word for word in words if not word.startswith(("model.path", "dataset.path", "perplexity"))]
    words += [f"model.path={folder}", f"dataset.path={whole}", "perplexity.document=files", "perplexity.separator="]
    words += [f"perplexity.window={size}", f"perplexity.context={size // 2 + 1}"]
    perplexity(*words, "dataset=text", "perplexity.max_tokens=null", "run_name=l")
    (ours,) = figures(tmp_path, "l/perplexity")
    assert ours["tokens"] == len(found) == len(ids) // size * (size // 2 - 1)
    assert ours["nll"] == pytest.approx(np.mean(found), abs=1e-5)
    assert f"whole windows of {size} tokens every {size}, " in ours["method"]
    assert f"the first {size // 2 + 1} tokens of each are context only" in ours["method"]


def test_a_token_at_the_beginning_can_be_asked_for_only_where_there_is_one(words, capsys):
    assert main(["perplexity", *words, "perplexity.bos=true"]) == 2
    assert "perplexity.bos=true: this model has no token that begins a text" in capsys.readouterr().err


def test_a_kind_of_document_that_there_is_not_is_told_by_the_key_that_was_set(words, capsys):
    assert main(["perplexity", *words, "perplexity.document=chapters"]) == 2
    assert "perplexity.document=chapters: there is no such kind of document; valid: lines" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["A.\n\nB.\n", "A.\r\nB", "A\x0c.\n\x0cB.\n", "A.\u2028B\x85.\n", "A\rB.\n\n"])
def test_a_text_file_as_it_is_has_the_tokens_of_hub_rows_that_keep_their_ends(tmp_path, text):
    (tmp_path / "sea.txt").write_bytes(text.encode())
    file = DatasetConf(kind="text", path=str(tmp_path / "sea.txt"), document="files")
    hub = rows(tmp_path, re.findall(r"[^\n]*\n|[^\n]+$", text))
    assert tokens(open_source(file), separator="") == tokens(hub, separator="") == list(text.encode())


def test_a_text_files_lines_joined_by_line_ends_are_its_text_to_the_last_one(tmp_path):
    (tmp_path / "sea.txt").write_text("= Sea =\n\nIt was calm.\n")
    file = open_source(DatasetConf(kind="text", path=str(tmp_path / "sea.txt")))
    assert tokens(file, separator="\\n") == list(b"= Sea =\n\nIt was calm.")


WIKI = " \n = Sea = \n \n It is wet . \n = = Waves = = \n They roll . \n \n = Sky = \n \n It is = blue . \n"
ARTICLES = [WIKI[: WIKI.index(" = Sky")], WIKI[WIKI.index(" = Sky") :]]


@pytest.mark.parametrize(
    ("document", "documents"),
    [
        (None, WIKI.split("\n")[:-1]),
        ("lines", [line if line.strip() else "" for line in WIKI.splitlines(keepends=True)]),
        (
            "blank_lines",
            [" = Sea = ", " It is wet . \n = = Waves = = \n They roll . ", " = Sky = ", " It is = blue . "],
        ),
        ("files", [WIKI]),
        ("wikitext", ARTICLES),
    ],
)
def test_a_text_files_documents_are_lines_paragraphs_files_or_articles(tmp_path, document, documents):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(WIKI)
    source = open_source(DatasetConf(kind="text", path=str(tmp_path / "*.txt"), document=document))
    assert [row["text"] for row in source.rows()] == [*documents, *documents]
    joined = [one for text in 2 * documents if text.strip() for one in [*text.encode(), 256]]
    assert tokens(source) == joined[:-1]
    other = open_source(DatasetConf(kind="text", path=str(tmp_path / "*.txt"), document="lines"))
    assert (source.fingerprint == other.fingerprint) == (document == "lines")


@pytest.mark.parametrize("end", ["\r\n", "\r"])
@pytest.mark.parametrize("document", ["lines", "blank_lines", "wikitext", None, "files"])
def test_lines_are_the_same_however_they_end_in_a_file_and_whole_files_are_as_they_are(tmp_path, document, end):
    """``datasets`` reads any line end as one line feed, llama.cpp takes the bytes of a file."""
    for name, text in (("unix.txt", WIKI), ("other.txt", WIKI.replace("\n", end))):
        (tmp_path / name).write_bytes(text.encode())
    unix, other = (
        [row["text"] for row in open_source(DatasetConf(kind="text", path=str(path), document=document)).rows()]
        for path in (tmp_path / "unix.txt", tmp_path / "other.txt")
    )
    assert other == ([WIKI.replace("\n", end)] if document == "files" else unix)


def test_windows_lie_side_by_side_unless_a_stride_is_asked_for(words, tmp_path):
    perplexity(*words, "perplexity.stride=128", "run_name=told")
    perplexity(*words, "run_name=untold")
    told, untold = (figures(tmp_path, f"{name}/perplexity")[0] for name in ("told", "untold"))
    assert untold["method"] == told["method"] and untold["nll"] == told["nll"]
    assert "windows of 128 tokens every 128" in untold["method"]
    perplexity(*words, "run_name=told")  # the same run, which is finished


def test_the_documents_of_a_perplexity_are_told_and_kept_in_its_run(words, tmp_path, capsys):
    assert main(["perplexity", *words, "perplexity.document=files", "run_name=files"]) == 0
    assert "whole files joined by the end token" in (tmp_path / "outputs" / "files" / "perplexity.txt").read_text()
    assert runner.open_run(tmp_path / "outputs" / "files").config["dataset"]["document"] == "files"
    assert main(["perplexity", *words, "perplexity.document=pages"]) == 2
    assert "perplexity.document=pages: there is no such kind of document" in capsys.readouterr().err


# Like every job


def test_the_windows_lie_in_an_arrow_data_set(words, tmp_path):
    import datasets

    perplexity(*words, "run_name=sea")
    (found,) = figures(tmp_path, "sea/perplexity")
    saved = datasets.load_from_disk(str(tmp_path / "outputs" / "sea"))
    assert sum(saved["tokens"]) == found["tokens"]
    assert math.fsum(saved["nll"]) / sum(saved["tokens"]) == pytest.approx(found["nll"])
    assert saved[1]["begin"] == 128


def test_what_is_computed_is_not_computed_again(words, tmp_path, monkeypatch):
    from runner.engine import weights

    perplexity(*words)
    before = figures(tmp_path)
    monkeypatch.setattr(weights, "load", lambda *_: pytest.fail("the weights were loaded"))
    perplexity(*words)
    after = figures(tmp_path)
    assert [one["nll"] for one in after] == [one["nll"] for one in before]


def test_another_window_is_another_run(words, capsys):
    perplexity(*words)
    assert main(["perplexity", *(word.replace("=128", "=64") for word in words)]) == 2
    assert "belongs to a different run" in capsys.readouterr().err


def test_an_interrupted_evaluation_goes_on_to_the_same_result(words, tmp_path, capsys, monkeypatch):
    perplexity(*words, "engine.batch_size=1", "run_name=whole")
    (whole,) = figures(tmp_path, "whole/perplexity")
    calls, exact = [], scorer.losses

    def interrupted(*given):
        calls.append(given)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)
        return exact(*given)

    monkeypatch.setattr(scorer, "losses", interrupted)
    stopped = [*words, "engine.batch_size=1", "run_name=stopped"]
    assert main(["perplexity", *stopped]) == 130
    assert f"To go on:\n{shlex.join(['rowmill', 'perplexity', *stopped])}" in capsys.readouterr().err
    assert 0 < _finished(tmp_path / "outputs" / "stopped") < whole["windows"]
    assert len(calls) == 3
    perplexity(*stopped)
    (found,) = figures(tmp_path, "stopped/perplexity")
    assert found["nll"] == pytest.approx(whole["nll"], rel=1e-9)
    assert (found["tokens"], found["windows"]) == (whole["tokens"], whole["windows"])


@pytest.fixture
def long_words(words, tmp_path):
    """A command line of many windows, one at a time."""
    write_text(tmp_path / "long.txt", 400)
    command = [word for word in words if not word.startswith(("dataset.path", "perplexity."))]
    command += [f"dataset.path={tmp_path / 'long.txt'}", "perplexity.window=64", "perplexity.stride=64"]
    return [*command, "engine.batch_size=1"]


@pytest.fixture
def evaluate(start):
    """Start the program itself, with its supervisor."""
    return lambda *words: start(runs.command("perplexity", *words))


def kill_worker(folder, child):
    """Kill the worker once some windows are finished; how many were."""
    while _finished(folder) <= 5:
        assert child.poll() is None, child.stderr.read()
        time.sleep(0.05)
    os.kill(runner.open_run(folder).status["pid"], signal.SIGKILL)
    return _finished(folder)


def test_after_a_kill_of_its_worker_an_evaluation_goes_on_by_itself_to_the_same_result(long_words, tmp_path, evaluate):
    folder = tmp_path / "outputs" / "killed"
    child = evaluate(*long_words, "run_name=killed")
    done = kill_worker(folder, child)
    code, said, errors = runs.outcome(child)
    assert code == 0, errors
    assert errors.count("starting it again") == 1
    assert "written to" in said
    (killed,) = figures(tmp_path, "killed/perplexity")
    assert 5 < done < killed["windows"]
    died, ended = (session["why"] for session in runner.open_run(folder).sessions)
    assert died.startswith("died of SIGKILL") and ended == "finished"
    with contextlib.closing(sqlite3.connect(folder / "run.db")) as connection:
        ((rows,),) = connection.execute("SELECT rows FROM deaths").fetchall()
    assert len(json.loads(rows)) <= cpu_streams()  # those at work at that moment, if there were any
    assert "died of SIGKILL" in (folder / "run.log").read_text()
    assert runs.outcome(evaluate(*long_words, "run_name=whole"))[0] == 0  # by the same BLAS
    (whole,) = figures(tmp_path, "whole/perplexity")
    assert killed["nll"] == pytest.approx(whole["nll"], rel=1e-9)


def test_a_kill_in_a_sweeps_second_variant_resumes_the_second(long_words, tmp_path, evaluate):
    first, second = (tmp_path / "outputs" / f"sweep-{size}" for size in (100000, 90000))
    child = evaluate("-m", *long_words, "perplexity.max_tokens=100000,90000", "run_name=sweep")
    kill_worker(second, child)
    code, _, errors = runs.outcome(child)
    assert code == 0, errors
    one, other = (runner.open_run(folder) for folder in (first, second))
    assert other.sessions[0]["why"].startswith("died of SIGKILL")
    assert one.sessions[0]["why"] == "finished"
    with contextlib.closing(sqlite3.connect(first / "run.db")) as connection:
        assert connection.execute("SELECT count(*) FROM deaths").fetchone() == (0,)
    assert [found["name"] for found in figures(tmp_path, "sweep")] == [
        "tiny perplexity.max_tokens=100000",
        "tiny perplexity.max_tokens=90000",
    ]


def test_a_killed_evaluation_goes_on_to_the_same_result(long_words, tmp_path, evaluate):
    folder = tmp_path / "outputs" / "killed"
    child = evaluate("--no-supervise", *long_words, "run_name=killed")
    done = kill_worker(folder, child)
    assert runs.outcome(child)[0] == -signal.SIGKILL
    perplexity(*long_words, "run_name=killed")
    (killed,) = figures(tmp_path, "killed/perplexity")
    assert 5 < done < killed["windows"]
    perplexity(*long_words, "run_name=whole")
    (whole,) = figures(tmp_path, "whole/perplexity")
    assert killed["nll"] == pytest.approx(whole["nll"], rel=1e-9)


def _finished(folder):
    from runner.results.status import read_status

    try:
        return read_status(folder)["finished"]
    except UserError:
        return 0


def test_a_run_has_a_log_a_report_and_its_tables_in_its_folder(words, tmp_path, capsys):
    perplexity(*words[:-1], "run_name=sea")
    folder = tmp_path / "outputs" / "sea"
    assert f"written to {folder / 'perplexity.txt'}, .md and .json" in capsys.readouterr().out
    assert not list((tmp_path / "outputs").glob("perplexity.*"))
    assert "rows/s" in (folder / "run.log").read_text()
    (found,) = figures(tmp_path, "sea/perplexity")
    page = (folder / "report.html").read_text()
    assert f"{found['perplexity']:.3f} (95%: " in page
    assert f"{found['tokens']:,} tokens in {found['windows']} windows" in page
    (folder / "report.html").unlink()
    assert main(["report", str(folder)]) == 0
    assert f"Perplexity {found['perplexity']:.3f} (95%: " in (folder / "report.html").read_text()


def test_the_user_is_notified_and_the_schedule_kept(words, tmp_path, capsys):
    notice = tmp_path / "notice"
    tell = f"notify.command='echo $ROWMILL_EVENT $ROWMILL_MESSAGE >> {notice}'"
    assert main(["perplexity", *words, "run_name=sea", "schedule.stop_after=0s", tell]) == 130
    perplexity(*words, "run_name=sea", tell)
    stopped, finished = notice.read_text().splitlines()
    assert stopped == "stopped sea stopped: stopped after 0s"
    assert re.fullmatch(r"finished sea finished: all \d+ windows are finished", finished)
    capsys.readouterr()
    assert main(["perplexity", *words, "schedule.window=25:00-26:00"]) == 2
    assert "schedule.window=25:00-26:00: it must be two different times of day" in capsys.readouterr().err


def test_a_long_pause_gives_the_models_memory_back_and_changes_nothing(words, tmp_path, monkeypatch):
    perplexity(*words, "engine.batch_size=1", "run_name=whole")
    (whole,) = figures(tmp_path, "whole/perplexity")
    from runner.engine import weights

    loads, load = [], weights.load
    monkeypatch.setattr(weights, "load", lambda *given: loads.append(given) or load(*given))
    monkeypatch.setattr(night.Night, "waiter", lambda *_: lambda beat, release: beat() or release() or True)
    perplexity(*words, "engine.batch_size=1", "run_name=paused")
    (paused,) = figures(tmp_path, "paused/perplexity")
    assert len(loads) > paused["windows"] // cpu_streams()
    assert paused["nll"] == pytest.approx(whole["nll"], rel=1e-9)


def test_what_is_at_work_is_on_disk_and_each_chunk_is_a_step(words, tmp_path, monkeypatch):
    folder, seen, exact = tmp_path / "outputs" / "sea", [], scorer.losses

    def watched(model, batches, streams, chunk, *more):
        before = read_flight(folder)
        found = exact(model, batches, streams, 16, *more)
        after = read_flight(folder)
        seen.append((sum(map(len, batches)), len(before.rows), before.working, after.beats - before.beats))
        return found

    monkeypatch.setattr(scorer, "losses", watched)
    perplexity(*words, "run_name=sea")
    assert all(windows == rows and working and beats > 0 for windows, rows, working, beats in seen)
    after = read_flight(folder)
    (found,) = figures(tmp_path, "sea/perplexity")
    assert not after.working and 0 < after.done <= found["windows"]


def test_a_window_of_two_deaths_is_computed_alone_after_the_others(words, tmp_path, monkeypatch):
    sizes, exact = [], scorer.losses
    monkeypatch.setattr(Deaths, "alone", lambda self: frozenset([0, 3]))

    def noted(model, batches, *given):
        sizes.append(sum(map(len, batches)))
        return exact(model, batches, *given)

    monkeypatch.setattr(scorer, "losses", noted)
    perplexity(*words, "engine.batch_size=4")
    assert sizes[0] == 4 * cpu_streams()
    assert sizes[-2:] == [1, 1]
    (found,) = figures(tmp_path)
    assert sum(sizes) == found["windows"]


def test_windows_over_seats_come_to_the_same_figure_whatever_dies(words, tmp_path, monkeypatch):
    words.append("engine.batch_size=1")
    perplexity(*words, "run_name=alone")
    (alone,) = figures(tmp_path, "alone/perplexity")
    fleets.install(monkeypatch, {"a": [{"dies": 2}, {}], "b": [{}]})
    words += ["run_name=sea", "fleet=local"]
    perplexity(*words)
    (found,) = figures(tmp_path, "sea/perplexity")
    assert found["nll"] == pytest.approx(alone["nll"], rel=1e-6)
    assert (found["tokens"], found["windows"]) == (alone["tokens"], alone["windows"])
    seats = runner.open_run(tmp_path / "outputs" / "sea").status["seats"]
    assert sum(seat["answers"] for seat in seats) == found["windows"]
    assert sum(seat["deaths"] for seat in seats) == 1
    assert main(["perplexity", *words, "--self-check"]) == 2


def test_force_begins_anew_beside_and_deletes_nothing(words, tmp_path, capsys):
    perplexity(*words, "run_name=sea")
    before = figures(tmp_path, "sea/perplexity")
    perplexity(*words, "run_name=sea", "resume=force")
    assert figures(tmp_path, "sea/perplexity") == before
    (again,) = figures(tmp_path, "sea-2/perplexity")
    assert again["nll"] == pytest.approx(before[0]["nll"], rel=1e-9)


def test_force_gives_all_runs_of_a_sweep_one_new_name_that_goes_on_with_them(words, tmp_path):
    sweep = ["-m", *words, "perplexity.max_tokens=1000,900"]
    perplexity(*sweep)
    asked = Asked([*sweep[1:], "resume=force"], sweep=True)
    runs = prepare_all(asked)
    assert [run.run_dir.name for run in runs] == ["perplexity-text-2-1000", "perplexity-text-2-900"]
    words = runs[0].resuming(asked.overrides)
    assert words == [*sweep[1:], "run_name=perplexity-text-2"]
    assert [run.run_dir for run in prepare_all(Asked(words, sweep=True))] == [run.run_dir for run in runs]


def test_the_code_of_a_reader_of_ones_own_belongs_to_the_run(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = "from dataclasses import dataclass\n\n\n@dataclass\nclass Ships:\n    def read(self):\n"
    code += "        return [{'text': 'the ship came home'}] * 50\n"
    Path("ships.py").write_text(code)
    own = [word for word in words if not word.startswith("dataset.path")]
    own += ["dataset=own", "dataset._target_=ships.Ships", "run_name=own"]
    perplexity(*own)
    run = runner.open_run(tmp_path / "outputs" / "own")
    assert list(run.identity["reader"]) == ["ships.py"]
    assert run.config["dataset"]["_target_"] == "ships.Ships"
    Path("ships.py").write_text(code + "# changed\n")
    assert main(["perplexity", *own]) == 2
    assert "reader.ships.py: " in capsys.readouterr().err


def test_the_text_may_move(words, tmp_path, text):
    perplexity(*words, "run_name=sea")
    moved = tmp_path / "moved.txt"
    moved.write_bytes(text.read_bytes())
    others = [word for word in words if not word.startswith("dataset.path")]
    perplexity(*others, f"dataset.path={moved}", "run_name=sea")
    assert runner.open_run(tmp_path / "outputs" / "sea").status["sessions"] == 2


def test_a_failing_table_changes_nothing_of_how_the_run_ended(words, tmp_path, capsys, monkeypatch):
    import jobs.perplexity

    monkeypatch.setattr(jobs.perplexity, "as_markdown", lambda variants: 1 / 0)
    perplexity(*words)
    errors = capsys.readouterr().err
    assert "no table: ZeroDivisionError: division by zero; the rows are safe" in errors
    assert shlex.join(["rowmill", "perplexity", *words]) in errors


# Sweeps and tables


def test_a_sweep_gives_one_table_with_deltas(words, tmp_path, capsys):
    from tests.support.tiny import save_tiny_llama

    save_tiny_llama(tmp_path / "other", seed=1)
    first = next(word for word in words if word.startswith("model.path="))
    rest = [word for word in words if word != first]
    perplexity("-m", f"{first},{tmp_path / 'other'}", *rest)
    told = capsys.readouterr().out
    one, other = figures(tmp_path, "perplexity-tiny-text-other-text")
    assert one["delta"] is None
    assert other["delta"]["perplexity"] == pytest.approx(other["perplexity"] - one["perplexity"])
    assert other["delta"]["ratio"] == pytest.approx(other["perplexity"] / one["perplexity"] - 1)
    assert other["delta"]["standard_error"] > 0
    assert [line.split()[0] for line in told.splitlines()[:3]] == ["variant", "tiny", "other"]
    table = (tmp_path / "outputs" / "perplexity-tiny-text-other-text.md").read_text().splitlines()
    assert table[0].startswith("| variant | ")
    assert table[1].startswith("| --- | ---: |")
    assert table[3].startswith("| other | ")
    assert (tmp_path / "outputs" / "perplexity-tiny-text-other-text.txt").read_text().strip() in told


def test_a_sweep_computes_nothing_before_all_of_it_is_found_right(words, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(PerplexityRun, "work", lambda *_: pytest.fail("a variant was computed"))
    first = next(word for word in words if word.startswith("model.path="))
    rest = [word for word in words if word != first]
    assert main(["perplexity", "-m", f"{first},{tmp_path / 'nowhere'}", *rest]) == 2
    said = capsys.readouterr().err
    assert "nowhere" in said and "exist; give a model folder" in said


def test_a_sweep_reads_no_standard_input(words, capsys):
    others = [word for word in words if not word.startswith("dataset.path")]
    assert main(["perplexity", "-m", *others, "dataset.path=-", "perplexity.max_tokens=1000,900"]) == 2
    assert "the standard input can be read once" in capsys.readouterr().err


def test_variants_of_one_name_need_a_run_name(words, tmp_path, capsys, tiny_model_folder):
    shutil.copytree(tiny_model_folder, tmp_path / "copy" / "tiny")
    rest = [word for word in words if not word.startswith("model.path=")]
    assert main(["perplexity", "-m", f"model.path={tiny_model_folder},{tmp_path / 'copy' / 'tiny'}", *rest]) == 2
    assert "run_name is not set: without it some variants have the same name" in capsys.readouterr().err


def test_any_key_can_be_swept_over(words, tmp_path):
    perplexity("-m", "perplexity.stride=128,64", *words, "run_name=strides")
    one, other = figures(tmp_path, "strides")
    assert [one["name"], other["name"]] == ["tiny perplexity.stride=128", "tiny perplexity.stride=64"]
    assert other["tokens"] > one["tokens"]
    assert other["delta"]["standard_error"] is None  # other windows: nothing pairs up


def test_combinations_are_hydras():
    found = combinations(["model=a,b", "seed=1", "k=3,4", "dataset.where='x, y'"])
    assert [words[:3] for words, _ in found] == [
        ["model=a", "seed=1", "k=3"],
        ["model=a", "seed=1", "k=4"],
        ["model=b", "seed=1", "k=3"],
        ["model=b", "seed=1", "k=4"],
    ]
    assert found[0][1] == ["model=a", "k=3"]
    with pytest.raises(UserError, match="model=a,b,c"):
        combinations(["model=a"])


def variant(name, nlls, text="t"):
    scored = [10] * len(nlls)
    return Variant(
        name,
        "p",
        text,
        "windows of 8 tokens",
        nlls,
        scored,
        estimate(nlls, scored),
        18_300_000_000,
        99.6,
        20_000_000_000,
    )


def test_pairs_of_windows_make_the_delta_sharper_than_the_perplexities():
    hard = [20.0, 31.0, 12.0, 25.0]
    first, other = variant("a", hard), variant("b", [nll + 0.2 for nll in hard])
    assert delta(first, other).ratio == pytest.approx(math.expm1(0.02))
    assert delta(first, other).standard_error == pytest.approx(0, abs=1e-9)
    assert delta(first, variant("b", hard, "another text")).standard_error is None


def test_tables_hold_the_same_figures():
    some = [variant("q8", [20.0, 21.0]), variant("q4", [22.0, 21.5])]
    text, card = as_text(some).splitlines(), as_markdown(some).splitlines()
    assert text[0].split()[:3] == ["variant", "GB", "perplexity"]
    assert text[2].split()[:3] == ["q4", "18.30", f"{math.exp(2.175):.4f}"]
    assert [cell.strip() for cell in card[3].split("|")[1:4]] == text[2].split()[:3]
    assert json.loads(as_json(some))[1]["perplexity"] == pytest.approx(math.exp(2.175))


# Mistakes


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["perplexity.stride=200"], "perplexity.stride=200"),
        (["perplexity.window=1"], "perplexity.window=1: it must be at least 2"),
        (["perplexity.window=1024"], "the model's context has 512 tokens"),
        (["perplexity.context=128"], "perplexity.context=128: nothing of perplexity.window=128 is scored"),
        (["perplexity.context=1", "perplexity.max_tokens=9"], "the text has 9 tokens: no whole window"),
        (["perplexity.column=body"], "no column of texts"),
        (["perplexity.windows=3"], "did you mean"),
        (["engine.backend=fake"], "needs a model"),
        (["dataset.path=nothing.txt"], "no such file"),
        (["-m"], "-m sweeps over values"),
        (["resume=maybe"], "resume=maybe: it can be auto, force"),
        (["run_name=a/b"], "folder name"),
    ],
)
def test_wrong_words_cost_one_line(words, more, says, capsys):
    keys = {word.partition("=")[0] for word in more}
    kept = [word for word in words if word.partition("=")[0] not in keys]
    assert main(["perplexity", *kept, *more]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert says in said[-1]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "is empty"),
        ("text\n", "has no rows"),
        ("a,b\n1,2\n", "dataset.path: no column of texts among a, b"),
        ("a,b\nx,y\n", "perplexity.column is not set: it names one of a, b"),
        ("text\n.\n", "nothing to measure"),
    ],
)
def test_a_data_set_that_holds_no_text_costs_one_line(words, tmp_path, content, says, capsys):
    table = tmp_path / "table.csv"
    table.write_text(content)
    kept = [word for word in words if not word.startswith("dataset.path")]
    assert main(["perplexity", "dataset=csv", f"dataset.path={table}", *kept]) == 2
    assert says in capsys.readouterr().err.strip().splitlines()[-1]
