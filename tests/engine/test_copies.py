"""Copies of prefixes: where they are made, and that a full batch of them must fit. That they change no answer is shown
in test_prefix.py.
"""

import mlx.core as mx
import pytest

from runner.engine.attention import copies
from runner.engine.attention.copies import Cell, Copies, measure
from runner.engine.attention.parts import Form
from runner.engine.attention.resident import ResidentModel
from runner.engine.engine import BatchEngine
from tests.support.engines import END, finish, prompts, sequences
from tests.support.tiny import tiny_llama


def test_between_the_measured_lengths_the_limit_is_in_proportion():
    found = Copies((16, 4, 0))
    assert [found.faster(length, 16) for length in (1, 512, 513, 2048)] == [True, True, False, False]
    assert found.faster(1024, 10) and not found.faster(1024, 11)
    assert found.faster(2048, 4) and not found.faster(8192, 1)
    assert not Copies((99, 99, 99)).faster(0, 1) and not Copies().faster(512, 1)


def test_larger_batches_are_tried_until_sharing_is_faster(monkeypatch):
    """The clock is replaced: what is asked of it is the promise."""
    limits = {512: 16, 2048: 4, 8192: 0}
    asked = []

    def way(form, prefix, count, copied):
        asked.append((prefix, count))
        return lambda: 1.0 if copied == (count <= limits[prefix]) else 2.0

    monkeypatch.setattr(copies, "way", way)
    assert measure(Form(4, 8, 2, 8, 8, mx.float32)) == Copies((16, 4, 0))
    assert (8192, 4) not in asked and (512, 64) not in asked
    monkeypatch.setattr(copies, "MOST_BYTES", 0)
    assert measure(Form(4, 8, 2, 8, 8, mx.float32)) == Copies()


def test_copies_are_taken_only_where_they_are_faster_in_every_turn():
    assert Cell(512, 4, [1.0, 1.1, 3.0], [1.2, 1.2, 4.0]).copy
    noisy = Cell(512, 4, [1.0, 1.0, 1.3], [1.2, 1.2, 1.2])
    assert noisy.ratio < 1 and not noisy.copy


@pytest.mark.parametrize(("kv_bytes", "copied"), [(1 << 30, 6), (1 << 15, 0)])
def test_prefixes_are_copied_only_where_a_full_batch_of_copies_fits(kv_bytes, copied):
    mx.set_default_device(mx.cpu)
    engine = BatchEngine(ResidentModel(tiny_llama()), {END}, batch_size=6, kv_bytes=kv_bytes, copies=Copies((9, 9, 9)))
    todo = sequences(prompts(1, 6, 20), 4, (20,))
    engine.add(todo)
    engine.step()
    assert sum(lane.prefix is None for lane in engine.lanes) == copied and len(engine.lanes) > 0
    assert all(lane.cached in (0, 20) for lane in engine.lanes)
    engine.close()
    assert len(finish(engine, todo)) == 6
