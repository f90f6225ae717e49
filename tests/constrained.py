"""Measurements of constrained decoding with SmolLM2-135M on the CPU, in a process of their own.

``python -m tests.constrained speed [ROUNDS [TOKENS]]``: what a grammar costs in tokens/s at batch 32. Free and
constrained batches take turns, and the medians are compared. ``python -m tests.constrained valid [ROWS [SCHEMAS]]``:
how many answers at temperature 1 are valid, of ROWS for each of the schemas in ``tests/schemas.py``.
"""

import json
import statistics
import sys
import time

from runner import device, models
from runner.channels import Channels
from runner.constrain import Constraints
from runner.structure import StructureConf, read_structure
from runner.tokens import as_vocabulary
from runner.types import Sampling, Sequence
from tests.schemas import SCHEMAS, TEXT, obj
from tests.test_prompt import SMOLLM2

ROWS = 32
FILM = obj(title=TEXT, year={"type": "integer", "minimum": 1900, "maximum": 2030}, good={"type": "boolean"})
SCHEMA = {"type": "array", "items": FILM, "minItems": 50}  # longer than any answer here


def load():
    """An engine and its vocabulary; MLX may be imported only now that its BLAS is chosen."""
    found = device.prepare("cpu")
    from runner.serving import batch_engine

    model, tokenizer, _ = models.load(models.resolve(SMOLLM2), found)
    vocabulary = as_vocabulary(tokenizer)
    return lambda ends: batch_engine(model, found, {"batch_size": ROWS}, end_tokens=ends), vocabulary


def constraint(schema, vocabulary):
    structure = read_structure(StructureConf(schema=schema), StructureConf(), [])
    return Constraints(structure.body, Channels(vocabulary, False)).behind([])


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
    engine, grammar = opened(()), constraint(SCHEMA, vocabulary)
    prompts = vocabulary.encode([f"Film list number {row} in JSON, one film for each line:\n" for row in range(ROWS)])

    def once(grammar):
        rows = [Sequence((i, 0), p, tokens, Sampling(1.0), i, constraint=grammar) for i, p in enumerate(prompts)]
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
    import jsonschema

    opened, vocabulary = load()
    prompt = vocabulary.encode(["<|im_start|>user\nMake up a JSON object.<|im_end|>\n<|im_start|>assistant\n"])[0]
    names = list(SCHEMAS)[:: len(SCHEMAS) // schemas]
    todo = []
    for number, name in enumerate(names):
        bound = constraint(SCHEMAS[name], vocabulary)
        todo += [
            Sequence((number, i), prompt, 400, Sampling(1.0), 50 * number + i, constraint=bound) for i in range(rows)
        ]
    good, cut = 0, 0
    for one in finish(opened(vocabulary.end_tokens), todo):
        assert one.error is None, one
        cut += one.finish_reason == "length"
        if one.finish_reason != "length":
            jsonschema.validate(json.loads(vocabulary.decode(one.tokens)), SCHEMAS[names[one.key[0]]])
            good += 1
    print(f"{good} answers of {len(todo)} are valid, {cut} were cut off at 400 tokens")


if __name__ == "__main__":
    {"speed": speed, "valid": valid}[sys.argv[1]](*map(int, sys.argv[2:]))
