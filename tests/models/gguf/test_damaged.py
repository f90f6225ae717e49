"""Promises of runner/models/gguf/{file,reader,blocks}.py: what is no GGUF file, or not all of one, is told so."""

import gguf
import numpy as np
import pytest

from runner.models.gguf.convert import Asked, convert_gguf
from runner.models.gguf.file import GGUFFile
from runner.types import UserError
from tests.support import ggufs

pytestmark = pytest.mark.usefixtures("cpu")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A whole file."""
    original, config = ggufs.random_model("llama", num_hidden_layers=1)
    return ggufs.write_model(tmp_path_factory.mktemp("small") / "small.gguf", "llama", original, config)


def refusal(path, content):
    path.write_bytes(content)
    (path.parent / "out").mkdir(exist_ok=True)
    with pytest.raises(UserError) as refused:
        convert_gguf(Asked(str(path), str(path.parent / "out")))
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_file_that_is_cut_off_anywhere_is_told_by_its_length(small, tmp_path):
    whole = small.read_bytes()
    for length in sorted({1, 3, 4, 7, 8, 23, 24, 31, *range(100, len(whole), len(whole) // 40), len(whole) - 1}):
        said = refusal(tmp_path / "x.gguf", whole[:length])
        assert f"it ends after {length:,} bytes, where more should follow" in said and "fetch it again" in said


def test_a_list_that_says_it_is_endless_ends_with_the_file(small, tmp_path):
    whole = small.read_bytes()
    at = whole.index(b"tokenizer.ggml.token_type") + len(b"tokenizer.ggml.token_type") + 8
    said = refusal(tmp_path / "x.gguf", whole[:at] + (1 << 60).to_bytes(8, "little") + whole[at + 8 :])
    assert "where more should follow" in said or "is not a valid" in said


@pytest.mark.parametrize(
    ("begins", "what"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        (b"<!DOCTYPE html>", "a web page"),
        (b"<html>", "a web page"),
        (b"tjgg\3\0\0\0", "of a format that llama.cpp had until August 2023"),
    ],
)
def test_what_is_taken_for_a_gguf_file_is_told_as_what_it_is(tmp_path, begins, what):
    assert f"is not a GGUF file: it is {what}" in refusal(tmp_path / "x.gguf", begins + bytes(100))


@pytest.mark.parametrize(
    ("number", "what"),
    [
        (4, "is no type of ggml's any more (Q4_2)"),
        (33, "is no type of ggml's any more (Q4_0_8_8)"),
        (99, "the gguf package that is installed does not know"),
    ],
)
def test_blocks_of_a_type_that_nobody_knows_are_told_with_their_tensor(small, tmp_path, number, what):
    whole = bytearray(small.read_bytes())
    (tensor,) = (one for one in gguf.GGUFReader(small).tensors if one.name == "blk.0.ffn_up.weight")
    at = tensor.field.offset + sum(part.nbytes for part in tensor.field.parts[:4])
    whole[at : at + 4] = number.to_bytes(4, "little")
    said = refusal(tmp_path / "x.gguf", whole)
    assert f"tensor blk.0.ffn_up.weight has blocks of type {number}, which {what}" in said
    assert said.endswith("use a file of another quantisation instead")


def test_blocks_that_cannot_be_decoded_are_told_before_anything_is_written(tmp_path):
    original, config = ggufs.random_model("llama", num_hidden_layers=1)
    tensors = ggufs.tensors("llama", original, config)
    tensors["blk.0.ffn_up.weight"] = np.ones((96, 64), np.int8)
    path = ggufs.write(tmp_path / "x.gguf", "llama", ggufs.settings("llama", config), tensors)
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match=r"ffn_up.weight has blocks of type I8, which the gguf package does not decode"):
        convert_gguf(Asked(str(path), str(tmp_path / "out")))
    assert not list((tmp_path / "out").iterdir())


def pieces(tmp_path, second, architecture="llama"):
    """Two pieces of one model, the first with half of its tensors, the other with those ``second`` chooses."""
    original, config = ggufs.random_model("llama", num_hidden_layers=1)
    tensors = ggufs.tensors("llama", original, config)
    names = list(tensors)
    said = {"split.count": 2, "split.tensors.count": len(names)}
    first = ggufs.settings("llama", config) | {"split.no": 0, **said}
    path = tmp_path / "tiny-00001-of-00002.gguf"
    ggufs.write(path, "llama", first, {name: tensors[name] for name in names[:5]})
    rest = {name: tensors[name] for name in second(names)}
    ggufs.write(tmp_path / "tiny-00002-of-00002.gguf", architecture, {"split.no": 1, **said}, rest)
    return path


@pytest.mark.parametrize(
    ("second", "architecture", "what"),
    [
        (lambda names: names[4:], "llama", r"both have the tensor"),
        (lambda names: names[5:], "qwen2", r"its architecture is another"),
    ],
)
def test_a_piece_of_another_model_is_told(tmp_path, second, architecture, what):
    path = pieces(tmp_path, second, architecture)
    with pytest.raises(UserError, match=rf"tiny-00002-of-00002.gguf is not of the same model .*{what}") as refused:
        GGUFFile(path)
    assert str(refused.value).endswith("fetch all pieces of one model into one folder")
    assert len(GGUFFile(pieces(tmp_path, lambda names: names[5:])).tensors) == 12


def test_a_whole_model_that_is_named_as_a_piece_is_told(small, tmp_path):
    for number in (1, 2):
        (tmp_path / f"x-0000{number}-of-00002.gguf").write_bytes(small.read_bytes())
    with pytest.raises(UserError, match="is a whole model, and not one of 2 pieces; give it another name"):
        GGUFFile(tmp_path / "x-00001-of-00002.gguf")


def test_a_whole_file_is_read(small):
    assert GGUFFile(small).setting("block_count") == 1
