import json
import math
import signal
import subprocess
import time

import numpy as np
import pytest

from jobs.perplexity.table import Variant, as_json, as_markdown, as_text, delta
from jobs.perplexity.windows import PerplexityConf, Window, estimate, read_tokens, windows
from runner.cli import main
from runner.config.quoting import combinations
from runner.data.conf import DatasetConf
from runner.data.source import open_source
from runner.text.vocabulary import ByteTokenizer
from runner.types import UserError
from tests.support import runs

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
    window = ["perplexity.window=128", "perplexity.stride=128"]
    where = [f"model.path={tiny_model_folder}", "engine.backend=cpu", f"output.dir={tmp_path / 'outputs'}"]
    return [f"dataset.path={text}", *window, *where]


def perplexity(*words):
    assert main(["perplexity", *words]) == 0


def figures(tmp_path):
    return json.loads((tmp_path / "outputs" / "perplexity.json").read_text())


# Windows


def test_windows_side_by_side_leave_each_ones_first_token_out():
    assert windows(10, 4, 4) == [Window(0, 4, 3), Window(4, 8, 3), Window(8, 10, 1)]


def test_overlapping_windows_score_new_tokens_only():
    assert windows(10, 4, 2) == [Window(0, 4, 3), Window(2, 6, 2), Window(4, 8, 2), Window(6, 10, 2)]


@pytest.mark.parametrize(("tokens", "window", "stride"), [(100, 7, 3), (100, 7, 7), (5, 7, 7), (8, 7, 1), (2, 2, 1)])
def test_no_token_is_scored_twice_and_every_window_scores(tokens, window, stride):
    found = windows(tokens, window, stride)
    scored = [token for one in found for token in range(one.end - one.scored, one.end)]
    assert len(scored) == len(set(scored))
    assert all(one.scored > 0 and one.end - one.begin <= window for one in found)
    assert found[-1].end == tokens
    if stride < window:
        assert scored == list(range(1, tokens))


def test_a_last_window_of_one_token_scores_nothing():
    assert windows(9, 4, 4) == [Window(0, 4, 3), Window(4, 8, 3)]


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


def test_batches_chunks_and_streams_change_nothing(words, tmp_path, monkeypatch):
    from jobs.perplexity import windows as module

    perplexity(*words, "run_name=one", "engine.batch_size=1")
    (one,) = figures(tmp_path)
    monkeypatch.setitem(module.SCORE_BYTES, "cpu", 1)
    perplexity(*words, "run_name=many", "engine.batch_size=5")
    (many,) = figures(tmp_path)
    assert many["nll"] == pytest.approx(one["nll"], rel=1e-6)
    assert many["tokens"] == one["tokens"]


def test_sliding_windows_of_the_model_are_kept_in_chunks(monkeypatch):
    import mlx.core as mx

    from jobs.perplexity.windows import loss, losses
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


def test_self_check_fails_where_they_differ(words, capsys, monkeypatch):
    from jobs.perplexity import windows as module

    exact = module.losses
    monkeypatch.setattr(module, "losses", lambda *given: [part + 0.01 for part in exact(*given)])
    assert main(["perplexity", *words, "--self-check"]) == 3
    assert "self-check: batches differ from single passes by 0.01 nats" in capsys.readouterr().err


# Like every job


def test_the_windows_lie_in_an_arrow_data_set(words, tmp_path):
    import datasets

    perplexity(*words, "run_name=sea")
    (found,) = figures(tmp_path)
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
    from jobs import perplexity as module

    perplexity(*words, "engine.batch_size=1", "run_name=whole")
    (whole,) = figures(tmp_path)
    calls, exact = [], module.losses

    def interrupted(*given):
        calls.append(given)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)
        return exact(*given)

    monkeypatch.setattr(module, "losses", interrupted)
    assert main(["perplexity", *words, "engine.batch_size=1", "run_name=stopped"]) == 130
    assert "run the same command again to resume" in capsys.readouterr().err
    assert 0 < _finished(tmp_path / "outputs" / "stopped") < whole["windows"]
    assert len(calls) == 3
    perplexity(*words, "engine.batch_size=1", "run_name=stopped")
    (found,) = figures(tmp_path)
    assert found["nll"] == pytest.approx(whole["nll"], rel=1e-9)
    assert (found["tokens"], found["windows"]) == (whole["tokens"], whole["windows"])


def test_a_killed_evaluation_goes_on_to_the_same_result(words, tmp_path, start):
    write_text(tmp_path / "long.txt", 400)
    command = [word for word in words if not word.startswith(("dataset.path", "perplexity."))]
    command += [f"dataset.path={tmp_path / 'long.txt'}", "perplexity.window=64", "perplexity.stride=64"]
    command += ["engine.batch_size=1", "run_name=killed"]
    folder = tmp_path / "outputs" / "killed"
    child = start(runs.command("perplexity", *command), stdout=subprocess.DEVNULL)
    while _finished(folder) <= 5:
        assert child.poll() is None, child.stderr.read()
        time.sleep(0.05)
    child.kill()
    child.wait()
    done = _finished(folder)
    perplexity(*command)
    (killed,) = figures(tmp_path)
    assert 5 < done < killed["windows"]
    perplexity(*command[:-1], "run_name=whole")
    (whole,) = figures(tmp_path)
    assert killed["nll"] == pytest.approx(whole["nll"], rel=1e-9)


def _finished(folder):
    from runner.results.status import read_status

    try:
        return read_status(folder)["finished"]
    except UserError:
        return 0


# Sweeps and tables


def test_a_sweep_gives_one_table_with_deltas(words, tmp_path, capsys):
    from tests.support.tiny import save_tiny_llama

    save_tiny_llama(tmp_path / "other", seed=1)
    first = next(word for word in words if word.startswith("model.path="))
    rest = [word for word in words if word != first]
    perplexity("-m", f"{first},{tmp_path / 'other'}", *rest)
    told = capsys.readouterr().out
    one, other = figures(tmp_path)
    assert one["delta"] is None
    assert other["delta"]["perplexity"] == pytest.approx(other["perplexity"] - one["perplexity"])
    assert other["delta"]["ratio"] == pytest.approx(other["perplexity"] / one["perplexity"] - 1)
    assert other["delta"]["standard_error"] > 0
    assert [line.split()[0] for line in told.splitlines()[:3]] == ["variant", "tiny", "other"]
    table = (tmp_path / "outputs" / "perplexity.md").read_text().splitlines()
    assert table[0].startswith("| variant | ")
    assert table[1].startswith("| --- | ---: |")
    assert table[3].startswith("| other | ")
    assert (tmp_path / "outputs" / "perplexity.txt").read_text().strip() in told


def test_a_sweep_computes_nothing_before_all_of_it_is_found_right(words, tmp_path, capsys, monkeypatch):
    from jobs import perplexity

    monkeypatch.setattr(perplexity, "evaluate", lambda *_: pytest.fail("a variant was computed"))
    first = next(word for word in words if word.startswith("model.path="))
    rest = [word for word in words if word != first]
    assert main(["perplexity", "-m", f"{first},{tmp_path / 'nowhere'}", *rest]) == 2
    assert "nowhere does not exist" in capsys.readouterr().err


def test_any_key_can_be_swept_over(words, tmp_path):
    rest = [word for word in words if not word.startswith("perplexity.stride")]
    perplexity("-m", "perplexity.stride=128,64", *rest)
    one, other = figures(tmp_path)
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
    return Variant(name, "p", text, nlls, scored, estimate(nlls, scored), 18_300_000_000, 99.6, 20_000_000_000)


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
        (["perplexity.window=1", "perplexity.stride=1"], "perplexity.window=1: it must be at least 2"),
        (["perplexity.window=1024", "perplexity.stride=1024"], "the model's context has 512 tokens"),
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
