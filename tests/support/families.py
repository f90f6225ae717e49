"""Small chat templates with the features of those that are used most, and tokenizers that go with them."""

from functools import cache
from pathlib import Path

_TEMPLATES = sorted(Path(__file__).with_name("families").glob("*.jinja"))
FAMILIES = {file.stem: file.read_text(encoding="utf-8") for file in _TEMPLATES}
CONTROL = [
    *("<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>", "<|im_sep|>", "<|endoftext|>", "<|user|>", "<|system|>"),
    *("<|assistant|>", "<|end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "[INST]", "[/INST]"),
    *(
        "[SYSTEM_PROMPT]",
        "[/SYSTEM_PROMPT]",
        "[THINK]",
        "[/THINK]",
        "<start_of_turn>",
        "<end_of_turn>",
        "<\uff5cUser\uff5c>",
    ),
    *("<\uff5cAssistant\uff5c>", "<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>", "<|START_OF_TURN_TOKEN|>"),
    *("<|END_OF_TURN_TOKEN|>", "<|SYSTEM_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "[gMASK]", "<sop>"),
    *("<|image_pad|>", "<|channel>", "<channel|>", "<|turn>", "<turn|>"),
]
PLAIN_TAGS = ["<think>", "</think>", "<tool_response>", "</tool_response>"]  # added, but not as special tokens
CUTS = ("byte level", "metaspace first", "metaspace always", "prepended")


@cache
def family_tokenizer(cut="byte level"):
    """A tokenizer with everybody's control tokens; ``cut``: how it treats spaces and the beginning of a text."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = [*map(chr, range(32, 127)), "\n", "▁", "é", "\uff5c", "\ufffd", "\r"]
    if cut == "byte level":
        letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("<", "|"), ("|", ">"), ("i", "m"), ("▁", "a"), ("Ġ", "a"), ("▁", "<"), ("Ġ", "<")]
    merges = [pair for pair in merges if set(pair) <= set(letters)]
    names = [*dict.fromkeys(letters), *map("".join, merges), "<unk>"]
    backend = Tokenizer(models.BPE({name: at for at, name in enumerate(names)}, merges, unk_token="<unk>"))
    if cut == "byte level":
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
    elif cut == "prepended":
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    else:
        scheme = cut.removeprefix("metaspace ")
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
        backend.decoder = decoders.Metaspace(prepend_scheme=scheme)
    backend.add_special_tokens([AddedToken(text, normalized=False) for text in CONTROL])
    backend.add_tokens([AddedToken(text, normalized=False) for text in PLAIN_TAGS])
    backend.add_tokens([AddedToken("\n\n", normalized=False), AddedToken("  ", normalized=False)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def with_template(tokenizer, template):
    """The same tokenizer with a chat template."""
    import copy

    tokenizer = copy.copy(tokenizer)
    tokenizer.chat_template = template
    return tokenizer


def save_family(folder, template, tags=("<|im_start|>", "<|im_end|>", "<think>", "</think>"), beside=None):
    """A tiny model's folder with a chat template in its own file, or in the file ``beside`` as JSON."""
    import json

    from tests.support.tiny import save_tiny_llama

    save_tiny_llama(folder, tags=tags)
    text = template if beside is None else json.dumps({"chat_template": template})
    (folder / (beside or "chat_template.jinja")).write_text(text, encoding="utf-8")
