"""Checkpoints of GPTQ, AWQ, compressed-tensors, FP8, bitsandbytes and NVFP4: the numbers that they stand for."""

import json

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from runner.engine import weights
from runner.machine.device import set_up
from runner.models.resolve import read_config
from runner.models.tensors import weight_bytes
from runner.types import UserError
from tests.support import quantised as q

TOKENS = mx.array([[5, 3, 8, 1, 7]])
EXACT = {
    "gptq": (q.gptq, {}, {}),
    "gptq symmetric, without g_idx": (q.gptq, {"sym": True}, {"symmetric": True, "index": False}),
    "gptq of 3 bits": (q.gptq, {"bits": 3}, {"bits": 3}),
    "gptq of 8 bits in groups of 64": (q.gptq, {"bits": 8, "group_size": 64}, {"bits": 8, "size": 64}),
    "gptq of rows": (q.gptq, {"group_size": -1}, {"size": -1}),
    "gptq, second version": (q.gptq, {"checkpoint_format": "gptq_v2"}, {"version": "gptq_v2"}),
    "auto-round": (
        q.gptq,
        {"quant_method": "auto-round", "packing_format": "auto_round:auto_gptq", "sym": True},
        {"symmetric": True},
    ),
    "awq": (q.awq, {}, {}),
    "awq in groups of 64": (q.awq, {"group_size": 64}, {"size": 64}),
    "compressed-tensors": (q.compressed, {}, {}),
    "compressed-tensors, asymmetric": (q.compressed, {}, {"symmetric": False}),
    "compressed-tensors of 8 bits and rows": (
        q.compressed,
        {"config_groups": {"group_0": {"weights": {"num_bits": 8}}}},
        {"bits": 8, "size": -1},
    ),
    "compressed-tensors of bytes": (q.signed_bytes, {}, {}),
    "compressed-tensors of weights that are turned": (
        q.compressed,
        {"transform_config": {"config_groups": {"R1": {"apply": [{"location": "weight_output"}]}}}},
        {},
    ),
    "compressed-tensors of bytes, and of inputs": (
        q.signed_bytes,
        {},
        {"more": ["input_scale", "input_zero_point", "output_zero_point", "q_scale"]},
    ),
    "bitsandbytes of 8 bits": (q.signed_bytes, {"quant_method": "bitsandbytes"}, {"name": "SCB"}),
}
ROUNDED = {
    "gptq by desc_act": (q.gptq, {"desc_act": True}, {"ordered": True}),
    "gptq in groups of 16": (q.gptq, {"group_size": 16}, {"size": 16}),
    "fp8 in blocks": (q.fp8, {"weight_block_size": [48, 32]}, {"block": (48, 32)}),
    "fp8 of tensors": (q.fp8, {}, {"block": (999, 999), "more": ["activation_scale"]}),
    "fp8 of rows": (
        q.fp8,
        {"quant_method": "compressed-tensors", "format": "float-quantized"},
        {"block": (1, 999), "name": "weight_scale", "more": ["input_scale"]},
    ),
    "bitsandbytes nf4": (q.nf4, {}, {"nested": False}),
    "bitsandbytes nf4, nested": (q.nf4, {}, {}),
    "bitsandbytes nf4, stored as float16": (q.nf4, {}, {"storage": "float16"}),
    "bitsandbytes nf4, stored as float32": (q.nf4, {}, {"storage": "float32"}),
    "nvfp4": (q.nvfp4, {}, {}),
    "nvfp4 of ModelOpt": (q.nvfp4, {"quant_method": "modelopt", "quant_algo": "NVFP4"}, {"modelopt": True}),
}


@pytest.mark.parametrize("case", [*EXACT, *ROUNDED])
def test_on_a_cpu_weights_are_the_numbers_that_the_checkpoint_stands_for(tmp_path, case):
    writer, settings, options = (EXACT | ROUNDED)[case]
    quantised, plain = q.quantised_folders(tmp_path, writer, settings, **options)
    found, wanted = (q.flat(weights.load(folder, set_up("cpu"))[0]) for folder in (quantised, plain))
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("case", [*EXACT, *ROUNDED])
def test_elsewhere_levels_stay_as_they_are_and_what_mlx_has_not_is_rounded_to_more_bits(tmp_path, case):
    writer, settings, options = (EXACT | ROUNDED)[case]
    quantised, plain = q.quantised_folders(tmp_path, writer, settings, **options)
    model, _ = weights.load_lazily(quantised, packed=True)
    wanted = q.flat(weights.load_lazily(plain)[0])
    held = tree_flatten(model.parameters())
    assert {array.dtype for _, array in held} <= {mx.uint32, mx.float16}
    for name, layer in model.named_modules():
        if "scales" not in layer:
            continue
        found = mx.dequantize(layer.weight, layer.scales, layer.biases, layer.group_size, layer.bits, dtype=mx.float32)
        exact = wanted[f"{name}.weight"]
        step = 0.01 if case in EXACT else 2.2 / (1 << layer.bits)
        assert np.abs(np.array(found) - exact).max() <= step * np.abs(exact).max(), name
    config = read_config(quantised)
    assert weight_bytes(quantised, config, "metal") == sum(array.nbytes for _, array in held)
    assert weight_bytes(quantised, config, "cpu") == 4 * sum(array.size for array in wanted.values())


@pytest.mark.parametrize("case", ["gptq by desc_act", "fp8 in blocks", "bitsandbytes nf4", "nvfp4"])
def test_what_is_rounded_is_told_with_how_far_it_is_from_the_checkpoints_numbers(tmp_path, caplog, case):
    writer, settings, options = ROUNDED[case]
    quantised, plain = q.quantised_folders(tmp_path, writer, settings, **options)
    caplog.set_level("INFO", "rowmill")
    model, _ = weights.load_lazily(quantised, packed=True)
    (told,) = (message for message in caplog.messages if "rounded" in message)
    wanted = q.flat(weights.load_lazily(plain)[0])
    found, count = [], 0
    for name, layer in model.named_modules():
        if "scales" in layer:
            parts = layer.weight, layer.scales, layer.biases, layer.group_size, layer.bits
            exact = wanted[f"{name}.weight"]
            off = np.array(mx.dequantize(*parts, dtype=mx.float32)) - exact
            found.append(np.square(off).sum() / np.square(exact).sum())
            count += 1
            bits = layer.bits
    method = json.loads((quantised / "config.json").read_text())["quantization_config"]["quant_method"]
    assert told.startswith(f"matrices quantised by {method}: {count} rounded to {bits} bits in groups of 32, ")
    percent = float(told.partition("32, ")[2].partition("%")[0])
    assert percent == pytest.approx(100 * np.sqrt(np.mean(found)), rel=0.2)


def test_nothing_is_told_of_levels_that_stay_as_they_are_nor_on_a_cpu(tmp_path, caplog):
    caplog.set_level("INFO", "rowmill")
    for name, writer, packed in (("gptq", q.gptq, True), ("nf4", q.nf4, False)):
        (tmp_path / name).mkdir()
        weights.load_lazily(q.quantised_folders(tmp_path / name, writer)[0], packed)
    assert "rounded" not in caplog.text


def experts(tensors):
    """mlx-lm's stacked experts, one by one as on the hub."""
    single = {}
    for name, array in tensors.items():
        if ".switch_mlp." not in name:
            single[name] = array
            continue
        for number in range(len(array)):
            single[name.replace("switch_mlp", f"experts.{number}")] = array[number]
    return single


MOE = {"num_experts": 2, "num_experts_per_tok": 1, "decoder_sparse_step": 1, "mlp_only_layers": []}
MOE |= {"moe_intermediate_size": 64, "norm_topk_prob": True, "rope_theta": 10000}


@pytest.mark.parametrize("writer", [q.gptq, q.awq, q.fp8])
def test_experts_are_stacked_whatever_they_are_quantised_by(tmp_path, writer):
    options = {"block": (128, 128)} if writer is q.fp8 else {}
    quantised, plain = q.quantised_folders(tmp_path, writer, family="qwen3_moe", expand=experts, shape=MOE, **options)
    model, _ = weights.load_lazily(quantised, packed=True)
    wanted, _ = weights.load_lazily(plain)
    layer, exact = (one.layers[0].mlp.switch_mlp.down_proj for one in (model, wanted))
    assert (layer.bits, layer.weight.dtype) == (8 if writer is q.fp8 else 4, mx.uint32)
    found = mx.dequantize(layer.weight, layer.scales, layer.biases, layer.group_size, layer.bits, dtype=mx.float32)
    np.testing.assert_allclose(
        np.array(found), np.array(exact.weight), atol=0.01 * np.abs(np.array(exact.weight)).max()
    )
    on_a_cpu = weights.load(quantised, set_up("cpu"))[0]
    np.testing.assert_allclose(
        np.array(on_a_cpu(TOKENS)), np.array(weights.load(plain, set_up("cpu"))[0](TOKENS)), atol=1e-4
    )


LATENT = {"q_lora_rank": 32, "kv_lora_rank": 64, "qk_rope_head_dim": 32, "qk_nope_head_dim": 32, "v_head_dim": 32}
LATENT |= {"n_routed_experts": None, "num_key_value_heads": 2}


def test_a_matrix_that_a_model_takes_apart_by_columns_becomes_plain(tmp_path):
    def joined(tensors):
        """mlx-lm's two matrices of latent attention as the one on the hub."""
        keys, values = (f"model.layers.0.self_attn.{part}.weight" for part in ("embed_q", "unembed_out"))
        both = mx.concatenate([tensors.pop(keys).swapaxes(1, 2), tensors.pop(values)], axis=1)
        return tensors | {"model.layers.0.self_attn.kv_b_proj.weight": both.reshape(-1, both.shape[-1])}

    quantised, plain = q.quantised_folders(tmp_path, q.gptq, family="deepseek_v3", expand=joined, shape=LATENT)
    model, _ = weights.load_lazily(quantised, packed=True)
    wanted, _ = weights.load_lazily(plain)
    attention, exact = (one.layers[0].self_attn for one in (model, wanted))
    assert attention.o_proj.bits == 4
    np.testing.assert_allclose(np.array(attention.embed_q.weight), np.array(exact.embed_q.weight), atol=1e-3)


def test_numbers_in_fp8_whose_scale_is_ones_are_not_taken_for_whole_numbers(tmp_path):
    """mlx-lm's own ministral3 multiplies the bytes."""
    shape = {"rope_parameters": {"rope_theta": 10000.0, "llama_4_scaling_beta": 0.1}, "layer_types": ["full_attention"]}
    shape["rope_parameters"] |= {"original_max_position_embeddings": 77}
    quantised, plain = q.quantised_folders(
        tmp_path, q.fp8, family="ministral3", shape=shape, block=(999, 999), more=["activation_scale"]
    )
    found, wanted = (weights.load(folder, set_up("cpu"))[0](TOKENS) for folder in (quantised, plain))
    np.testing.assert_allclose(np.array(found), np.array(wanted), atol=1e-4)


def test_convert_begins_with_the_numbers_that_the_checkpoint_stands_for(tmp_path, capsys):
    from runner.cli import main

    quantised, plain = q.quantised_folders(tmp_path, q.gptq)
    for source in (quantised, plain):
        words = f"model.path={source} convert.bits=8 convert.group_size=32 convert.folder={source}-8"
        assert main(["convert", *words.split()]) == 0, capsys.readouterr().err
    found, wanted = (q.flat(weights.load(tmp_path / f"{name}-8", set_up("cpu"))[0]) for name in ("quantised", "plain"))
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, atol=0.005 * np.abs(value).max(), err_msg=name)


@pytest.mark.parametrize("name", ["hf_quant_config.json", "quantize_config.json", "text_config"])
def test_what_says_how_weights_are_quantised_may_lie_elsewhere(tmp_path, name):
    writer = q.nvfp4 if name == "hf_quant_config.json" else q.gptq
    quantised, plain = q.quantised_folders(tmp_path, writer, **({"modelopt": True} if writer is q.nvfp4 else {}))
    config = json.loads((quantised / "config.json").read_text())
    told = config.pop("quantization_config")
    if name == "text_config":
        config[name] = {"quantization_config": told}
    elif writer is q.nvfp4:
        (quantised / name).write_text(json.dumps({"quantization": {"quant_algo": "NVFP4", "group_size": 16}}))
    else:
        (quantised / name).write_text(json.dumps({"bits": 4, "group_size": 32, "desc_act": False}))
    (quantised / "config.json").write_text(json.dumps(config))
    found, wanted = (weights.load(folder, set_up("cpu"))[0](TOKENS) for folder in (quantised, plain))
    np.testing.assert_allclose(np.array(found), np.array(wanted), atol=1e-4)


TURNS = {"config_groups": {"R4": {"apply": [{"location": "weight_input"}, {"location": "input"}]}}}


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"quant_method": "hqq"}, "hqq"),
        ({"quant_method": "aqlm"}, "aqlm"),
        ({"quant_method": "awq", "version": "gemv"}, "awq in the layout gemv"),
        (
            {"quant_method": "compressed-tensors", "transform_config": TURNS},
            r"compressed-tensors with matrices that turn .* \(transform_config\)",
        ),
        ({"quant_method": "auto-round", "packing_format": "auto_round:auto_gptq", "sym": False}, "auto-round in the"),
    ],
)
def test_what_nothing_here_reads_is_named_with_a_way_out(tmp_path, settings, named):
    quantised, _ = q.quantised_folders(tmp_path, q.gptq, settings)
    for reads in (weights.load_lazily, lambda folder: weight_bytes(folder, read_config(folder), "metal")):
        with pytest.raises(UserError, match=f"it is quantised by {named}.* or a GGUF file of it") as raised:
            reads(quantised)
        assert raised.value.exit_code == 3 and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("writer", "options", "lacking", "message"),
    [
        (q.gptq, {}, "scales", "as it is quantised by gptq: .*scales"),
        (q.fp8, {"block": (128, 128)}, "weight_scale_inv", "up_proj.weight is uint8, without scales"),
        (q.compressed, {}, "weight_shape", "as it is quantised by compressed-tensors"),
        (q.nf4, {}, "quant_map", "as it is quantised by bitsandbytes"),
    ],
)
@pytest.mark.parametrize("packed", [True, False])
def test_a_checkpoint_that_lacks_a_part_ends_in_one_line(tmp_path, writer, options, lacking, message, packed):
    quantised, _ = q.quantised_folders(tmp_path, writer, **options)
    file = str(quantised / "model.safetensors")
    tensors = mx.load(file)
    mx.eval(tensors)
    mx.save_safetensors(
        file,
        {name: array for name, array in tensors.items() if not name.endswith(f"up_proj.{lacking}")}
        if lacking != "quant_map"
        else {name: array for name, array in tensors.items() if lacking not in name},
    )
    with pytest.raises(UserError, match=message) as raised:
        weights.load_lazily(quantised, packed=packed)
    assert raised.value.exit_code == 3 and "\n" not in str(raised.value)
