"""Promises of runner/models/gguf.py, shown on tiny GGUF files."""

import sys

import pytest

from runner.engine import weights
from runner.machine.device import Device
from runner.models import gguf, resolve, transfer
from runner.models.tensors import context_length
from runner.types import UserError

CPU = Device("cpu", "a CPU", None, 1 << 34)
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
WIDTH, HEADS, KV_HEADS, INNER, LAYERS = 64, 4, 2, 96, 2


pytestmark = pytest.mark.usefixtures("cpu")


def byte_tokens():
    from tokenizers import pre_tokenizers

    return sorted(pre_tokenizers.ByteLevel.alphabet())


def tiny_metadata(mx, **changes):
    def number(value):
        return mx.array(value, dtype=mx.uint32)

    tokens = [*CONTROL, *byte_tokens(), "12", "Ġa", "ĊĊ"]
    metadata = {
        "general.architecture": "llama",
        "llama.embedding_length": number(WIDTH),
        "llama.block_count": number(LAYERS),
        "llama.feed_forward_length": number(INNER),
        "llama.attention.head_count": number(HEADS),
        "llama.attention.head_count_kv": number(KV_HEADS),
        "llama.attention.layer_norm_rms_epsilon": mx.array(1e-5),
        "llama.rope.freq_base": mx.array(100000.0),
        "llama.context_length": number(512),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": mx.array([3] * len(CONTROL) + [1] * (len(tokens) - len(CONTROL)), dtype=mx.int32),
        "tokenizer.ggml.merges": ["1 2", "Ġ a", "Ċ Ċ"],
        "tokenizer.ggml.bos_token_id": number(1),
        "tokenizer.ggml.eos_token_id": number(2),
        "tokenizer.ggml.eot_token_id": number(0),
        "tokenizer.chat_template": "{% for m in messages %}{{ m['content'] }}{% endfor %}",
    }
    metadata.update(changes)
    return {key: value for key, value in metadata.items() if value is not None}


def permuted(mx, tensor, heads):
    """Query or key rows as llama.cpp's own converter lays them (LlamaModel.permute in convert_hf_to_gguf.py)."""
    rows, columns = tensor.shape
    return tensor.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def tiny_gguf(path, dtype="float32", tied=True, **changes):
    """Write a tiny random llama in GGUF's layout; the model that it must become, as mlx-lm names its weights."""
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.models.llama import Model, ModelArgs

    metadata = tiny_metadata(mx, **changes)
    size = len(metadata["tokenizer.ggml.tokens"])
    arguments = ModelArgs("llama", WIDTH, LAYERS, INNER, HEADS, 1e-5, size, None, 512, KV_HEADS, rope_theta=1e5)
    arguments.tie_word_embeddings = tied
    model = Model(arguments)
    model.load_weights([(k, mx.random.normal(v.shape) * 0.3) for k, v in tree_flatten(model.parameters())])
    model.set_dtype(getattr(mx, dtype))
    mx.save_gguf(str(path), gguf_tensors(mx, dict(tree_flatten(model.parameters()))), metadata)
    return model


def gguf_tensors(mx, weights):
    # The importer's own table, read backwards: what is tested is the rest of the way.
    from runner.models.gguf import _NAMES

    back = {theirs: ours for ours, theirs in _NAMES.items()}
    tensors = {}
    for name, tensor in weights.items():
        part, _, leaf = name.removeprefix("model.layers.").rpartition(".")
        block, _, inner = part.partition(".")
        heads = {"self_attn.q_proj": HEADS, "self_attn.k_proj": KV_HEADS}.get(inner)
        ours = f"blk.{block}.{back[inner]}" if inner in back else back[part]
        tensors[f"{ours}.{leaf}"] = permuted(mx, tensor, heads) if heads else tensor
    return tensors


@pytest.mark.parametrize("tied", [True, False])
def test_a_converted_gguf_computes_what_the_original_does(tmp_path, cache, tied):
    import mlx.core as mx

    original = tiny_gguf(tmp_path / "tiny.gguf", tied=tied)
    folder = resolve.resolve(str(tmp_path / "tiny.gguf"))
    assert resolve.resolve(str(tmp_path / "tiny.gguf")) == folder
    assert folder.is_relative_to(cache)
    model, config = weights.load(folder, CPU)
    tokens = mx.array([[5, 6, 7, 8, 9]])
    assert mx.allclose(model(tokens), original(tokens), atol=1e-4)
    assert config["tie_word_embeddings"] == tied
    assert (config["rms_norm_eps"], config["rope_theta"], config["eos_token_id"]) == (1e-5, 1e5, [2, 0])
    assert context_length(config) == 512


def test_half_precision_stays(tmp_path, cache):
    import mlx.core as mx

    tiny_gguf(tmp_path / "tiny.gguf", "float16")
    weights = mx.load(str(resolve.resolve(str(tmp_path / "tiny.gguf")) / "model.safetensors"))
    assert {w.dtype for w in weights.values()} == {mx.float16}


def test_quantised_tensors_keep_their_bits_with_an_override_for_each_layer_that_differs():
    import mlx.core as mx

    def layer(name, bits):
        words, groups = mx.zeros((8, 64 * bits // 32), dtype=mx.uint32), mx.zeros((8, 2))
        return {f"{name}.weight": words, f"{name}.scales": groups, f"{name}.biases": groups}

    # MLX writes no GGUF of several widths to import.
    table = gguf._quantization({**layer("a", 4), **layer("b", 4), **layer("model.embed_tokens", 8)})
    assert table == {"group_size": 32, "bits": 4, "model.embed_tokens": {"group_size": 32, "bits": 8}}


def test_the_tokenizer_splits_digits_and_knows_special_tokens(tmp_path, cache):
    tiny_gguf(tmp_path / "tiny.gguf")
    folder = resolve.resolve(str(tmp_path / "tiny.gguf"))
    tokenizer = weights.load_tokenizer(folder, resolve.read_config(folder))
    ids = tokenizer.encode("<|im_start|>\n\n12 a<|im_end|>")
    assert tokenizer.convert_ids_to_tokens(ids) == ["<|im_start|>", "ĊĊ", "1", "2", "Ġa", "<|im_end|>"]
    text = "naïve 🎉\n\n\t x  12½ don't"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.eos_token_ids == {0, 2}
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "hi"


def test_without_digit_splitting_numbers_merge_and_bos_is_added(tmp_path, cache):
    import mlx.core as mx

    changes = {"tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.add_bos_token": mx.array(True)}
    tiny_gguf(tmp_path / "tiny.gguf", **changes, **{"tokenizer.chat_template": None})
    folder = resolve.resolve(str(tmp_path / "tiny.gguf"))
    tokenizer = weights.load_tokenizer(folder, resolve.read_config(folder))
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode("12")) == ["<|im_start|>", "12"]
    assert not tokenizer.has_chat_template


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("general.architecture", "mamba", "architecture mamba.*only llama"),
        ("tokenizer.ggml.model", "llama", "tokenizer llama.*only gpt2"),
        ("tokenizer.ggml.pre", "tekken", "pre-tokenizer tekken.*smollm"),
        ("llama.rope.scaling.type", "yarn", "scaled rotary"),
        ("llama.context_length", None, "lacks llama.context_length"),
    ],
)
def test_a_gguf_that_is_not_understood_is_refused(tmp_path, cache, key, value, message):
    tiny_gguf(tmp_path / "tiny.gguf", **{key: value})
    with pytest.raises(UserError, match=message) as raised:
        resolve.resolve(str(tmp_path / "tiny.gguf"))
    assert raised.value.exit_code == 3
    assert list((cache / "models").iterdir()) == []


def test_a_damaged_gguf_does_not_end_the_process(tmp_path, cache):
    tiny_gguf(tmp_path / "tiny.gguf")
    whole = (tmp_path / "tiny.gguf").read_bytes()
    for name, content in {"cut": whole[: len(whole) // 2], "noise": b"GGUFxxxx" * 10, "empty": b""}.items():
        (tmp_path / f"{name}.gguf").write_bytes(content)
        with pytest.raises(UserError, match=r"not a readable GGUF|damaged"):
            resolve.resolve(str(tmp_path / f"{name}.gguf"))


def test_the_converter_runs_from_any_folder(tmp_path, cache, monkeypatch):
    (tmp_path / "runner").mkdir()
    (tmp_path / "runner" / "__init__.py").write_text("raise SystemExit('not ours')")
    tiny_gguf(tmp_path / "tiny.gguf")
    monkeypatch.chdir(tmp_path)
    assert resolve.resolve("tiny.gguf").is_dir()


def test_the_conversion_tells_how_much_of_the_file_is_read(tmp_path, cache, monkeypatch):
    tiny_gguf(tmp_path / "tiny.gguf")
    read = []
    monkeypatch.setattr(transfer.Bar, "update", lambda self, n: read.append(n))
    resolve.resolve(str(tmp_path / "tiny.gguf"))
    tensors = gguf.GGUFReader(tmp_path / "tiny.gguf").tensors
    assert read == [tensor.n_bytes for tensor in tensors]


def python_that(tmp_path, monkeypatch, line):
    """Let child processes be the shell script ``line`` instead of this Python; ``$PYTHON`` is the real one."""
    script = tmp_path / "python"
    script.write_text(f"#!/bin/sh\nPYTHON={sys.executable}\n{line}\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))


def test_the_converter_is_imported_from_where_this_process_imports(tmp_path, cache, monkeypatch):
    tiny_gguf(tmp_path / "tiny.gguf")
    python_that(tmp_path, monkeypatch, 'exec "$PYTHON" -S "$@"')  # nothing is installed for the child
    assert resolve.resolve(str(tmp_path / "tiny.gguf")).is_dir()


@pytest.mark.parametrize("name", ["ABRT", "SEGV"])
def test_a_converter_that_dies_of_a_signal_means_a_damaged_file(tmp_path, cache, monkeypatch, name):
    (tmp_path / "a.gguf").touch()
    python_that(tmp_path, monkeypatch, f"echo terminate called >&2; ulimit -c 0; kill -{name} $$")
    with pytest.raises(UserError, match=f"a.gguf cannot be read .*SIG{name}.*may be damaged; fetch it again"):
        resolve.resolve(str(tmp_path / "a.gguf"))


def test_any_other_failure_of_the_converter_says_its_last_line(tmp_path, cache, monkeypatch):
    (tmp_path / "a.gguf").touch()
    python_that(tmp_path, monkeypatch, "printf 'Traceback:\\n  ...\\nImportError: no such thing\\n' >&2; exit 1")
    with pytest.raises(UserError) as raised:
        resolve.resolve(str(tmp_path / "a.gguf"))
    assert str(raised.value).endswith("a.gguf: the converter failed with exit code 1: ImportError: no such thing")
