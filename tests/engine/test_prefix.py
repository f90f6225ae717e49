"""Sharing prefixes changes nothing: random batches against one-by-one generation with mlx-lm's own caches."""

import io

import mlx.core as mx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runner.engine.attention.copies import Copies
from runner.engine.attention.hooks import Fetched, SharedKV
from runner.engine.attention.resident import ResidentModel
from runner.engine.engine import BatchEngine
from runner.sequences import Sequence
from tests.support.engines import END, one_by_one
from tests.support.tiny import MODELS, VOCAB

tokens = st.integers(1, VOCAB - 1)
CASES = {}


def models(name):
    """The plain model and the resident one with the same weights, built once."""
    if name not in CASES:
        mx.set_default_device(mx.cpu)
        CASES[name] = MODELS[name](), ResidentModel(MODELS[name]())
    return CASES[name]


@st.composite
def batches(draw):
    """Rows behind zero, one or two levels of prefix (below, at and above the window of 8), with ragged suffixes."""
    template = draw(st.lists(tokens, max_size=12))
    documents = [template + draw(st.lists(tokens, max_size=9)) for _ in range(draw(st.integers(1, 2)))]
    sequences = []
    for i in range(draw(st.integers(1, 5))):
        document = draw(st.sampled_from(documents))
        row = document + draw(st.lists(tokens, min_size=1, max_size=11))
        levels = {len(template), len(document)} if draw(st.booleans()) else {len(document)}
        boundaries = tuple(sorted(b for b in levels if 0 < b < len(row))) if draw(st.booleans()) else ()
        sequences.append(Sequence((i, 0), row, draw(st.integers(1, 6)), boundaries=boundaries))
    return sequences


@pytest.mark.parametrize("name", sorted(MODELS))
@settings(max_examples=settings.default.max_examples // 5, suppress_health_check=list(HealthCheck), derandomize=True)
@given(
    todo=batches(),
    batch_size=st.integers(1, 4),
    prefill=st.integers(1, 24),
    streams=st.integers(1, 2),
    late=st.integers(0, 3),
    copies=st.sampled_from([0, 3, 99]),
)
def test_random_batches_generate_what_generate_does_one_by_one(name, todo, batch_size, prefill, streams, late, copies):
    mx.set_default_device(mx.cpu)
    plain, resident = models(name)
    engine = BatchEngine(
        resident, {END}, batch_size=batch_size, prefill_tokens=prefill, streams=streams, copies=Copies((copies,) * 3)
    )
    waiting, done = list(todo), {}
    engine.add(waiting[: len(waiting) - late])
    del waiting[: len(waiting) - late]
    while len(done) < len(todo):
        done.update({generation.key: generation.tokens for generation in engine.step()})
        engine.add(waiting[:1])  # late joiners, one a step
        del waiting[:1]
    engine.close()
    for sequence in todo:
        assert done[sequence.key] == one_by_one(plain, sequence.tokens, sequence.max_tokens)


def test_keys_that_a_cache_hands_on_are_not_copied():
    keys, graph = mx.zeros((2, 1, 1, 4)), io.StringIO()
    mx.eval(keys)
    mx.export_to_dot(graph, Fetched.of(keys, SharedKV()))
    assert "rectangle" not in graph.getvalue()  # as every operation is drawn
