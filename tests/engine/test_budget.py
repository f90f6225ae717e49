"""Promises of runner/engine/budget.py."""

import pytest

from runner.engine.budget import BATCH_SIZE, MOST, PREFILL_TOKENS, Budget
from runner.engine.conf import EngineConf
from runner.machine.device import Device

GB = 10**9


@pytest.mark.parametrize("kind", ["cpu", "metal", "cuda"])
def test_sizes_left_open_are_the_devices(kind):
    budget = Budget.of(EngineConf(), Device(kind, "", None, 20 * GB))
    work = {"cuda": 3}.get(kind, 2) * GB
    assert (budget.limit, budget.work, budget.watermark) == (20 * GB, work, 19 * GB)
    assert (budget.batch_size, budget.most, budget.prefill_tokens) == (
        BATCH_SIZE[kind],
        MOST,
        PREFILL_TOKENS[kind],
    )


def test_what_is_configured_wins_and_the_batch_keeps_its_size():
    conf = EngineConf(memory_gb=2.5, batch_size=8, prefill_tokens=100)
    budget = Budget.of(conf, Device("metal", "", None, 20 * GB))
    assert (budget.limit, budget.batch_size, budget.most, budget.prefill_tokens) == (2_500_000_000, 8, None, 100)


@pytest.mark.parametrize(("kind", "most"), [("metal", 4 * GB), ("cuda", 16 * GB)])
def test_work_space_has_an_upper_bound(kind, most):
    assert Budget.of(EngineConf(), Device(kind, "", None, 140 * GB)).work == most


def test_caches_take_what_weights_and_work_leave():
    budget = Budget.of(EngineConf(), Device("cpu", "", None, 10 * GB))
    assert budget.kv(4 * GB) == 5 * GB
    assert budget.kv(9 * GB) == 0


def test_a_share_is_taken_of_batches_and_caches_and_never_of_the_limit():
    budget = Budget.of(EngineConf(batch_size=3), Device("cpu", "", None, 10 * GB), share=0.25)
    assert (budget.limit, budget.work, budget.batch_size) == (10 * GB, GB, 1)
    assert budget.kv(GB) == 2 * GB
    assert Budget.of(EngineConf(), Device("cpu", "", None, 10 * GB), share=0.5).most == MOST // 2
