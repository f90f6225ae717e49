"""model.adapter: LoRA and DoRA as mlx-lm and PEFT save them, in every layer's weights or beside quantised ones."""

import json
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import rowmill
from mlx.utils import tree_flatten

from runner.engine import weights
from runner.machine.device import Device, set_up
from runner.models.adapters import beside
from runner.models.resolve import read_config, with_adapter
from runner.models.tensors import weights_hash
from runner.types import UserError
from tests.support.tiny import save_tiny_llama, tiny_folder

pytestmark = pytest.mark.usefixtures("cache")
TOKENS = mx.array([[5, 3, 8, 1, 7]])
ROOT = "base_model.model.model.layers.0"
PLACES = {"self_attn.q_proj": (64, 64), "mlp.down_proj": (64, 64)}


def draw(shape, seed):
    return 0.3 * mx.random.normal(shape, key=mx.random.key(seed))


def peft(folder, places=PLACES, config=None, rank=4, more=None, alpha=8):
    """An adapter as PEFT saves it, its config's further keys and further tensors."""
    folder.mkdir()
    tensors = dict(more or {})
    for number, (place, (rows, columns)) in enumerate(places.items()):
        name = f"{ROOT}.{place}"
        tensors[f"{name}.lora_A.weight"] = draw((rank, columns), number)
        tensors[f"{name}.lora_B.weight"] = draw((rows, rank), 100 + number)
    mx.save_safetensors(str(folder / "adapter_model.safetensors"), tensors)
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "base_model_name_or_path": "acme/base"} | (
        config or {}
    )
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def weights_of(folder):
    """Of each layer, dequantised, in float32: what a CPU computes with."""
    model, _ = weights.load(folder, set_up("cpu"))
    return {name: np.array(value, np.float32) for name, value in tree_flatten(model.parameters())}


@pytest.mark.parametrize("quantise", [False, True])
@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({}, 2.0),
        ({"use_rslora": True}, 4.0),
        ({"alpha_pattern": {"q_proj": 12}}, {"self_attn.q_proj": 3.0, "mlp.down_proj": 2.0}),
    ],
)
def test_weights_with_pefts_lora_are_w_plus_scale_b_a(tmp_path, quantise, config, scale):
    tiny_folder(tmp_path / "base", quantise)
    plain = weights_of(tmp_path / "base")
    adapted = weights_of(beside(tmp_path / "base", peft(tmp_path / "lora", config=config)))
    assert plain.keys() == adapted.keys()
    for name, value in plain.items():
        place = name.removeprefix("model.layers.0.").removesuffix(".weight")
        wanted = value
        if place in PLACES:
            number = list(PLACES).index(place)
            factor = scale[place] if isinstance(scale, dict) else scale
            b, a = np.array(draw((64, 4), 100 + number)), np.array(draw((4, 64), number))
            wanted = value + factor * (b @ a)
        np.testing.assert_allclose(adapted[name], wanted, atol=2e-6, err_msg=name)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"lora_alpha": None}, "lora_alpha is null"),
        ({"lora_alpha": "8"}, 'lora_alpha is "8"'),
        ({"lora_alpha": float("nan")}, "lora_alpha is NaN"),
        ({"alpha_pattern": {"q_proj": [4]}}, r"q_proj is \[4\]"),
    ],
)
def test_a_factor_that_is_no_number_is_named(tmp_path, config, words):
    tiny_folder(tmp_path / "base")
    with pytest.raises(UserError, match=f"in its adapter_config.json {words}, and not a number"):
        beside(tmp_path / "base", peft(tmp_path / "lora", config=config))


@pytest.mark.parametrize("scale", [None, "20"])
def test_a_scale_of_mlx_lms_that_is_no_number_is_named(tmp_path, scale):
    tiny_folder(tmp_path / "base")
    lora = peft(tmp_path / "lora")
    settings = {"num_layers": 1, "lora_parameters": {"rank": 4, "scale": scale, "dropout": 0.0}}
    (lora / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=f"scale is {json.dumps(scale)}, and not a number"):
        beside(tmp_path / "base", lora)


def test_pefts_dora_makes_each_row_as_long_as_it_says(tmp_path):
    tiny_folder(tmp_path / "base", quantise=True)
    place = f"{ROOT}.self_attn.q_proj.lora_magnitude_vector"
    lengths = mx.arange(1, 65).astype(mx.float32)
    lora = peft(tmp_path / "dora", {"self_attn.q_proj": (64, 64)}, {"use_dora": True}, more={place: lengths})
    found = weights_of(beside(tmp_path / "base", lora))["model.layers.0.self_attn.q_proj.weight"]
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), np.arange(1, 65), rtol=1e-5)


def test_layers_that_peft_saved_whole_replace_the_models(tmp_path):
    tiny_folder(tmp_path / "base", quantise=True)
    head = draw((9, 64), 7)
    lora = peft(tmp_path / "lora", more={"base_model.model.lm_head.weight": head})
    tied = beside(tmp_path / "base", lora)
    with pytest.raises(UserError, match="the model has no lm_head") as error:
        weights_of(tied)
    assert "it was trained on acme/base" in str(error.value) and error.value.key == "model.adapter"
    (tmp_path / "untied").mkdir()
    tiny_folder(tmp_path / "untied" / "base", quantise=True, tie_word_embeddings=False)
    found = weights_of(beside(tmp_path / "untied" / "base", lora))["lm_head.weight"]
    np.testing.assert_array_equal(found, np.array(head.astype(mx.bfloat16).astype(mx.float32)))


@pytest.mark.parametrize("quantise", [False, True])
def test_where_the_head_is_the_embedding_pefts_training_of_one_leaves_the_other(tmp_path, quantise):
    """As PEFT computes; a model converted with such an adapter has both."""
    tiny_folder(tmp_path / "base", quantise)
    table = weights_of(tmp_path / "base")["model.embed_tokens.weight"]
    head, a, b = draw((9, 64), 7), draw((4, 9), 1), draw((64, 4), 2)
    saved = peft(
        tmp_path / "head", {}, {"modules_to_save": ["lm_head"]}, more={"base_model.model.lm_head.weight": head}
    )
    place = "base_model.model.model.embed_tokens.lora_embedding"
    learned = peft(tmp_path / "table", {}, more={f"{place}_A": a, f"{place}_B": b})
    rounded = np.array(head.astype(mx.bfloat16).astype(mx.float32))
    for adapter, wanted in ((saved, (table, rounded)), (learned, (table + 2 * np.array((b @ a).T), table))):
        model, config = weights.load(beside(tmp_path / "base", adapter), set_up("cpu"))
        found = dict(tree_flatten(model.parameters()))
        for name, value in zip(("model.embed_tokens.weight", "lm_head.weight"), wanted, strict=True):
            np.testing.assert_allclose(np.array(found[name]), value, atol=2e-6, err_msg=name)
        assert config["tie_word_embeddings"] is False
        np.testing.assert_allclose(np.array(model(TOKENS)), np.array(model.lm_head(model.model(TOKENS))), atol=1e-5)
    tiny_folder(tmp_path / "gemma", family="gemma", num_key_value_heads=2, head_dim=32)
    with pytest.raises(UserError, match="lm_head trained by itself, and in mlx-lm's model the head is always the emb"):
        weights_of(beside(tmp_path / "gemma", saved))


def test_what_was_learned_for_some_experts_is_added_to_theirs(tmp_path):
    """Mixtral's names in transformers; mlx-lm has all experts in one layer."""
    experts = {"num_local_experts": 3, "num_experts_per_tok": 2, "rope_theta": 1e4}
    tiny_folder(tmp_path / "base", **experts, family="mixtral")
    place = "block_sparse_moe.experts.1.w2"
    plain, adapted = (
        weights_of(folder)["model.layers.0.block_sparse_moe.switch_mlp.down_proj.weight"]
        for folder in (tmp_path / "base", beside(tmp_path / "base", peft(tmp_path / "lora", {place: (64, 64)})))
    )
    learned = 2.0 * np.array(draw((64, 4), 100)) @ np.array(draw((4, 64), 0))
    np.testing.assert_allclose(adapted - plain, [0 * learned, learned, 0 * learned], atol=2e-6)


GPT_OSS = {"family": "gpt_oss", "num_local_experts": 3, "num_experts_per_tok": 2, "head_dim": 32, "sliding_window": 8}
GPT_OSS |= {"num_key_value_heads": 2, "intermediate_size": 32, "rope_theta": 1e4, "num_hidden_layers": 2}
BOTH = {"mlp.experts.base_layer": (64, 64), "mlp.experts": (64, 32)}  # one wrapper of PEFT's in the other


@pytest.mark.parametrize("turned", [False, True])
def test_what_was_learned_for_parameters_of_all_experts_is_added_as_peft_adds_it(tmp_path, turned):
    """By PEFT's formula, of its versions before 0.19 and since: gates and ups of gpt-oss alternate."""
    tiny_folder(tmp_path / "base", **GPT_OSS)
    tensors, learned = {}, {}
    for number, (wrapper, (rows, columns)) in enumerate(BOTH.items()):
        rows, columns = (columns, rows) if turned else (rows, columns)
        a, b = draw((3 * 4, columns), number), draw((rows, 4 * 3), 100 + number)
        tensors |= {f"{ROOT}.{wrapper}.lora_A.weight": a, f"{ROOT}.{wrapper}.lora_B.weight": b}
        delta = np.einsum("ore,eri->eoi", np.array(b).reshape(rows, 4, 3), np.array(a).reshape(3, 4, columns))
        learned[wrapper] = delta.swapaxes(1, 2) if turned else delta
    adapter = peft(tmp_path / "lora", {}, {"alpha_pattern": {"mlp.experts.down_proj": 4}}, more=tensors)
    plain, adapted = (weights_of(folder) for folder in (tmp_path / "base", beside(tmp_path / "base", adapter)))
    both, down = (learned[wrapper] for wrapper in BOTH)
    for name, wanted in {"gate_proj": 2 * both[:, ::2], "up_proj": 2 * both[:, 1::2], "down_proj": down}.items():
        at = f"model.layers.0.mlp.experts.{name}.weight"
        np.testing.assert_allclose(adapted[at] - plain[at], wanted, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("version", "turned"), [(None, False), ("0.18.1", False), ("0.19.0", True), ("0.19.1", False), ("0.21.2", False)]
)
def test_of_square_experts_pefts_version_says_which_are_rows(tmp_path, version, turned):
    """As its versions lay out a gpt-oss's down_proj alone."""
    tiny_folder(tmp_path / "base", **GPT_OSS | {"intermediate_size": 64})
    a, b = draw((12, 64), 0), draw((64, 12), 1)
    tensors = {f"{ROOT}.mlp.experts.lora_A.weight": a, f"{ROOT}.mlp.experts.lora_B.weight": b}
    adapter = peft(tmp_path / "lora", {}, {"peft_version": version}, more=tensors)
    name = "model.layers.0.mlp.experts.down_proj.weight"
    plain, adapted = (weights_of(folder)[name] for folder in (tmp_path / "base", beside(tmp_path / "base", adapter)))
    delta = 2 * np.einsum("ore,eri->eoi", np.array(b).reshape(64, 4, 3), np.array(a).reshape(3, 4, 64))
    np.testing.assert_allclose(adapted - plain, delta.swapaxes(1, 2) if turned else delta, atol=1e-5)


def test_experts_of_another_shape_are_refused(tmp_path):
    tiny_folder(tmp_path / "base", **GPT_OSS | {"intermediate_size": 64})
    a, b = draw((12, 48), 0), draw((64, 12), 1)
    tensors = {f"{ROOT}.mlp.experts.lora_A.weight": a, f"{ROOT}.mlp.experts.lora_B.weight": b}
    with pytest.raises(UserError, match=r"experts of \[64, 64\]"):
        weights_of(beside(tmp_path / "base", peft(tmp_path / "lora", {}, more=tensors)))


def test_a_bias_that_was_learned_is_added_to_the_layers_own(tmp_path):
    tiny_folder(tmp_path / "base", quantise=True, attention_bias=True)
    bias = draw((64,), 7)
    more = {f"{ROOT}.{place}.lora_B.bias": bias for place in PLACES}
    plain = weights_of(tmp_path / "base")
    adapted = weights_of(beside(tmp_path / "base", peft(tmp_path / "lora", config={"lora_bias": True}, more=more)))
    for place in PLACES:  # one with a bias, one without
        at = f"model.layers.0.{place}.bias"
        np.testing.assert_allclose(adapted[at], plain.get(at, 0) + 2 * np.array(bias), atol=1e-6)


def test_beside_quantised_weights_the_adapter_stays_as_it_was_learned(tmp_path):
    """On Metal and CUDA; what is computed is the same to the rounding of bfloat16."""
    mx.random.seed(0)  # how far that goes is a matter of the weights
    tiny_folder(tmp_path / "base", quantise=True)
    folder = beside(tmp_path / "base", peft(tmp_path / "lora"))
    exact, _ = weights.load(folder, set_up("cpu"))
    kept, _ = weights.load(folder, Device("metal", "a Mac", None, 1 << 34))
    layer = kept.layers[0].self_attn.q_proj
    assert type(layer).__name__ == "LoRALinear" and layer.linear.bits == 4
    np.testing.assert_allclose(np.array(kept(TOKENS).astype(mx.float32)), np.array(exact(TOKENS)), rtol=0.1, atol=0.1)


BROKEN = {
    "no adapter_config.json": lambda folder: (folder / "adapter_config.json").unlink(),
    "neither mlx-lm's nor PEFT's": lambda folder: (folder / "adapter_config.json").write_text("{}"),
    "cannot be read": lambda folder: (folder / "adapter_config.json").write_text("{"),
    "PEFT's IA3": lambda folder: (folder / "adapter_config.json").write_text('{"peft_type": "IA3"}'),
    "KaSA": lambda folder: (folder / "adapter_config.json").write_text(
        '{"peft_type": "LORA", "kasa_config": {"b": 1}}'
    ),
    "aLoRA": lambda folder: (folder / "adapter_config.json").write_text(
        '{"peft_type": "LORA", "alora_invocation_tokens": [5]}'
    ),
    "belongs to weights that its training changed .*pissa_niter_4": lambda folder: (
        folder / "adapter_config.json"
    ).write_text('{"peft_type": "LORA", "init_lora_weights": "pissa_niter_4"}'),
    "no adapter_model.safetensors": lambda folder: (folder / "adapter_model.safetensors").unlink(),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_folder_that_holds_no_usable_adapter_is_refused_before_weights_load(tmp_path, what):
    tiny_folder(tmp_path / "base")
    folder = peft(tmp_path / "lora")
    BROKEN[what](folder)
    with pytest.raises(UserError, match=what) as error:
        beside(tmp_path / "base", folder)
    assert error.value.key == "model.adapter" and error.value.exit_code == 2


@pytest.mark.parametrize(
    ("places", "what"),
    [
        ({"self_attn.q_proj": (64, 32)}, r"q_proj is \[64, 64\]"),
        ({"mlp.experts": (64, 64)}, "no model.layers.0.mlp.experts"),
        ({"input_layernorm": (64, 64)}, "RMSNorm, to which nothing can be added"),
    ],
)
def test_an_adapter_of_another_model_is_refused_with_the_layer(tmp_path, places, what):
    tiny_folder(tmp_path / "base", quantise=True)
    with pytest.raises(UserError, match=what):
        weights_of(beside(tmp_path / "base", peft(tmp_path / "lora", places)))


@pytest.mark.parametrize(
    ("places", "more", "what"),
    [
        ({}, {}, "it holds no tensors"),
        (PLACES, {f"{ROOT}.self_attn.q_proj.lora_C.weight": mx.ones(3)}, "the model has no .*q_proj.lora_C"),
        (PLACES, {f"{ROOT}.self_attn.q_proj.vera_lambda_b": mx.ones(3)}, "q_proj has vera_lambda_b, which is no part"),
        (PLACES, {"x": mx.ones(3)}, "the model has x, which is no part"),
    ],
)
def test_nothing_that_was_learned_is_left_out_without_a_word(tmp_path, places, more, what):
    tiny_folder(tmp_path / "base")
    with pytest.raises(UserError, match=what):
        weights_of(beside(tmp_path / "base", peft(tmp_path / "lora", places, more=more)))


def test_a_models_fingerprint_counts_its_adapters_bytes_and_not_their_place(tmp_path):
    tiny_folder(tmp_path / "base")
    first, second = peft(tmp_path / "lora"), peft(tmp_path / "moved")
    prints = {weights_hash(tmp_path / "base"), weights_hash(beside(tmp_path / "base", first))}
    assert weights_hash(beside(tmp_path / "base", second)) in prints and len(prints) == 2
    other = peft(tmp_path / "other", alpha=16)
    assert weights_hash(beside(tmp_path / "base", other)) not in prints
    assert with_adapter(tmp_path / "base", None) == tmp_path / "base"


def test_label_export_train_label_again_and_diff(tmp_path, monkeypatch, capsys):
    """The loop of ``rowmill help adapters``, with mlx-lm's own trainer and its own inference as the reference."""
    from mlx_lm.utils import load

    from runner.cli import main

    monkeypatch.chdir(tmp_path)
    save_tiny_llama(Path("base"))
    rows = [f"row {number},{'ham' if number % 2 else 'spam'}" for number in range(12)]
    Path("rows.csv").write_text("\n".join(["text,kind", *rows]))
    words = ["dataset=csv", "dataset.path=rows.csv", "job=label", "job.labels=[ham,spam]", "prompt.user={{ text }}?"]
    words += ["model.path=base", "prompt.chat=false", "engine.backend=cpu", "dataset.gold=kind"]
    rowmill.run([*words, "run_name=before"])
    assert main(["export", "outputs/before", "data/train.jsonl", "--format", "chat", "--validation", "0.3"]) == 0
    template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    (tmp_path / "base" / "chat_template.jinja").write_text(template)
    given = "--train --model base --data data --adapter-path trained --iters 6 --batch-size 1 --num-layers 2"
    train = [sys.executable, "-m", "mlx_lm", "lora", *given.split(), "--val-batches", "0", "--learning-rate", "0.01"]
    subprocess.run(train, check=True, capture_output=True)  # of its own: a run's activations have no gradients
    (tmp_path / "base" / "chat_template.jinja").unlink()
    figures = rowmill.run([*words, "run_name=after", "model.adapter=trained"])
    assert figures["errors"] == 0
    assert main(["diff", "outputs/before", "outputs/after"]) == 0
    folder = with_adapter(Path("base"), "trained")
    ours, _ = weights.load(folder, set_up("cpu"))
    theirs = load("base", adapter_path="trained")[0]
    np.testing.assert_allclose(np.array(ours(TOKENS)), np.array(theirs(TOKENS)), atol=2e-4)
    assert np.abs(np.array(ours(TOKENS)) - np.array(load("base")[0](TOKENS))).max() > 0.01
    identity = rowmill.open_run("outputs/after").identity["model"]
    assert (
        identity["adapter"] == "trained"
        and identity["weights"] != rowmill.open_run("outputs/before").identity["model"]["weights"]
    )
    assert read_config(folder)["model_type"] == "llama"
