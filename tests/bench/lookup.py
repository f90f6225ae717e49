"""Prompt lookup: what drafts gain where few sequences are left, and what a step with drafts costs.

``python -m tests.bench.lookup [OUT.json] [--rows N]``: SmolLM2-135M on the CPU copies records out of a text, says in
short what a text says, and goes on with a story, of which it copies nothing; 1 and N rows at once. An engine without
drafts and one that drafts where it pays take turns in one process, and their tokens are compared.
``python -m tests.bench.lookup OUT.json --model shape [--layers N]``: no weights are needed. A model of Llama 8B's shape
(on a CPU: of SmolLM2's) that goes on as its prompt did, so that all drafts are right: the tokens/s of 1 to 16 rows by
the length of drafts, and what share of the guesses has to be right for that to be no slower than without.
"""

import argparse
import json
import random
import statistics
import time
from pathlib import Path

TURNS = 1
NAMES = [
    "Ada Lovelace",
    "Grace Hopper",
    "Alan Turing",
    "Edith Clarke",
    "Konrad Zuse",
    "Mary Somerville",
    "Emil Post",
    "Rosa Peter",
]
TOWNS = ["Aberdeen", "Brno", "Cordoba", "Dresden", "Edirne", "Funchal", "Ghent", "Hobart"]
TASKS = ["the ledger of the harbour", "two maps of the valley", "a drawing of the bridge", "the letters of the winter"]
STORY = "Tell a story of a lighthouse keeper who finds a map. Make it long."


def letter(draw):
    """A text with some facts in it."""
    lines = [
        f"On {draw.randrange(1, 29)} May {draw.choice(NAMES)} of {draw.choice(TOWNS)} brought {draw.choice(TASKS)} to"
        f" {draw.choice(NAMES)} in {draw.choice(TOWNS)}, who paid {draw.randrange(100, 999)} crowns for it."
        for _ in range(6)
    ]
    return " ".join(lines)


WORKS = {
    "copied records": lambda draw: f"{letter(draw)}\n\nRepeat each sentence of this text on a line of its own.",
    "summaries": lambda draw: f"{letter(draw)}\n\nSummarize the text above.",
    "stories": lambda draw: f"{STORY} Her name is {draw.choice(NAMES)}.",
}


def turn(engine, rows):
    """Tokens by row, seconds, seconds of processor time."""
    began, processor, done = time.perf_counter(), time.process_time(), {}
    engine.add(list(rows))
    while len(done) < len(rows):
        done |= {one.key: one.tokens for one in engine.step()}
    return done, time.perf_counter() - began, time.process_time() - processor


def real(rows, tokens):
    """Ratios with SmolLM2."""
    from runner.engine import weights
    from runner.engine.conf import EngineConf
    from runner.engine.open import batch_engine
    from runner.machine import device
    from runner.models import resolve
    from runner.sequences import Sequence
    from runner.text.vocabulary import as_vocabulary
    from tests.support.prompts import SMOLLM2

    found = device.set_up("cpu")
    folder = resolve.resolve(SMOLLM2)
    model, config = weights.load(folder, found)
    vocabulary = as_vocabulary(weights.load_tokenizer(folder, config))
    engines = [
        batch_engine(model, found, EngineConf(draft_tokens=most), end_tokens=vocabulary.end_tokens)
        for most in (0, None)
    ]
    results = {}
    for work, text in WORKS.items():
        draw = random.Random(1)
        asked = [f"<|im_start|>user\n{text(draw)}<|im_end|>\n<|im_start|>assistant\n" for _ in range(rows)]
        todo = [Sequence((0, i), prompt, tokens) for i, prompt in enumerate(vocabulary.encode(asked))]
        for together in sorted({1, rows}):
            spans = [todo[at : at + together] for at in range(0, rows, together)][: 4 if together == 1 else 1]
            plain, drafting = ([] for _ in engines)
            before = engines[1].work.drafted, engines[1].work.accepted
            for _ in range(TURNS):
                for engine, seen in zip(engines, (plain, drafting), strict=True):
                    parts = [turn(engine, span) for span in spans]
                    seen.append((*(sum(part[at] for part in parts) for at in (1, 2)), [part[0] for part in parts]))
            wall, processor = (min(one[at] for one in plain) / min(one[at] for one in drafting) for at in (0, 1))
            drafted, accepted = engines[1].work.drafted - before[0], engines[1].work.accepted - before[1]
            same = plain[0][2] == drafting[0][2]
            made = sum(len(answer) for part in plain[0][2] for answer in part.values())
            results[f"{work}, {together} at once"] = {
                "times as fast": round(wall, 2), "of processor time": round(processor, 2), "drafted": drafted,
                "accepted": accepted, "tokens": made * TURNS, "the same": same, "plain s": round(plain[0][0], 2),
            }  # fmt: skip
            print(f"{work}, {together} at once:", results[f"{work}, {together} at once"], flush=True)
    return results


def shape(layers, rows=(1, 2, 4, 8, 16), lengths=(2, 4, 8, 16)):
    """Costs of steps with drafts that are all right."""
    from runner.machine import device

    found = device.set_up("auto")
    import mlx.core as mx

    from runner.engine.attention.resident import ResidentModel
    from runner.engine.engine import BatchEngine
    from runner.engine.kernels.cuda.prepare import prepare
    from runner.sequences import Sequence
    from tests.bench.gpu.llama_8b import build

    model = build(layers) if found.kind != "cpu" else small(layers)
    counting(model)
    if found.kind == "cuda":
        prepare(model, 40 << 30)
    resident = ResidentModel(model)
    clock = time.process_time if found.kind == "cpu" else time.perf_counter
    results = {}
    for count in rows:
        rate = {}
        for most in (0, *lengths):
            engine = BatchEngine(resident, batch_size=count, prefill_tokens=2048, draft_tokens=most, kv_bytes=20 << 30)
            prompts = [
                [*range(1000 + 700 * i, 1600 + 700 * i), *range(1000 + 700 * i, 1010 + 700 * i)] for i in range(count)
            ]
            for tokens in (most + 30, 12 * (most + 1) + 60):  # the first ones compile kernels
                todo = [Sequence((0, i), prompt, tokens) for i, prompt in enumerate(prompts)]
                engine.add(todo)
                seconds, made, done = [], [], 0
                while done < count:
                    before, began = engine.work.decoded, clock()
                    done += len(engine.step())
                    seconds.append(clock() - began)
                    made.append(engine.work.decoded - before)
            assert engine.work.drafted == engine.work.accepted
            full = [s for s, m in zip(seconds, made, strict=True) if m == count * (1 + most)]
            rate[most] = statistics.median(full)
            engine.close()
        results[count] = {
            most: {
                "ms": round(1e3 * rate[most], 2), "cost": round(rate[most] / rate[0], 2),
                "right to gain": round((rate[most] / rate[0] - 1) / most, 2) if most else 0,
            }
            for most in rate
        }  # fmt: skip
        print(count, "rows:", results[count], flush=True)
        mx.clear_cache()
    return results


def small(layers):
    """SmolLM2-135M's shape in float32, with at most its 30 layers."""
    from mlx_lm.models import llama

    return llama.Model(
        llama.ModelArgs(
            model_type="llama", hidden_size=576, num_hidden_layers=min(30, layers), intermediate_size=1536,
            num_attention_heads=9, num_key_value_heads=3, rms_norm_eps=1e-5, vocab_size=49152,
            tie_word_embeddings=False,
        )
    )  # fmt: skip


def counting(model):
    """Let a model go on from each token with the next one in the vocabulary."""
    import mlx.core as mx

    for layer in model.model.layers:
        for last in (layer.self_attn.o_proj, layer.mlp.down_proj):
            last.weight = mx.zeros_like(last.weight)
    model.lm_head.weight = mx.roll(model.model.embed_tokens.weight, 1, axis=0)
    mx.eval(model.parameters())


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", nargs="?")
    parser.add_argument("--model", choices=("shape",))
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=96)
    options = parser.parse_args()
    results = shape(options.layers) if options.model else real(options.rows, options.tokens)
    if options.out:
        Path(options.out).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
