"""The expert path for CUDA, its arithmetic checked on a CPU."""

import mlx.core as mx
import mlx.nn as nn
import pytest

from runner import cuda
from tests.tiny import tiny_gpt_oss


@pytest.fixture(autouse=True)
def _on_cpu():
    mx.set_default_device(mx.cpu)


def logits(model, tokens):
    return model(mx.array([tokens]))


@pytest.mark.parametrize("memory_bytes", [0, 1 << 30])
def test_all_experts_at_once_give_the_same_logits(memory_bytes, monkeypatch):
    monkeypatch.setattr(cuda, "CHUNK", 16)
    tokens = [1 + 7 * i % 90 for i in range(40)]
    want = logits(tiny_gpt_oss(), tokens)
    model = tiny_gpt_oss()
    cuda.prepare(model, memory_bytes)
    assert any(isinstance(module, cuda.AllExperts) for _, module in model.named_modules())
    assert mx.allclose(logits(model, tokens), want, atol=1e-4)


def test_quantised_weights_are_dequantised_where_they_fit():
    tokens = [1 + 5 * i % 90 for i in range(20)]
    model, small = tiny_gpt_oss(), tiny_gpt_oss()
    for one in (model, small):
        nn.quantize(one, group_size=32, bits=8)
    want = logits(model, tokens)
    cuda.prepare(model, 1 << 30)
    cuda.prepare(small, 0)
    assert not any(hasattr(module, "scales") for _, module in model.named_modules())
    assert any(hasattr(module, "scales") for _, module in small.named_modules())
    assert mx.allclose(logits(model, tokens), want, atol=1e-3)
    assert mx.allclose(logits(small, tokens), want, atol=1e-3)
