"""Families whose attention has other shapes share prefixes, too: latent keys, keys of earlier layers, capped scores,
chunks. Everything against one-by-one generation with mlx-lm's own caches.
"""

import mlx.core as mx
import pytest
from mlx_lm.models import gpt_bigcode

from runner.engine.attention import layout, parts, prefix
from runner.engine.attention.resident import ResidentModel, UnsupportedModelError
from runner.engine.budget import kv_shape
from runner.engine.engine import BatchEngine
from runner.engine.kernels import cpu
from runner.sequences import Sequence
from runner.types import UserError
from tests.support.attentions import FAMILIES, SIZES, tiny
from tests.support.engines import END, finish, one_by_one, plain_score, prompts, sequences
from tests.support.tiny import VOCAB, scaled

DEPTHS = (2, 7, 9, 16, 21)  # of prefixes, about the window and the chunks of 8 tokens


@pytest.fixture(scope="module", params=sorted(FAMILIES.keys() - {"glm4_moe_lite"}))  # attends as deepseek_v3 does
def family(request):
    """A plain model and a resident one of the same weights, rows behind prefixes of several depths, their answers."""
    mx.set_default_device(mx.cpu)
    plain, resident = tiny(request.param), ResidentModel(tiny(request.param))
    rows = prompts(4, 4, shared=DEPTHS[-1], longest=6)
    return plain, resident, rows, [one_by_one(plain, row, 9) for row in rows]


def test_a_batch_behind_prefixes_of_many_depths_generates_what_generate_does_one_by_one(family):
    _, resident, rows, want = family
    engine = BatchEngine(resident, {END}, batch_size=3, prefill_tokens=5)
    done = finish(engine, [Sequence((i, 0), row, 9, boundaries=DEPTHS[: i + 2]) for i, row in enumerate(rows)])
    assert [done[i, 0].tokens for i in range(len(rows))] == want


def test_the_formulas_for_gpus_give_the_same_tokens(family, monkeypatch):
    for module in (parts, prefix):
        monkeypatch.setattr(module, "on_cpu", lambda: False)
    monkeypatch.setitem(layout.KEY_GRAIN, mx.cpu, 32)
    _, resident, rows, want = family
    for boundaries in ((), (16,)):
        engine = BatchEngine(resident, {END}, batch_size=2, prefill_tokens=64)
        done = finish(engine, [Sequence((i, 0), row, 9, boundaries=boundaries) for i, row in enumerate(rows[:2])])
        assert [done[i, 0].tokens for i in range(2)] == want[:2]


def test_choices_score_like_a_plain_forward_pass(family):
    plain, resident, rows, _ = family
    choices = ((5,), (5, 9), (5, 9, 11), (7, 9))
    engine = BatchEngine(resident, {END}, batch_size=3, prefill_tokens=24)
    done = finish(engine, sequences(rows[:2], 1, (9, 16), choices=choices))
    for i, row in enumerate(rows[:2]):
        want = [plain_score(plain, row, choice) for choice in choices]
        assert done[i, 0].logprobs == pytest.approx(want, abs=1e-3)


def test_prompts_skip_the_layers_behind_the_last_one_that_stores_keys(monkeypatch):
    """While others decode, too: such a pass asks for no logits, and MLX computes what is asked for alone."""
    mx.set_default_device(mx.cpu)
    shared = ResidentModel(tiny("gemma3n"))
    assert shared.spares and not ResidentModel(tiny("gemma2")).spares
    passes = []
    forward = shared.forward

    def noted(tokens, step, rows):
        passes.append((tokens.size, None if rows is None else len(rows)))
        return forward(tokens, step, rows)

    monkeypatch.setattr(shared, "forward", noted)
    engine = BatchEngine(shared, {END}, batch_size=2, prefill_tokens=64)
    engine.add([Sequence((0, 0), [5] * 9, 9)])
    engine.step()
    finish(engine, [Sequence((1, 0), [6] * 12, 2), Sequence((2, 0), [7] * 10, 1, choices=((5,), (6, 7)))])
    assert passes[0] == (8, 0)  # alone it needs no pass beside
    assert (11, None) in passes and (10, None) in passes


def test_a_token_takes_the_memory_of_what_its_layers_store():
    mx.set_default_device(mx.cpu)
    size = 4
    latent, shared = ResidentModel(tiny("deepseek_v3")), ResidentModel(tiny("gemma3n"))
    assert latent.token_bytes == 2 * (16 + 4) * size  # a latent vector and the turned part of the keys, once
    for family in ("deepseek_v2", "deepseek_v32"):  # as it is foretold before weights load
        said = kv_shape({"model_type": family, **SIZES, **FAMILIES[family]}, "cpu")
        assert said.token_bytes == ResidentModel(tiny(family)).token_bytes
    for bits in (None, 8):  # chunks stay whole
        chunks = {"model_type": "llama4", **SIZES, **FAMILIES["llama4"]["text_config"], "head_dim": 32}
        said = kv_shape({"model_type": "llama4", "text_config": chunks}, "cpu", bits)
        assert said.sequence_bytes(100) == ResidentModel(tiny("llama4", head_dim=32), kv_bits=bits).slot_bytes(100)
    assert shared.token_bytes == 2 * 2 * 2 * 8 * size  # two of four layers have none of their own
    assert shared.slot_bytes(100) == (8 + 100) * 2 * 2 * 8 * size  # one of the others sees 8 tokens


def test_positions_that_are_counted_with_numpy_are_those_of_a_steps_tokens():
    mx.set_default_device(mx.cpu)
    sizes = {"n_embd": 32, "n_layer": 2, "n_inner": 48, "n_head": 4, "n_positions": 64, "layer_norm_epsilon": 1e-5}
    model = gpt_bigcode.Model(gpt_bigcode.ModelArgs("gpt_bigcode", vocab_size=VOCAB, **sizes))
    assert len(ResidentModel(scaled(model, seed=0, gain=2.0)).layers) == 2  # its trial compares logits


def test_a_model_that_computes_no_numbers_is_refused():
    """Its answers would be empty, without a word."""
    model = tiny("gemma2")
    model.update({"model": {"norm": {"weight": mx.full((32,), float("nan"))}}})
    with pytest.raises(UserError, match="computes NaN, no numbers: its weights are damaged"):
        ResidentModel(model)


@pytest.mark.parametrize("family", ["afm7", "gemma4_text", "minicpm3"])
def test_weights_of_sixteen_bits_share_where_sums_in_one_order_show_no_rounding(family):
    """On a CPU one pass and single tokens give the same; another order of sums is 4 to 7% off."""
    mx.set_default_device(mx.cpu)
    model = tiny(family)
    model.set_dtype(mx.bfloat16)
    ResidentModel(model)


def test_a_layer_that_masks_by_itself_is_refused(monkeypatch):
    """Its mask is unknown to the shared cache, and the trial's few tokens need not show what it hides."""
    mx.set_default_device(mx.cpu)
    from mlx_lm.models import llama

    model = llama.Model(llama.ModelArgs(model_type="llama", **{k: SIZES[k] for k in SIZES if k != "attention_bias"}))
    monkeypatch.setattr(llama, "create_attention_mask", lambda h, *_, **__: mx.zeros((1, 1)))
    with pytest.raises(UnsupportedModelError, match="mask of the layer's own"):
        ResidentModel(model)


def test_a_window_that_the_cache_does_not_know_is_refused_however_far_the_trial_would_have_to_look():
    mx.set_default_device(mx.cpu)
    from mlx_lm.models import smollm3

    args = {**SIZES, "layer_types": ["sliding_attention", "full_attention"], "sliding_window": 4096}
    with pytest.raises(UnsupportedModelError, match="window of 4096"):
        ResidentModel(smollm3.Model(smollm3.ModelArgs.from_dict({"model_type": "smollm3", **args})))


def test_quick_exponentials_are_right_to_the_last_places():
    x = mx.linspace(-100, 100, 20001)
    assert mx.abs(cpu.tanh(x) - mx.tanh(x)).max() < 3e-7
    gated = cpu.swiglu(x, mx.array(1.0))
    assert mx.abs(gated - x * mx.sigmoid(x)).max() < 1e-5 and not mx.isnan(gated).any()
    assert mx.isnan(cpu.swiglu(mx.array(mx.nan), x)).all()
    assert mx.allclose(cpu.shifted_exp(-mx.abs(x), mx.array(0.0)), mx.exp(-mx.abs(x)), 5e-7, 1e-19)


@pytest.mark.parametrize("traditional", [False, True])
@pytest.mark.parametrize(("base", "freqs"), [(10000.0, None), (None, mx.arange(1, 5) * 3.0)])
def test_positions_turn_queries_by_one_table_a_step_bit_by_bit_as_mlx_does_by_one_a_layer(traditional, base, freqs):
    x, at = mx.random.normal((3, 2, 1, 12), stream=mx.cpu), mx.array([0, 7, 4000])
    named = {"traditional": traditional, "base": base, "scale": 0.5, "freqs": freqs}
    with mx.stream(mx.cpu):
        positions = cpu.Positions.of(at)
        for queries in (x, 2 * x):
            assert mx.array_equal(
                cpu.rope(queries, 8, offset=positions, **named), mx.fast.rope(queries, 8, offset=at, **named)
            )
    assert len(positions.tables) == 1


def test_what_is_masked_weighs_nothing_and_makes_no_denormal_numbers():
    """Products with those take a processor 20 times as long."""
    weight = cpu.shifted_exp(mx.array([-1e30, 0.0]), mx.array([0.0])).tolist()
    assert weight[1] == pytest.approx(1) and 1 + 1e9 * weight[0] == pytest.approx(1) and 1e-12 * weight[0] > 1.2e-38
