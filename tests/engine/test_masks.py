"""Constrained decoding on real engines: every answer follows its grammar, whatever shares the batch with it."""

import pickle
import re
import subprocess
import sys
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from runner.engine.attention.resident import ResidentModel
from runner.engine.copying.engine import CopyingEngine
from runner.engine.engine import BatchEngine
from runner.engine.fake import FakeEngine
from runner.engine.masks import Grammars, bitmasks, trial
from runner.engine.sampling import masked
from runner.sequences import Sequence
from runner.text.structure import StructureConf, read_structure
from runner.text.vocabulary import as_vocabulary
from runner.types import Sampling
from tests.bench.constrained import outcomes
from tests.support.engines import finish, plain_score
from tests.support.prompts import plain_tokenizer


@pytest.fixture(scope="module")
def vocabulary(tiny_model_folder):
    return as_vocabulary(plain_tokenizer(tiny_model_folder))


@pytest.fixture(scope="module")
def grammars(vocabulary):
    return Grammars(vocabulary)


@pytest.fixture(scope="module")
def plain(tiny_model_folder):
    from mlx_lm.utils import load_model

    mx.set_default_device(mx.cpu)
    return load_model(tiny_model_folder)[0]


@pytest.fixture(scope="module")
def resident(tiny_model_folder):
    from mlx_lm.utils import load_model

    mx.set_default_device(mx.cpu)
    return ResidentModel(load_model(tiny_model_folder)[0])


def body(schema):
    return "start: body\n" + read_structure(StructureConf(schema=schema), StructureConf(), []).body


GRAMMARS = [
    "start: /[a-c]{2,9}x[0-9]+!/",
    'start: "yes, it is" | "yes, it was" | "no"',
    body(
        {
            "properties": {"name": {"type": "string", "maxLength": 5}, "n": {"enum": [10, 200]}},
            "required": ["name", "n"],
        }
    ),
    'start: "only this"',
]
PATTERNS = [r"[a-c]{2,9}x[0-9]+!", "yes, it is|yes, it was|no", r'\{"name": ".*", "n": (10|200)\}', "only this"]


@pytest.mark.parametrize("regex", ["(a{1,1000}){1,1000}", "(a|aa|aaa){500}"])
def test_rules_that_grow_without_end_are_found_before_a_run(regex):
    found = read_structure(StructureConf(regex=regex), StructureConf(), [])
    assert "too many expressions" in (trial(found.body) or "")


@pytest.mark.parametrize(
    "rules", ["body: /[a-z ]{3,900}[0-9]/", 'body: "a"', body({"type": "object"}).partition("\n")[2]]
)
def test_rules_that_can_be_followed_pass(rules):
    assert trial(rules) is None


def sequences(rows, temperature=1.0, max_tokens=60):
    """Some follow no grammar at all."""
    rng = np.random.default_rng(3)
    made = []
    for i in range(rows):
        grammar = GRAMMARS[i % 5] if i % 5 < 4 else None
        prompt = rng.integers(1, 250, 5 + i % 7).tolist()
        made.append(Sequence((i, 0), prompt, max_tokens, Sampling(temperature), i, grammar=grammar))
    return made


def check(vocabulary, done):
    for (i, _), generation in done.items():
        assert generation.error is None
        if i % 5 < 4 and generation.finish_reason == "stop":
            assert re.fullmatch(PATTERNS[i % 5], vocabulary.decode(generation.tokens), re.DOTALL), generation


def test_no_token_is_forced_that_the_model_does_not_have(vocabulary):
    rules = Sequence((0, 0), [], 9, grammar='start: "only"')
    forced = Grammars(vocabulary).start(rules).force(9)
    least = Grammars(vocabulary, max(forced))
    assert least.start(rules).force(9) == forced[: forced.index(max(forced))]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_answers_follow_their_grammars_in_any_batch(vocabulary, grammars, resident, temperature):
    todo = sequences(15, temperature)
    given = {"end_tokens": vocabulary.end_tokens, "prefill_tokens": 16, "grammars": grammars}
    one, three, many = (
        finish(BatchEngine(resident, batch_size=size, streams=1 + size % 2, **given), todo) for size in (1, 3, 8)
    )
    check(vocabulary, one)
    assert sum(generation.finish_reason == "stop" for generation in one.values()) > 7
    for key, generation in one.items():
        assert three[key].tokens == many[key].tokens == generation.tokens, key


def test_forced_tokens_are_not_sampled_and_change_nothing(vocabulary, grammars, resident, plain):
    todo = sequences(15, temperature=0.0)
    engine = BatchEngine(resident, vocabulary.end_tokens, batch_size=4, grammars=grammars)
    sharing = finish(engine, todo)
    copying = CopyingEngine(plain, vocabulary.end_tokens, batch_size=3, grammars=grammars)
    copied = finish(copying, sequences(15, temperature=0.0))
    check(vocabulary, copied)
    for key, generation in sharing.items():
        assert vocabulary.decode(copied[key].tokens) == vocabulary.decode(generation.tokens), key
    assert engine.work.forced >= 3 * len("only this") + 3 * len('{"name": "')
    assert vocabulary.decode(sharing[3, 0].tokens) == "only this"


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_drafts_change_no_answer_that_follows_a_grammar(vocabulary, grammars, resident, temperature):
    texts = vocabulary.encode(["yes, it was " * 4, '{"name": "abc", "n": 200} ' * 3, "abcabcx123! " * 3])
    warmth = Sampling(temperature)
    todo = [
        Sequence((i, asks), texts[i], 24, warmth, 9 * i + 1, grammar=GRAMMARS[(1, 2, 0)[i]], mean_logprob=bool(asks))
        for i in range(3)
        for asks in (0, 1)
    ]
    sizes = {"batch_size": 4, "grammars": grammars}
    drafted, plain = (BatchEngine(resident, vocabulary.end_tokens, draft_tokens=most, **sizes) for most in (6, 0))
    found, want = finish(drafted, todo), finish(plain, todo)
    assert {key: one.tokens for key, one in found.items()} == {key: one.tokens for key, one in want.items()}
    assert [found[i, 1].mean_logprob for i in range(3)] == pytest.approx([want[i, 1].mean_logprob for i in range(3)])
    assert drafted.work.accepted > 0
    assert drafted.work.forced == plain.work.forced


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_mean_log_probability_is_the_models_own_over_all_tokens_forced_ones_too(
    grammars, vocabulary, resident, plain, temperature
):
    todo = [replace(one, mean_logprob=True) for one in sequences(10, temperature) if one.grammar]
    todo += [replace(one, key=(100 + one.key[0], 0), mean_logprob=False) for one in todo]
    done = finish(BatchEngine(resident, vocabulary.end_tokens, batch_size=6, grammars=grammars), todo)
    for one in todo[: len(todo) // 2]:
        found = done[one.key]
        mean = plain_score(plain, one.tokens, found.tokens) / len(found.tokens)
        assert found.mean_logprob == pytest.approx(mean, abs=1e-3)
        twin = done[100 + one.key[0], 0]
        assert twin.mean_logprob is None
        assert vocabulary.decode(twin.tokens) == vocabulary.decode(found.tokens) or temperature > 0


def test_max_tokens_holds_for_forced_tokens_too(vocabulary, grammars, resident):
    for room in (1, 3, 9):
        todo = sequences(10, max_tokens=room)
        engine = BatchEngine(resident, vocabulary.end_tokens, batch_size=4, prefill_tokens=4, grammars=grammars)
        done = finish(engine, todo)
        assert all(len(generation.tokens) <= room for generation in done.values())
        assert done[3, 0].finish_reason == ("stop" if room == 9 else "length")


def test_a_sequence_with_a_grammar_pickles_and_gives_the_same_tokens(grammars, vocabulary, resident):
    todo = sequences(10)
    sent = pickle.loads(pickle.dumps(todo))
    assert sent == todo
    here, there = (
        finish(BatchEngine(resident, vocabulary.end_tokens, batch_size=4, grammars=grammars), some)
        for some in (todo, sent)
    )
    assert here == there


def test_an_engine_without_a_vocabulary_takes_no_grammars(resident):
    engine = BatchEngine(resident)
    engine.add([Sequence((0, 0), [1, 2], 9, grammar='start: "a"')])
    with pytest.raises(ValueError, match="without a vocabulary"):
        engine.step()


def test_a_grammar_that_fails_fails_its_row_only(grammars, vocabulary, resident):
    todo = [Sequence((0, 0), [1, 2], 9, grammar="start: ("), Sequence((1, 0), [1, 2], 9)]
    done = finish(BatchEngine(resident, vocabulary.end_tokens, grammars=grammars), todo)
    assert "grammar: " in done[0, 0].error
    assert done[1, 0].error is None


def test_an_answer_whose_grammar_exceeds_its_limits_is_an_error_and_never_an_end(vocabulary, resident, plain):
    rules = "start: A\nA: /(.|\\n){400}/ & ~/(.|\\n)*[a-m](.|\\n){14}[n-z](.|\\n)*/"
    todo = [Sequence((i, 0), [1, 2, 3 + i], 300, Sampling(1.0), i, grammar=rules) for i in range(3)]
    given = {"batch_size": 2, "grammars": Grammars(vocabulary)}
    for engine in (
        BatchEngine(resident, vocabulary.end_tokens, **given),
        BatchEngine(resident, vocabulary.end_tokens, draft_tokens=4, **given),
        CopyingEngine(plain, vocabulary.end_tokens, **given),
        FakeEngine(),
    ):
        for done in finish(engine, todo).values():
            assert (done.finish_reason, done.tokens) == ("error", []), engine
            assert done.error.startswith("grammar: ")


@pytest.mark.parametrize("size", [40, 64, 97])
def test_masks_are_applied_bit_by_bit(size):
    rng = np.random.default_rng(size)
    bits = rng.integers(0, 2, (3, -(-size // 32) * 32)).astype(np.uint8)
    allowed = np.packbits(bits, axis=1, bitorder="little").view(np.uint32)
    logits = mx.random.normal((3, size))
    expected = np.where(bits[:, :size], np.array(logits), -np.inf)
    assert np.array_equal(np.array(masked(logits, allowed)), expected)


def test_rows_without_a_grammar_may_go_on_with_anything(grammars):
    allowed = bitmasks([None, grammars.start(Sequence((0, 0), [1], 9, grammar='start: "a"'))], 300)
    assert np.all(allowed[0] == 0xFFFFFFFF)
    assert np.bitwise_count(allowed[1]).sum() == 1 if hasattr(np, "bitwise_count") else True


@pytest.mark.network
@pytest.mark.slow
def test_every_answer_of_a_warm_model_is_valid_or_was_cut_off_twice(slow, vocabulary, grammars, resident):
    """A model of random weights, and SmolLM2 in a process of its own at full length."""
    rows, schemas = (50, 20) if slow else (5, 4)
    if slow:
        command = [sys.executable, "-m", "tests.bench.constrained", "valid", str(rows), str(schemas)]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        good, of, failed = (int(number) for number in re.findall(r"[0-9]+", printed)[:3])
    else:
        engine = BatchEngine(resident, vocabulary.end_tokens, batch_size=32, grammars=grammars)
        good, of, failed = outcomes(engine, vocabulary, rows, schemas)
    assert of == rows * schemas
    assert good + failed == of
    assert good > failed
