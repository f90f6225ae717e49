"""Reasoning and answers told apart: harmony with gpt-oss's own tokenizer, <think> tags with a small one."""

import json
from functools import cache

import mlx.core as mx
import pytest

from runner.engine.attention.resident import ResidentModel
from runner.engine.engine import BatchEngine
from runner.engine.masks import Grammars
from runner.sequences import Sequence
from runner.text.channels import TAGS, Answer, Channels
from runner.text.grammar import AnswerGrammar, free_grammar
from runner.text.structure import StructureConf, read_structure
from runner.text.vocabulary import ByteTokenizer, TransformersVocabulary
from runner.types import Request, Sampling, UserError
from tests.support.engines import finish
from tests.support.prompts import CHATML, ids_of, prompter, render, small_tokenizer
from tests.support.tiny import tiny_gpt_oss

SCHEMA = {"type": "object", "properties": {"ok": {"type": "boolean"}, "n": {"enum": [1, 22]}}, "required": ["ok", "n"]}
BODY = read_structure(StructureConf(schema=SCHEMA), StructureConf(), []).body
ANALYSIS = "<|channel|>analysis<|message|>We think.\nTwice.<|end|><|start|>assistant"
FINAL = '<|channel|>final<|message|>{"ok": true, "n": 22}'


@pytest.fixture(scope="module")
def thinker():
    tokenizer = small_tokenizer(told_of("</think>"))
    tokenizer.add_tokens(["</think>"])
    return tokenizer


def told_of(*tags):
    """A chat template that has these."""
    return f"{CHATML}{{# {' '.join(tags)} #}}"


def read(tokenizer, text, prompt=""):
    return Channels(TransformersVocabulary(tokenizer), True).read(ids_of(tokenizer, text), ids_of(tokenizer, prompt))


def test_harmony_is_read_by_channel(gpt_oss):
    assert read(gpt_oss, ANALYSIS + "<|channel|>final<|message|>ham") == Answer("ham", "We think.\nTwice.")
    assert read(gpt_oss, "<|channel|>final<|message|>ham") == Answer("ham")
    assert read(gpt_oss, "<|channel|>analysis<|message|>We thi") == Answer("", "We thi", False)
    assert read(gpt_oss, "<|channel|>ana") == Answer("", "", False)
    assert read(gpt_oss, ANALYSIS + "<|channel|>fin") == Answer("", "We think.\nTwice.", False)
    call = "<|channel|>commentary to=functions.f<|constrain|>json<|message|>{}"
    assert read(gpt_oss, ANALYSIS + call) == Answer("", "We think.\nTwice.\n\n{}", False)
    assert read(gpt_oss, "<|channel|>analysis<|message|>Hm.<|channel|>final<|message|>ham") == Answer("ham", "Hm.")
    assert read(gpt_oss, "ham") == Answer("ham")


@pytest.mark.parametrize("as_text", [False, True])
def test_a_stop_text_counts_only_where_no_thought_can_begin_any_more(as_text):
    tokenizer = small_tokenizer()
    tokenizer.add_tokens([] if as_text else ["</think>"])
    tags = {"thinking_tags": ["[T]", "[/T]"]} if as_text else {}
    begin, end = tags.get("thinking_tags", ("<think>", "</think>"))
    writer = prompter(tokenizer, stop=["\n", "["], **tags)
    for text, stops in (
        ("\n", False),
        (f"\n{begin}good\n[", False),
        (f"{begin}bad{end}\n", False),
        (f"{begin}bad{end}\nfilm", False),
        (f"{begin}bad{end}film\n", True),
        ("film\n", True),
        *((("[", False), ("[T", False), ("[U", True)) if as_text else ()),
    ):
        assert writer.stops(ids_of(tokenizer, text), Sequence((0, 0), [], 9)) is stops, text


def test_think_tags_are_read(thinker):
    assert read(thinker, "<think>good bad</think>\n\nfilm") == Answer("film", "good bad")
    assert read(thinker, "good</think>film", prompt="hello <think>\n") == Answer("film", "good")
    assert read(thinker, "good bad", prompt="hello <think>\n") == Answer("", "good bad", False)
    assert read(thinker, "<think>good") == Answer("", "good", False)
    assert read(thinker, "film") == Answer("film")
    assert read(thinker, "film", prompt="<think></think>") == Answer("film")


@pytest.mark.parametrize(("begin", "end", "title"), [(one.begin, one.end, one.title) for one in TAGS])
def test_other_tags_are_read_as_think_tags_are(begin, end, title):
    tokenizer = small_tokenizer(told_of(end))
    tokenizer.add_tokens([begin, end])
    assert read(tokenizer, f"{begin}{title}good bad{end}\n\nfilm") == Answer("film", "good bad")
    assert read(tokenizer, f"{begin}{title}good") == Answer("", "good", False)
    assert read(tokenizer, f"good{end}film", prompt=f"hello {begin}") == Answer("film", "good")
    assert read(tokenizer, "film") == Answer("film")
    assert accepts(tokenizer, "", f'{begin}good{end}{{"ok": true, "n": 22}}')
    assert not accepts(tokenizer, f"hello {begin}", '{"ok": true, "n": 22}')
    p = prompter(tokenizer)
    asked = Request(choices=("good", "bad"))
    assert read(tokenizer, p.text(asked, {"text": "x"}).partition("assistant\n")[2] + "good") == Answer("good", "")


def test_think_tags_of_several_tokens_are_read_as_tags_where_no_template_tells_of_them():
    tokenizer = small_tokenizer()
    channels = Channels(TransformersVocabulary(tokenizer), True)
    assert channels.kind is None
    for text, prompt, answer, reasoning in (
        ("<think>good bad</think>film", "", "film", "good bad"),
        ("good</think>film", "hello <think>", "film", "good"),
        ("<think>good", "", "", "good"),
        ("film", "", "film", None),
        ("film", "hello <think>", "film", None),
    ):
        found = channels.read(ids_of(tokenizer, text), ids_of(tokenizer, prompt))
        assert (found.text.strip(), found.reasoning and found.reasoning.strip()) == (answer, reasoning)
        span = channels.span(ids_of(tokenizer, text), ids_of(tokenizer, prompt))
        assert tokenizer.decode(ids_of(tokenizer, text)[span]).strip() == answer


@pytest.mark.parametrize(
    ("text", "prompt", "answer"),
    [
        ("\n" * 9 + "<think>good</think>film", "", Answer("film", "good")),
        ("\n" * 9 + "<think>good", "", Answer("", "good", False)),
        ("good<think>bad</think>film", "", Answer("film", "good<think>bad")),
        ("<think>good<think>bad</think>film", "", Answer("film", "good<think>bad")),
        ("<think>good</think>film", "hello <think>\n", Answer("film", "good")),
        ("<think></think>film", "", Answer("film", "")),
    ],
)
def test_a_tag_is_left_out_however_much_white_space_stands_before_it_and_nothing_else_is(thinker, text, prompt, answer):
    assert read(thinker, text, prompt) == answer


@pytest.mark.parametrize("thought", ["<|START_THINKING|>good<|END_THINKING|>", ""])
def test_what_a_model_writes_around_its_answers_is_none_of_them(thought):
    tokenizer = small_tokenizer(told_of("<|END_THINKING|>"))
    tokenizer.add_tokens(["<|START_THINKING|>", "<|END_THINKING|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>"])
    wanted = "good" if thought else None
    for written in ("<|START_RESPONSE|>film<|END_RESPONSE|>", "<|START_RESPONSE|>film", "film"):
        assert read(tokenizer, thought + written) == Answer("film", wanted), written
    channels = Channels(TransformersVocabulary(tokenizer), True)
    for prompt in ("hello", "hello<|START_THINKING|>", "hello<|START_THINKING|><|END_THINKING|>"):
        whole = "hello<|START_THINKING|><|END_THINKING|><|START_RESPONSE|>"
        assert prompt + channels.skip(prompt) == whole
    assert channels.skip("hello<|START_RESPONSE|>") == ""


@pytest.mark.parametrize(("begin", "end"), [("<response>", "</response>"), ("<answer>", "</answer>")])
@pytest.mark.parametrize("as_text", [False, True])
def test_words_around_answers_are_none_of_them_where_the_template_has_them(begin, end, as_text):
    tokenizer = small_tokenizer(told_of("</think>", begin, end))
    tokenizer.add_tokens([] if as_text else ["</think>"])
    channels = Channels(TransformersVocabulary(tokenizer), True)
    for written in (f"{begin}\nfilm {{good}}\n{end}\n", f"\n{begin}film {{good}}", "film {good}"):
        for ids in (ids_of(tokenizer, f"<think>\nbad\n</think>\n\n{written}"), ids_of(tokenizer, written)):
            assert channels.read(ids).text == "film {good}", written
            assert tokenizer.decode(ids[channels.span(ids)]).strip() == "film {good}", written
    unasked = Channels(TransformersVocabulary(small_tokenizer(told_of("</think>"))), True)
    assert unasked.read(ids_of(tokenizer, f"{begin}film{end}")).text == f"{begin}film{end}"


def test_the_tags_are_those_that_the_template_has_where_the_vocabulary_has_several():
    tokenizer = small_tokenizer(told_of("<seed:think>", "</seed:think>"))
    tokenizer.add_tokens(["</think>", "<seed:think>", "</seed:think>"])
    assert read(tokenizer, "<seed:think>good</seed:think>film") == Answer("film", "good")
    tokenizer = small_tokenizer(told_of("<reasoning>", "</reasoning>"))
    tokenizer.add_tokens(["</think>"])  # the tags are plain text, as a model writes that learnt them last
    assert read(tokenizer, "<reasoning>good</reasoning>film") == Answer("film", "good")


def test_no_thought_is_put_before_labels_where_the_template_knows_of_none(thinker):
    asked = Request(choices=("good", "bad"))
    instruct = small_tokenizer()
    instruct.add_tokens(["</think>"])
    assert prompter(instruct).text(asked, {"text": "x"}).endswith("<|im_start|>assistant\n")
    named = prompter(instruct, thinking_tags=["<think>", "</think>"])
    assert named.text(asked, {"text": "x"}).endswith("assistant\n<think>\n\n</think>\n\n")
    assert read(instruct, "<think>good</think>film") == Answer("film", "good")


class Letters(ByteTokenizer):
    """A vocabulary in which every tag is plain text, and a chat template that has one of them."""

    def __init__(self, template):
        super().__init__()
        self.chat_template += "{# " + template + " #}"


@pytest.mark.parametrize(("begin", "end", "title"), [(one.begin, one.end, one.title) for one in TAGS])
def test_tags_that_are_plain_text_are_read_as_tokens_are_where_the_template_has_them(begin, end, title):
    vocabulary = Letters(f"{{% if '{end}' in content %}}")
    channels = Channels(vocabulary, True, think_tokens=9)
    code = vocabulary.encode_plain
    assert channels.kind == "think"
    assert channels.read(code(f"{begin}{title}so{end}\n\nfilm")) == Answer("film", "so")
    assert channels.read(code(f"{begin}{title}so")) == Answer("", "so", False)
    assert channels.read(code(f"so{end}film"), code(f"hello {begin}\n")) == Answer("film", "so")
    assert channels.read(code("so"), code(f"hello {begin}\n")) == Answer("", "so", False)
    assert channels.read(code("film")) == Answer("film")
    spanned = code(f"{begin}so{end}film")
    assert spanned[channels.span(spanned)] == code("film")
    assert channels.is_open(code(f"hello {begin}\n")) and not channels.is_open(code(f"hello {begin}{end}"))
    assert channels.skip(f"hello {begin}").rstrip().endswith(end)
    long = "so many words" * 9
    assert channels.was_ended(code(f"{begin}{long}{end}film"), []) and not channels.was_ended(spanned, [])
    assert not channels.was_ended(code(f"{long}{end}film"), [])  # no thought had begun
    takes = Grammars(vocabulary)
    for prompt, answer, right in (
        ("", f"{begin}so{end}ham", True),
        ("", f"{begin}so{end}\n\nham", True),
        ("", "ham", True),
        ("", f"{begin}so{end}eggs", False),
        ("", f"{begin}{'so many words' * 9}{end}ham", False),
        (f"hello {begin}\n", f"so{end}ham", True),
        (f"hello {begin}\n", "ham", False),
        (f"hello {begin}{end}", "ham", True),
        ("", f"{begin}so {end[:3]} {end}\n\nham", None),
    ):
        limits = Channels(vocabulary, True) if right is None else channels
        grammar = AnswerGrammar('body: "ham"\n', limits).after(code(prompt))
        matcher = takes.start(Sequence((0, 0), [], 0, grammar=grammar)).matcher
        tokens = code(answer)
        assert (matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()) == (right is not False), (
            answer
        )


def test_tags_of_ones_own_are_read_be_they_tokens_or_text():
    for tokens in ([], ["<ponder>", "</ponder>"]):
        tokenizer = small_tokenizer()
        tokenizer.add_tokens(tokens)
        p = prompter(tokenizer, thinking_tags=["<ponder>", "</ponder>"])
        found = p.channels.read(ids_of(tokenizer, "<ponder>good</ponder>film"))
        assert (found.text.strip(), (found.reasoning or "").strip()) == ("film", "good")
        assert prompter(tokenizer).channels.kind is None
    with pytest.raises(UserError, match="the two texts"):
        prompter(tokenizer, thinking_tags=["<ponder>"])


@cache
def grammars_over(tokenizer):
    """Made once: llguidance takes seconds for gpt-oss's vocabulary."""
    vocabulary = TransformersVocabulary(tokenizer)
    return AnswerGrammar(BODY, Channels(vocabulary, True)), Grammars(vocabulary)


def accepts(tokenizer, prompt, text):
    """Whether the grammar takes the text and the answer may end there."""
    answers, grammars = grammars_over(tokenizer)
    matcher = grammars.start(Sequence((0, 0), [], 0, grammar=answers.after(ids_of(tokenizer, prompt)))).matcher
    assert not matcher.is_error(), matcher.get_error()
    tokens = ids_of(tokenizer, text)
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


def test_the_grammar_begins_in_the_final_channel(gpt_oss):
    assert accepts(gpt_oss, "", ANALYSIS + FINAL)
    assert accepts(gpt_oss, "", FINAL)
    assert not accepts(gpt_oss, "", '{"ok": true, "n": 22}')
    assert not accepts(gpt_oss, "", ANALYSIS + "<|channel|>final<|message|>ham")
    assert not accepts(gpt_oss, "", ANALYSIS)
    assert not accepts(gpt_oss, "", ANALYSIS + FINAL.replace("22", "23"))


def test_the_grammar_begins_behind_the_thoughts(thinker):
    answer = '{"ok": true, "n": 22}'
    assert accepts(thinker, "", f"<think>good\nbad</think>\n\n{answer}")
    assert accepts(thinker, "", answer)
    assert accepts(thinker, "hello <think>\n", f"good</think>{answer}")
    assert not accepts(thinker, "hello <think>\n", answer)
    assert accepts(thinker, "<think>\n\n</think>\n\n", answer)
    assert not accepts(thinker, "", "<think>good</think>film")


@pytest.mark.parametrize(("prompt", "begin"), [("hello", "<think>"), ("hello <think>\n", "")])
def test_a_thought_of_so_many_tokens_is_ended_and_the_answer_is_free(thinker, prompt, begin):
    channels = Channels(TransformersVocabulary(thinker), True, think_tokens=4)
    grammar = free_grammar(channels, ("STOP",))
    assert grammar.stop == ("STOP",) and free_grammar(Channels(channels.vocabulary, True), ("STOP",)) is None
    _, grammars = grammars_over(thinker)
    thought = ids_of(thinker, "good bad good bad good bad")[:4]
    matching = grammars.start(Sequence((0, 0), [], 0, grammar=grammar.after(ids_of(thinker, prompt))))
    assert matching.matcher.consume_tokens(ids_of(thinker, begin) + thought)
    assert matching.force(9)[:1] == ids_of(thinker, "</think>")
    answer = ids_of(thinker, "film {good")
    assert matching.matcher.consume_tokens(answer) and matching.matcher.is_accepting() and not matching.ended
    end = ids_of(thinker, "</think>")
    prompted = ids_of(thinker, prompt)
    assert channels.was_ended(ids_of(thinker, begin) + thought + end + answer, prompted)
    assert not channels.was_ended(ids_of(thinker, begin) + thought[:3] + end + answer, prompted)
    assert not channels.was_ended(answer, ids_of(thinker, "hello"))


def test_harmonys_analysis_is_ended_in_the_final_channel(gpt_oss):
    channels = Channels(TransformersVocabulary(gpt_oss), True, think_tokens=3)
    _, grammars = grammars_over(gpt_oss)
    matching = grammars.start(Sequence((0, 0), [], 0, grammar=free_grammar(channels, ()).after([])))
    thought = ids_of(gpt_oss, "<|channel|>analysis<|message|>The user asks")
    assert matching.matcher.consume_tokens(thought)
    forced = matching.force(20)
    assert forced == ids_of(gpt_oss, "<|end|><|start|>assistant<|channel|>final<|message|>")
    assert channels.was_ended(thought + forced + ids_of(gpt_oss, "ham"), [])
    assert not channels.was_ended(ids_of(gpt_oss, "<|channel|>final<|message|>ham"), [])
    assert accepts(gpt_oss, "", FINAL)


def test_choices_stand_where_the_answer_does(thinker):
    p = prompter(thinker)
    text = p.text(Request(choices=("good", "bad")), {"text": "x"})
    assert text.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    opened = prompter(small_thinker_that_opens(thinker))
    assert opened.text(Request(choices=("good",)), {"text": "x"}).endswith("assistant\n<think>\n\n</think>\n\n")
    assert opened.text(Request(), {"text": "x"}).endswith("assistant\n<think>\n")


def small_thinker_that_opens(thinker):
    import copy

    tokenizer = copy.copy(thinker)
    tokenizer.chat_template = thinker.chat_template.replace("assistant\n'", "assistant\n<think>\n'")
    assert tokenizer.chat_template != thinker.chat_template
    return tokenizer


@pytest.fixture(scope="module")
def tiny(gpt_oss):
    mx.set_default_device(mx.cpu)
    return ResidentModel(tiny_gpt_oss(vocab_size=201_088))


def test_a_tiny_gpt_oss_answers_in_the_final_channel(gpt_oss, tiny):
    p = prompter(gpt_oss, kwargs={"reasoning_effort": "low"})
    answers, grammars = grammars_over(gpt_oss)
    todo = []
    for i in range(6):
        prompt = render(p, f"row {i}")
        todo.append(Sequence((i, 0), prompt, 60, Sampling(float(i % 2)), i, grammar=answers.after(prompt)))
    engine = BatchEngine(tiny, p.end_tokens, batch_size=4, grammars=grammars)
    done = finish(engine, todo)
    assert engine.work.forced > 0
    for key, generation in done.items():
        answer = p.read(generation.tokens, todo[key[0]])
        if generation.finish_reason == "stop":
            assert json.loads(answer.text)["n"] in (1, 22)
        else:
            assert not answer.complete
            assert answer.reasoning
