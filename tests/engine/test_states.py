"""Recurrent layers behind shared prefixes: batches give what each row gives alone through mlx-lm's own caches."""

import mlx.core as mx
import numpy as np
import pytest

from runner.engine.attention.copies import Copies
from runner.engine.attention.resident import ResidentModel
from runner.engine.engine import BatchEngine
from runner.sequences import Sequence
from tests.support.engines import END, finish, one_by_one, plain_score
from tests.support.recurrent import FAMILIES, recurrent
from tests.support.tiny import VOCAB

CHOICES = ((5,), (5, 9), (5, 9, 11), (7, 9), (8,), (5, 10, 11, 12))


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.__name__)
def model(request):
    mx.set_default_device(mx.cpu)
    return recurrent(request.param)


@pytest.fixture(scope="module")
def resident(model):
    return ResidentModel(model)


def levels(seed):
    """Ragged rows behind a template and documents after it, of which one is a single token, and some without any."""
    rng = np.random.default_rng(seed)
    template = rng.integers(1, VOCAB, 6).tolist()
    found = []
    for size in (1, 9):
        document = template + rng.integers(1, VOCAB, size).tolist()
        found += [(document + rng.integers(1, VOCAB, own).tolist(), (6, len(document))) for own in (1, 7, 4)]
    return [*found, (rng.integers(1, VOCAB, 5).tolist(), ())]


def test_rows_behind_several_levels_of_prefix_go_on_as_alone(model, resident):
    """Half of the families with prefixes that are copied, and on two streams."""
    copies, streams = (99, 2) if model.model_type < "l" else (0, 1)
    most = [5, 3, 1, 6, 4, 2, 3]
    todo = [Sequence((i, 0), row, most[i], boundaries=boundaries) for i, (row, boundaries) in enumerate(levels(copies))]
    todo[1::3] = [Sequence(one.key, one.tokens, 0, boundaries=one.boundaries, choices=CHOICES) for one in todo[1::3]]
    engine = BatchEngine(
        resident, {END}, batch_size=3, prefill_tokens=8 * streams, streams=streams, copies=Copies((copies,) * 3)
    )
    done = finish(engine, todo)
    engine.close()
    for one in todo:
        if one.choices is None:
            assert done[one.key].tokens == one_by_one(model, one.tokens, one.max_tokens)
        else:
            want = [plain_score(model, one.tokens, choice) for choice in CHOICES]
            assert done[one.key].logprobs == pytest.approx(want, abs=1e-4)
