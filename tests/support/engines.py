"""What an engine is given, and what a plain model answers to the same."""

import mlx.core as mx
import numpy as np
from mlx_lm.generate import generate_step
from mlx_lm.models.cache import make_prompt_cache

from runner.sequences import Sequence
from tests.support.tiny import VOCAB

END = 0


def one_by_one(model, tokens, max_tokens, **options):
    generated = []
    for token, _ in generate_step(mx.array(tokens), model, max_tokens=max_tokens, **options):
        if int(token) == END:
            break
        generated.append(int(token))
    return generated


def finish(engine, sequences):
    waiting, done = list(sequences), {}
    while len(done) < len(sequences):
        take = min(engine.room(), len(waiting))
        engine.add(waiting[:take])
        del waiting[:take]
        for generation in engine.step():
            assert generation.key not in done
            done[generation.key] = generation
    return done


def prompts(seed, count, shared, longest=14):
    rng = np.random.default_rng(seed)
    prefix = rng.integers(1, VOCAB, shared).tolist()
    return [prefix + rng.integers(1, VOCAB, rng.integers(1, longest)).tolist() for _ in range(count)]


def sequences(rows, max_tokens, boundaries=(), **fields):
    return [
        Sequence((i, 0), row, max_tokens(i) if callable(max_tokens) else max_tokens, boundaries=boundaries, **fields)
        for i, row in enumerate(rows)
    ]


def plain_score(model, row, choice):
    logits = model(mx.array([row + list(choice)]), cache=make_prompt_cache(model))[0]
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    return sum(float(logprobs[len(row) - 1 + i, token]) for i, token in enumerate(choice))
