"""Measurements of constrained decoding with SmolLM2-135M on the CPU, in a process of their own.

``python -m tests.bench.constrained speed [ROUNDS [TOKENS]]``: what a grammar costs in tokens/s at batch 32. Free and
constrained batches take turns, and the medians are compared.
``python -m tests.bench.constrained valid [ROWS [SCHEMAS]]``: how many answers at temperature 1 are valid, of ROWS for
each of the schemas in ``tests/support/schemas.py``; it fails if one is complete and invalid.
``python -m tests.bench.constrained labels [ROWS [ROUNDS]]``: what a row with 2, 77 and 151 labels takes, also in turn.
"""

import datetime
import json
import statistics
import sys
import time
from dataclasses import replace

from runner.engine import weights
from runner.engine.masks import Grammars
from runner.machine import device
from runner.models import resolve
from runner.sequences import Sequence
from runner.text.channels import Channels
from runner.text.choices import beginnings, choice_tree
from runner.text.grammar import AnswerGrammar
from runner.text.structure import StructureConf, read_structure
from runner.text.vocabulary import as_vocabulary
from runner.types import Sampling
from tests.support.intents import ALL
from tests.support.prompts import SMOLLM2
from tests.support.schemas import SCHEMAS, TEXT, obj

ROWS = 32
ROOM = 400  # tokens of an answer in JSON, at first
FILM = obj(title=TEXT, year={"type": "integer", "minimum": 1900, "maximum": 2030}, good={"type": "boolean"})
SCHEMA = {"type": "array", "items": FILM, "minItems": 50}  # longer than any answer here


def load():
    """An engine and its vocabulary; MLX may be imported only now that its BLAS is chosen."""
    found = device.set_up("cpu")
    from runner.engine.conf import EngineConf
    from runner.engine.open import batch_engine

    folder = resolve.resolve(SMOLLM2)
    model, config = weights.load(folder, found)
    tokenizer = weights.load_tokenizer(folder, config)
    vocabulary = as_vocabulary(tokenizer)
    sizes, grammars = EngineConf(batch_size=ROWS), Grammars(vocabulary)
    return lambda ends: batch_engine(model, found, sizes, end_tokens=ends, grammars=grammars), vocabulary


def grammar_of(schema, vocabulary):
    structure = read_structure(StructureConf(schema=schema), StructureConf(), [])
    return AnswerGrammar(structure.body, Channels(vocabulary, False)).after([])


def finish(engine, waiting):
    waiting, done, count = list(waiting), [], len(waiting)
    while len(done) < count:
        room = engine.room()
        engine.add(waiting[:room])
        del waiting[:room]
        done += engine.step()
    return done


def speed(rounds=5, tokens=64):
    opened, vocabulary = load()
    engine, grammar = opened(()), grammar_of(SCHEMA, vocabulary)
    prompts = vocabulary.encode([f"Film list number {row} in JSON, one film for each line:\n" for row in range(ROWS)])

    def once(grammar):
        rows = [Sequence((i, 0), p, tokens, Sampling(1.0), i, grammar=grammar) for i, p in enumerate(prompts)]
        before, began = engine.work.forced, time.perf_counter()
        made = sum(len(one.tokens) for one in finish(engine, rows))
        assert made == ROWS * tokens
        return made / (time.perf_counter() - began), (engine.work.forced - before) / made

    once(grammar), once(None)
    pairs = [(once(None), once(grammar)) for _ in range(rounds)]
    free, bound = (statistics.median(pair[side][0] for pair in pairs) for side in (0, 1))
    drawn = statistics.median(pair[1][0] * (1 - pair[1][1]) for pair in pairs)
    print(f"free {free:.1f} tokens/s, constrained {bound:.1f} ({bound / free:.0%}), {drawn:.1f} of them drawn")


def valid(rows=50, schemas=20):
    opened, vocabulary = load()
    good, of, failed = outcomes(opened(vocabulary.end_tokens), vocabulary, rows, schemas)
    print(f"{good} answers of {of} are valid, {failed} failed: cut off at {ROOM} and {2 * ROOM} tokens")


def outcomes(engine, vocabulary, rows, schemas):
    """How many answers are valid, of how many, and how many were cut off twice."""
    prompt = vocabulary.encode(["<|im_start|>user\nMake up a JSON object.<|im_end|>\n<|im_start|>assistant\n"])[0]
    names = list(SCHEMAS)[:: len(SCHEMAS) // schemas]
    bound = [grammar_of(SCHEMAS[name], vocabulary) for name in names]
    todo = [
        Sequence((number, i), prompt, ROOM, Sampling(1.0), 50 * number + i, grammar=one)
        for number, one in enumerate(bound)
        for i in range(rows)
    ]
    first = finish(engine, todo)
    cut = {one.key for one in first if one.finish_reason == "length"}
    again = finish(engine, [replace(one, max_tokens=2 * ROOM) for one in todo if one.key in cut])
    good = failed = 0
    for one in [*(one for one in first if one.key not in cut), *again]:
        if one.finish_reason == "length":
            failed += len(one.tokens) == 2 * ROOM
            continue
        assert one.error is None, one
        check(vocabulary.decode(one.tokens), SCHEMAS[names[one.key[0]]])
        good += 1
    return good, len(todo), failed


def check(text, schema):
    """Raise unless the text is JSON that fits the schema and its columns."""
    import jsonschema
    import pyarrow as pa

    formats = jsonschema.FormatChecker(["date"])
    formats.checks("time", ValueError)(lambda value: datetime.time.fromisoformat(value.upper()) is not None)
    jsonschema.validate(json.loads(text), schema, format_checker=formats)
    structure = read_structure(StructureConf(schema=schema), StructureConf(), [])
    pa.Table.from_pylist([structure.values(text)], schema=pa.schema(structure.fields()))


def labels(rows=64, rounds=3):
    opened, vocabulary = load()
    engine = opened(vocabulary.end_tokens)
    surfaces = tuple(tuple(ids) for ids in vocabulary.encode([f" {name}" for name in ALL]))
    sets = {2: surfaces[:2], 77: beginnings(surfaces[:77]), 151: beginnings(surfaces), 0: surfaces[:77]}  # 0: whole
    prefix = vocabulary.encode(["".join(f"Message: now it is {one}.\nTopic: {one}\n\n" for one in ALL[:12])])[0]
    said = "Message: since number {} this has happened on and off, and nobody I asked could tell me why.\nTopic:"
    texts = vocabulary.encode([said.format(row) for row in range(rows)])

    def once(chosen):
        todo = [
            Sequence((i, 0), prefix + own, 0, choices=chosen, boundaries=(len(prefix),)) for i, own in enumerate(texts)
        ]
        began = time.perf_counter()
        finish(engine, todo)
        return (time.perf_counter() - began) / rows

    once(sets[2])
    took = [{count: once(chosen) for count, chosen in sets.items()} for _ in range(rounds)]
    print(f"{len(prefix)} shared tokens and {sum(map(len, texts)) / rows:.0f} own ones a row")
    for count, chosen in sets.items():
        ms = 1000 * statistics.median(one[count] for one in took)
        ratio = statistics.median(one[count] / one[2] for one in took)
        name = f"{count} labels" if count else "77 labels to their ends"
        print(f"{name}: {len(choice_tree(chosen).tokens)} tokens in the trie, {ms:.1f} ms a row, {ratio:.2f}x")


if __name__ == "__main__":
    {"speed": speed, "valid": valid, "labels": labels}[sys.argv[1]](*map(int, sys.argv[2:]))
