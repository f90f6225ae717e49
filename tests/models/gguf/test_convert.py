"""Promises of runner/models/gguf/convert.py and of its process, shown on tiny GGUF files."""

import resource
import sys
from types import SimpleNamespace

import gguf
import numpy as np
import pytest
import yaml

from runner.engine import weights
from runner.machine.device import Device
from runner.models import resolve, transfer
from runner.models.gguf import convert
from runner.models.gguf.blocks import Form
from runner.models.gguf.pieces import CONVERSION
from runner.models.tensors import context_length, read_tensors, weights_hash
from runner.types import UserError
from tests.support import ggufs
from tests.support.llama import Llama

CPU = Device("cpu", "a CPU", None, 1 << 34)
SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "rope_theta": 1e5}

pytestmark = pytest.mark.usefixtures("cpu")


def tiny_gguf(path, dtype="float32", tied=True, **changes):
    """Write a tiny random llama; the model that it must become, as mlx-lm names its weights."""
    import mlx.core as mx

    model, config = ggufs.random_model("llama", **SMALL, tie_word_embeddings=tied)
    model.set_dtype(getattr(mx, dtype))
    keys = ggufs.settings("llama", config) | changes
    keys = {key: value for key, value in keys.items() if value is not None}
    ggufs.write(path, keys.pop("general.architecture", "llama"), keys, ggufs.tensors("llama", model, config))
    return model


@pytest.mark.parametrize("tied", [True, False])
def test_a_converted_gguf_computes_what_the_original_does(tmp_path, cache, tied, in_process):
    import mlx.core as mx

    path = tmp_path / ("tiny.gguf" if tied else "sha256-0f1e")  # as Ollama names them
    original = tiny_gguf(path, tied=tied)
    folder = resolve.resolve(str(path))
    assert resolve.resolve(str(path)) == folder
    assert folder.is_relative_to(cache)
    model, config = weights.load(folder, CPU)
    tokens = mx.array([[5, 6, 7, 8, 9]])
    assert mx.allclose(model(tokens), original(tokens), atol=1e-4)
    assert config["tie_word_embeddings"] == tied
    assert (config["rms_norm_eps"], config["rope_theta"], config["eos_token_id"]) == (1e-5, 1e5, [2, 0])
    assert context_length(config) == 512


def test_a_large_model_is_written_in_several_files(tmp_path, cache, in_process, monkeypatch):
    import mlx.core as mx

    monkeypatch.setattr(convert, "SHARD_BYTES", 100_000)
    original = tiny_gguf(tmp_path / "tiny.gguf")
    folder = resolve.resolve(str(tmp_path / "tiny.gguf"))
    names = sorted(file.name for file in folder.glob("*.safetensors"))
    assert len(names) > 1 and names[0] == f"model-00001-of-{len(names):05d}.safetensors"
    tokens = mx.array([[5, 6, 7]])
    assert mx.allclose(weights.load(folder, CPU)[0](tokens), original(tokens), atol=1e-4)


def test_half_precision_stays(tmp_path, cache, in_process):
    import mlx.core as mx

    tiny_gguf(tmp_path / "tiny.gguf", "float16")
    weights = mx.load(str(resolve.resolve(str(tmp_path / "tiny.gguf")) / "model.safetensors"))
    assert {w.dtype for w in weights.values()} == {mx.float16}


def test_quantised_tensors_keep_their_bits_with_an_override_for_each_layer_that_differs():
    # A private name: a file of these forms alone would be large.
    table = convert._quantization({"a": Form(4), "b": Form(4, exact=False), "model.embed_tokens": Form(8)})
    assert table == {"group_size": 32, "bits": 4, "model.embed_tokens": {"group_size": 32, "bits": 8}}
    table = convert._quantization({"a": Form(8), "b": Form(8), "experts": Form(4, mode="mxfp4")})
    plain = {"group_size": 32, "bits": 8, "mode": "affine"}
    assert table == {**plain, "experts": {"group_size": 32, "bits": 4, "mode": "mxfp4"}}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("general.architecture", "mamba", "architecture mamba is not known"),
        ("tokenizer.ggml.model", "t5", "tokenizer t5 is not known"),
        ("tokenizer.ggml.pre", "new", "pre-tokenizer new is not known.*smollm"),
        ("llama.context_length", None, "lacks llama.context_length"),
    ],
)
def test_a_gguf_that_is_not_understood_is_refused(tmp_path, cache, key, value, message, in_process):
    tiny_gguf(tmp_path / "tiny.gguf", **{key: value})
    with pytest.raises(UserError, match=message) as raised:
        resolve.resolve(str(tmp_path / "tiny.gguf"))
    assert raised.value.exit_code == 3
    assert list((cache / "models").iterdir()) == []


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("llama.attention.head_count", 0, "0, and not a whole number above 0"),
        ("llama.attention.head_count", 4.0, "4.0, and not a whole number above 0"),
        ("llama.attention.head_count_kv", "x", "'x', and not a number"),
        ("llama.block_count", "2", "'2', and not a whole number above 0"),
        ("llama.context_length", "512", "'512', and not a whole number above 0"),
        ("llama.context_length", 0, "0, and not a whole number above 0"),
        ("llama.rope.freq_base", "10000", "'10000', and not a number above 0"),
        ("llama.rope.freq_base", 0.0, "0.0, and not a number above 0"),
        ("llama.attention.layer_norm_rms_epsilon", float("nan"), "nan, and not a number"),
        ("llama.nextn_predict_layers", "1", "'1', and not a number"),
        ("tokenizer.ggml.bos_token_id", "1", "'1', and not a token's number"),
        ("tokenizer.ggml.eos_token_ids", ["x"], r"\['x'\], and not a list of tokens' numbers"),
        ("tokenizer.ggml.tokens", [1, 2], r"\[1, 2\], and not a list of texts"),
        ("tokenizer.ggml.merges", [1], r"\[1\], and not a list of texts"),
        ("tokenizer.ggml.add_bos_token", "false", "'false', and not true or false"),
        ("tokenizer.chat_template", 3, "3, and not a text"),
        ("split.count", "2", "'2', and not a whole number"),
    ],
)
def test_a_setting_that_is_not_what_it_has_to_be_is_named(tmp_path, key, value, message):
    tiny_gguf(tmp_path / "tiny.gguf", **{key: value})
    with pytest.raises(UserError, match=f"tiny.gguf cannot be converted: its {key} is {message}; ") as raised:
        lines_of_converting(tmp_path / "tiny.gguf")
    assert raised.value.exit_code == 3


def test_a_damaged_gguf_is_refused(tmp_path, cache, in_process):
    tiny_gguf(tmp_path / "tiny.gguf")
    whole = (tmp_path / "tiny.gguf").read_bytes()
    for name, content in {"cut": whole[: len(whole) // 2], "noise": b"GGUFxxxx" * 10, "empty": b""}.items():
        (tmp_path / f"{name}.gguf").write_bytes(content)
        with pytest.raises(UserError, match=r"not a readable GGUF|damaged"):
            resolve.resolve(str(tmp_path / f"{name}.gguf"))


def lines_of_converting(path):
    """What a conversion tells people."""
    said = []
    (path.parent / "converted").mkdir()
    convert.convert_gguf(convert.Asked(str(path), str(path.parent / "converted")), said.append)
    return [line for line in said if isinstance(line, str)]


def test_tensors_of_nothing_but_zeros_are_told_as_a_download_that_was_cut_off_may_leave_them(tmp_path):
    tiny_gguf(tmp_path / "tiny.gguf")
    whole = (tmp_path / "tiny.gguf").read_bytes()
    (tmp_path / "tiny.gguf").write_bytes(whole[: -len(whole) // 3] + bytes(len(whole) // 3 + 1))
    (line,) = lines_of_converting(tmp_path / "tiny.gguf")
    assert "tensors of nothing but zeros (blk.1." in line
    assert line.endswith("): if the download was cut off, fetch the file again")


def test_quantised_tensors_of_nothing_but_zeros_are_told(tmp_path):
    model, config = ggufs.random_model("llama", **SMALL)
    tensors = ggufs.tensors("llama", model, config)
    for at, kind in enumerate((gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.MXFP4)):
        blocks = gguf.quants.quantize(tensors[f"blk.{at}.ffn_up.weight"], kind)
        tensors[f"blk.{at}.ffn_up.weight"], tensors[f"blk.{at}.ffn_gate.weight"] = (kind, blocks), (kind, 0 * blocks)
    ggufs.write(tmp_path / "tiny.gguf", "llama", ggufs.settings("llama", config), tensors)
    (line,) = lines_of_converting(tmp_path / "tiny.gguf")
    assert line.startswith("2 tensors of nothing but zeros (blk.0.ffn_gate.weight, blk.1.ffn_gate.weight):")


def test_the_conversion_tells_how_much_of_the_file_is_read_and_what_is_left_out(tmp_path, cache, monkeypatch, caplog):
    (tmp_path / "runner").mkdir()
    (tmp_path / "runner" / "__init__.py").write_text("raise SystemExit('not ours')")
    monkeypatch.chdir(tmp_path)  # the converter runs from any folder
    changes = {"llama.attention.sliding_window": 128, "tokenizer.ggml.pre": "default", "tokenizer.chat_template": None}
    tiny_gguf(tmp_path / "tiny.gguf", **changes)
    read = []
    monkeypatch.setattr(transfer.Bar, "update", lambda self, n: read.append(n))
    with caplog.at_level("INFO", "rowmill"):
        resolve.resolve(str(tmp_path / "tiny.gguf"))
    tensors = gguf.GGUFReader(tmp_path / "tiny.gguf").tensors
    assert read == [tensor.n_bytes for tensor in tensors]
    assert "mlx-lm's llama does not have: llama.attention.sliding_window" in caplog.text
    assert "does not say how words are cut" in caplog.text
    assert "has no chat template: a run needs prompt.chat=false, or a chat_template.jinja" in caplog.text


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


def quantised_gguf(path, kind, seed=0):
    """A llama whose matrices are all of one type; the widths of K-quants are multiples of 256."""
    sizes = {"hidden_size": 256, "num_hidden_layers": 2, "intermediate_size": 256, "head_dim": 64}
    model, config = ggufs.random_model("llama", **sizes, tie_word_embeddings=True)
    plain = ggufs.tensors("llama", model, config)
    tensors = {name: array if array.ndim == 1 else (kind, blocks_of(kind, array)) for name, array in plain.items()}
    return ggufs.write(path, "llama", ggufs.settings("llama", config), tensors)


def blocks_of(kind, array):
    """The package's own blocks, or random ones of small numbers where it cannot make any."""
    try:
        return gguf.quants.quantize(array * 0.2, kind)
    except NotImplementedError:
        weights, size = gguf.GGML_QUANT_SIZES[kind]
        random = np.random.default_rng(len(array))
        found = random.integers(0, 256, (len(array), array.shape[1] // weights, size), np.uint8)
        assert kind == gguf.GGMLQuantizationType.Q6_K
        found[..., -2:] = np.array(2e-5, "<f2").reshape(1).view(np.uint8)
        return found.reshape(len(array), -1)


@pytest.mark.parametrize("kind", ["Q4_1", "Q8_0", "Q6_K", "F16"])
def test_a_disk_that_cannot_take_the_converted_weights_is_seen_before_they_are_written(tmp_path, monkeypatch, kind):
    path = quantised_gguf(tmp_path / "model.gguf", gguf.GGMLQuantizationType[kind])
    folder = tmp_path / "models" / ".part-1" / "model"
    folder.mkdir(parents=True)
    needed = []
    monkeypatch.setattr(convert, "check_room", lambda place, size: needed.append((place, size)))
    convert.convert_gguf(convert.Asked(str(path), str(folder)))
    assert needed == [(tmp_path / "models", sum(one.size_bytes for one in read_tensors(folder).values()))]
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda place: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match=r"the converted model takes .* but only 1.0 kB are free: make room") as refusal:
        transfer.check_room(*needed[0])
    assert refusal.value.exit_code == 3


def test_a_disk_that_fills_up_meanwhile_ends_a_conversion_with_3(tmp_path):
    import mlx.core as mx

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(UserError, match=r"model.safetensors cannot be written .*Make room, then") as refusal:
            transfer.save_tensors(tmp_path / "model.safetensors", {"weight": mx.zeros(10_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert refusal.value.exit_code == 3


def test_what_rounding_loses_is_measured_told_and_kept_beside_the_model(tmp_path):
    """The figure of the file is that of its own numbers, dequantised by the package."""
    import mlx.core as mx

    from runner.models.gguf.tokens.check import TEXT

    path = quantised_gguf(tmp_path / "six.gguf", gguf.GGMLQuantizationType.Q6_K)
    said = []
    (tmp_path / "out").mkdir()
    convert.convert_gguf(convert.Asked(str(path), str(tmp_path / "out")), said.append)
    kept = yaml.safe_load((tmp_path / "out" / CONVERSION).read_text())
    assert kept["file"] == "six.gguf" and kept["tensors"]["Q6_K"] == "8 bits in groups of 32, rounded"
    assert any("perplexity of a short text" in line for line in said if isinstance(line, str))
    model, config = weights.load(tmp_path / "out", CPU)
    assert config["quantization"] == {"group_size": 32, "bits": 8}
    ids = weights.load_tokenizer(tmp_path / "out", config).encode(TEXT)[:257]

    def perplexity(logits):
        losses = mx.logsumexp(logits, axis=-1) - mx.take_along_axis(logits, mx.array(ids[1:])[:, None], axis=-1)[:, 0]
        return float(mx.exp(mx.mean(losses)))

    assert kept["perplexity"]["tokens"] == 256
    assert kept["perplexity"]["converted"] == pytest.approx(perplexity(model(mx.array([ids[:-1]]))[0]), rel=1e-3)
    as_the_file_says = Llama(path).logits(ids[:-1]).astype(np.float32)
    assert kept["perplexity"]["file"] == pytest.approx(perplexity(mx.array(as_the_file_says)), rel=1e-3)


def test_model_bits_choose_the_width_and_are_a_folder_of_their_own(tmp_path, cache, in_process):
    path = quantised_gguf(tmp_path / "eight.gguf", gguf.GGMLQuantizationType.Q8_0)
    own = resolve.resolve(str(path))
    four = resolve.resolve(str(path), widths=resolve.Widths(4, 64))
    assert own != four and four.name.endswith("-4bit-gs64")
    assert resolve.read_config(four)["quantization"] == {"group_size": 64, "bits": 4}
    assert "perplexity" in yaml.safe_load((four / CONVERSION).read_text())
    assert "perplexity" not in yaml.safe_load((own / CONVERSION).read_text())  # nothing was rounded


def test_what_a_conversion_notes_is_no_part_of_the_models_identity(tmp_path, cache, in_process):
    tiny_gguf(tmp_path / "tiny.gguf")
    folder = resolve.resolve(str(tmp_path / "tiny.gguf"))
    before = weights_hash(folder)
    (folder / CONVERSION).unlink()
    assert weights_hash(folder) == before


def split(path, count):
    """The file in pieces, as llama.cpp's gguf-split names and fills them."""
    whole = gguf.GGUFReader(path)
    tensors = {t.name: np.array(t.data) for t in whole.tensors}
    names = [list(tensors)[at::count] for at in range(count)]
    fields = {k: f.contents() for k, f in whole.fields.items() if not k.startswith("GGUF") and "architecture" not in k}
    pieces = []
    for at in range(count):
        keys = {"split.no": at, "split.count": count, "split.tensors.count": len(tensors)}
        piece = path.with_name(f"{path.stem}-{at + 1:05d}-of-{count:05d}.gguf")
        pieces.append(
            ggufs.write(piece, "llama", (fields if at == 0 else {}) | keys, {n: tensors[n] for n in names[at]})
        )
    return pieces


def test_any_piece_of_a_split_file_finds_all_and_a_missing_one_is_named(tmp_path, cache, in_process):
    import mlx.core as mx

    original = tiny_gguf(tmp_path / "tiny.gguf")
    pieces = split(tmp_path / "tiny.gguf", 3)
    folders = {resolve.resolve(str(piece)) for piece in pieces}
    (folder,) = folders
    assert folder.name.startswith("tiny-") and "of-00003" not in folder.name
    tokens = mx.array([[5, 6, 7]])
    assert mx.allclose(weights.load(folder, CPU)[0](tokens), original(tokens), atol=1e-4)
    with pytest.raises(UserError, match=r"several GGUF models: tiny-00001-of-00003.gguf, tiny.gguf; give the path"):
        resolve.resolve(str(tmp_path))
    (tmp_path / "tiny.gguf").unlink()
    assert resolve.resolve(str(tmp_path)) == folder  # the folder of one model, in however many pieces
    pieces[0].rename(tmp_path / "other.gguf")
    with pytest.raises(UserError, match=r"is one of 3 pieces.*name it other-00001-of-00003.gguf"):
        resolve.resolve(str(tmp_path / "other.gguf"))
    with pytest.raises(UserError, match=r"one of 3 pieces, and of these tiny-00001-of-00003.gguf is missing"):
        resolve.resolve(str(pieces[1]))
