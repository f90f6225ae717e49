"""The expert path for CUDA, its arithmetic checked on a CPU."""

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models import granite
from mlx_lm.models.switch_layers import SwitchGLU

from runner.engine.attention.layout import Span, Step
from runner.engine.attention.resident import ResidentModel
from runner.engine.kernels.cuda import prepare as cuda
from tests.support.tiny import MODELS, TINY_LLAMA, scaled, tiny_gpt_oss, tiny_llama


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


def test_experts_that_stay_packed_leave_less_room_for_other_weights(monkeypatch):
    models = [tiny_gpt_oss(), tiny_gpt_oss()]
    for model in models:
        nn.quantize(model, group_size=32, bits=8)
    experts = sum(
        array.nbytes
        for _, module in models[0].named_modules()
        if isinstance(module, SwitchGLU)
        for _, array in tree_flatten(module.parameters())
    )
    monkeypatch.setattr(cuda.expert_kernels, "kernels", lambda form: object())
    monkeypatch.setattr(cuda.expert_kernels, "pack", lambda experts: [])
    monkeypatch.setattr(cuda, "MEMORY_SHARE", 1)
    dense = 2 * sum(
        module.scales.size * module.group_size
        for name, module in models[0].named_modules()
        if hasattr(module, "scales") and "experts" not in name
    )
    for model, room in zip(models, (dense + experts, dense + experts - 1), strict=True):
        cuda.prepare(model, room)
        assert hasattr(model.lm_head, "scales") == (room < dense + experts)


@pytest.mark.parametrize("name", MODELS)
def test_layers_of_the_same_input_are_one_product(name):
    tokens = [1 + 5 * i % 90 for i in range(20)]
    model = MODELS[name]()
    want, weights = logits(model, tokens), sum(array.nbytes for _, array in tree_flatten(model.parameters()))
    cuda.prepare(model, 0)
    assert isinstance(model.layers[0].self_attn.k_proj, cuda.Slice)
    assert mx.allclose(logits(model, tokens), want, atol=1e-4)
    assert sum(array.nbytes for _, array in tree_flatten(model.parameters())) == weights


def test_joined_layers_keep_nothing_and_take_another_input_each():
    model = tiny_llama()
    cuda.prepare(model, 0)
    mlp, x, y = model.layers[0].mlp, mx.ones((1, 3, 32)), mx.zeros((1, 3, 32))
    gate, up = mlp.gate_proj(x), mlp.up_proj(x)
    assert mlp.gate_proj.part.func.__self__.x is None
    mlp.gate_proj(y)
    assert mx.array_equal(mlp.up_proj(x), up)
    assert mx.array_equal(mlp.gate_proj(x), gate)


def test_layers_that_are_not_alike_stay_as_they_are():
    class Unlike(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate_proj, self.up_proj = nn.Linear(4, 4, bias=False), nn.Linear(4, 4)

    model = Unlike()
    cuda.join(model, ("gate_proj", "up_proj"))
    cuda.join(model, ("q_proj", "k_proj", "v_proj"))
    assert type(model.gate_proj) is type(model.up_proj) is nn.Linear


@pytest.mark.parametrize(("bits", "group_size"), [(6, 32), (4, 64)])
def test_packed_experts_hold_each_rows_words_and_groups_by_64_numbers(bits, group_size):
    experts = SwitchGLU(128, 192, 2, bias=True)
    experts.set_dtype(mx.bfloat16)
    experts.up_proj, experts.gate_proj = (experts[n].to_quantized(group_size, bits) for n in ("up_proj", "gate_proj"))
    experts.down_proj = experts.down_proj.to_quantized(group_size, bits)
    for layer, (packed, bias) in zip(
        ("up_proj", "gate_proj", "down_proj"), cuda.expert_kernels.pack(experts), strict=True
    ):
        layer = experts[layer]
        expert, row, chunk, words, groups = 1, 70, 1, 2 * bits, 64 // group_size
        block = packed[expert, row // 64, chunk]
        at = 64 * words + row % 64 * groups
        pairs = mx.stack([layer.scales, layer.biases], axis=-1).view(mx.uint32)[expert, row, :, 0]
        assert mx.array_equal(block[row % 64 * words :][:words], layer.weight[expert, row, chunk * words :][:words])
        assert mx.array_equal(block[at : at + groups], pairs[chunk * groups :][:groups])
        assert mx.array_equal(bias, layer.bias)


class Experts:
    """The kernels of a layer of experts, by MLX's operations."""

    def __init__(self, experts):
        self.experts = experts

    def routed(self, x, scores, k, packed):
        chosen = mx.argsort(-scores, axis=-1)[:, :k]
        weights = mx.softmax(mx.take_along_axis(scores, chosen, axis=-1), axis=-1)
        return self.experts(x.astype(mx.float32), chosen), weights

    def summed(self, outs, weights):
        return (outs * weights[..., None]).sum(axis=-2)


def test_gpt_oss_chooses_weighs_and_sums_up_experts_by_kernels():
    block = tiny_gpt_oss(num_local_experts=8).layers[0].mlp
    x = mx.random.normal((5, 1, block.hidden_size), key=mx.random.key(0))
    want, experts = block(x), block.experts
    block.experts = cuda.AllExperts(experts)
    assert not cuda.Routed.fits(block)
    block.experts.kernels, block.experts.packed = Experts(experts), []
    assert cuda.Routed.fits(block)
    got = cuda.Routed(block)(x)
    assert got.shape == want.shape
    assert mx.allclose(got, want, rtol=0.02, atol=0.05)


class Turns:
    """Rotary embeddings by their formula, in place of the kernel."""

    def __init__(self, size, heads, kv_heads):
        self.sizes, self.calls = (size, heads, kv_heads), 0

    def __call__(self, product, positions, frequencies):
        self.calls += 1
        D, H, N = self.sizes
        q, k, v = mx.split(product.reshape(len(positions), H + 2 * N, 1, D), [H, H + N], axis=1)
        angles = positions.reshape(-1, 1, 1, 1) * frequencies
        cos, sin = mx.cos(angles), mx.sin(angles)
        halves = [(a[..., : D // 2], a[..., D // 2 :]) for a in (q, k)]
        return [mx.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1) for a, b in halves] + [v]


@pytest.mark.parametrize("made", [tiny_llama, tiny_gpt_oss])
def test_queries_keys_and_values_of_one_product_are_turned_in_steps_and_left_to_mlx_elsewhere(made, monkeypatch):
    made_of = []
    monkeypatch.setattr(cuda.rotary, "kernel", lambda _, *sizes: made_of.append(Turns(*sizes)) or made_of[-1])
    tokens, rows = [1 + 5 * i % 90 for i in range(24)], mx.array([23])
    want = logits(made(), tokens)
    model = made()
    cuda.prepare(model, 0)
    assert mx.allclose(logits(model, tokens), want, atol=1e-4)
    assert [one.calls for one in made_of] == [0] * len(model.layers)
    resident = ResidentModel(model)
    resident.resize(1, 32)
    got = resident.forward(mx.array(tokens), Step([Span(None, 0, 0, len(tokens))]), rows)
    assert mx.allclose(got, want[:, -1], atol=1e-4)
    assert min(one.calls for one in made_of) > 1


class Sums:
    """Sums and their norms by their formula, in place of the kernel."""

    def __init__(self, eps):
        self.eps, self.calls = eps, 0

    def __call__(self, x, outs, scale, weights=None):
        self.calls += 1
        x = x + (outs if weights is None else (outs * weights[..., None]).sum(axis=-2).reshape(x.shape))
        return x, scale * x / mx.sqrt((x * x).mean(axis=-1, keepdims=True) + self.eps)


def sums_of(monkeypatch):
    made_of = {}
    make = lambda dtype, size, eps: made_of.setdefault((size, eps), Sums(eps))  # noqa: E731
    monkeypatch.setattr(cuda.blocks.norms, "kernel", make)
    return made_of


@pytest.mark.parametrize("routed", [False, True])
@pytest.mark.parametrize("made", [tiny_llama, tiny_gpt_oss])
def test_blocks_compute_sums_with_the_norms_behind_them(made, routed, monkeypatch):
    tokens = [1 + 5 * i % 90 for i in range(24)]
    model, want = made(), logits(made(), tokens)
    made_of = sums_of(monkeypatch)
    if routed and made is tiny_gpt_oss:
        for layer in model.layers:
            layer.mlp.weighed = lambda x, mlp=layer.mlp: weighed(mlp, x)
    cuda.blocks.join(model.layers)
    (one,) = made_of.values()
    tried, one.calls = one.calls, 0
    assert mx.allclose(logits(model, tokens), want, atol=1e-4)
    assert tried
    assert one.calls == 2 * len(model.layers) - 1
    assert [name for name, _ in tree_flatten(model.parameters())] == [
        name for name, _ in tree_flatten(made().parameters())
    ]


def weighed(mlp, x):
    """What gpt-oss's experts give for each token, and the weights of its sum."""
    scores = mlp.router(x.reshape(-1, x.shape[-1]))
    chosen = mx.argsort(-scores, axis=-1)[:, : mlp.num_experts_per_tok]
    weights = mx.softmax(mx.take_along_axis(scores, chosen, axis=-1), axis=-1)
    return mlp.experts(x.reshape(-1, x.shape[-1]), chosen), weights


GRANITE = {
    **{"logits_scaling": 1.0, "attention_multiplier": 0.1, "embedding_multiplier": 1.0, "residual_multiplier": 0.5},
    **{"max_position_embeddings": 64, "attention_bias": False, "mlp_bias": False, "rope_theta": 1e4},
}


def test_a_block_that_adds_otherwise_stays_as_it_is(monkeypatch):
    made_of = sums_of(monkeypatch)
    model = scaled(granite.Model(granite.ModelArgs(**TINY_LLAMA, **GRANITE)), seed=0, gain=2.0)
    kinds = [type(layer) for layer in model.layers]
    cuda.blocks.join(model.layers)
    assert made_of
    assert [type(layer) for layer in model.layers] == kinds
    assert not any(hasattr(layer, "joints") for layer in model.layers)
