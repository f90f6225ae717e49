"""A model of Llama 8B's shape in bf16 with random weights, on a GPU: rowmill against mlx-lm's own batches.

``python -m tests.bench.gpu.llama_8b OUT_DIR``. Results are written to OUT_DIR/llama_8b.json as they come. The first
forward passes compile kernels for half a minute and are not counted.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from pathlib import Path

from runner.machine import device
from tests.bench.gpu.gpt_oss import Log

PREFIX, SUFFIX, OUTPUT = 2048, 64, 32


def build(layers):
    import mlx.core as mx
    from mlx_lm.models import llama

    args = llama.ModelArgs(
        model_type="llama",
        hidden_size=4096,
        num_hidden_layers=layers,
        intermediate_size=14336,
        num_attention_heads=32,
        num_key_value_heads=8,
        rms_norm_eps=1e-5,
        vocab_size=128256,
        rope_theta=5e5,
        tie_word_embeddings=False,
    )
    model = llama.Model(args)
    model.set_dtype(mx.bfloat16)
    mx.eval(model.parameters())
    return model


def prompts(count, seed=0):
    draw = random.Random(seed)
    prefix = [draw.randrange(1000, 100_000) for _ in range(PREFIX)]
    return [prefix + [draw.randrange(1000, 100_000) for _ in range(SUFFIX)] for _ in range(count)]


class Ours:
    """Rows through a BatchEngine; ``size`` None lets it find its batch size. Changes the model, as a run does."""

    def __init__(self, model):
        import mlx.core as mx

        from runner.engine.attention.resident import ResidentModel
        from runner.engine.budget import MOST_WORK_BYTES
        from runner.engine.kernels.cuda.prepare import prepare
        from runner.engine.tuning import measure_costs

        prepare(model, 40 << 30)
        self.resident = ResidentModel(model)
        self.costs = measure_costs(self.resident)
        self.bound_bytes = mx.get_active_memory() + int(MOST_WORK_BYTES["cuda"])

    def engine(self, size, prefill=4096):
        from runner.engine.budget import MOST
        from runner.engine.engine import BatchEngine

        most = None if size else MOST
        bounds = {
            "kv_bytes": 40 << 30,
            "bound_bytes": self.bound_bytes,
            "prefill_tokens": prefill,
            "costs": self.costs,
            "most": most,
        }
        return BatchEngine(self.resident, batch_size=size or 64, **bounds)

    def run(self, rows, output, size, prefill=4096):
        """Seconds, tokens by row, and the engine's figures."""
        from runner.loop.plan import Plan
        from runner.sequences import Sequence

        engine, plan, done = self.engine(size, prefill), Plan(self.costs), {}
        began = time.perf_counter()
        plan.add([Sequence((i, 0), row, output) for i, row in enumerate(rows)])
        while len(done) < len(rows):
            engine.add(plan.take(engine.room()))
            done.update({one.key[0]: one.tokens for one in engine.step()})
        seconds = time.perf_counter() - began
        sizes = engine.batch_size
        engine.close()
        return seconds, [done[i] for i in range(len(rows))], sizes


def throughput(ours, rows, size, prefill=4096, repeat=3):
    import mlx.core as mx

    before = mx.get_active_memory()
    ours.run(rows[: min(len(rows), 2 * (size or 128))], 3, size, prefill)
    mx.reset_peak_memory()
    runs = [ours.run(rows, OUTPUT, size, prefill) for _ in range(repeat)]
    seconds = statistics.median(run[0] for run in runs)
    peak = (mx.get_peak_memory() - before) / 1e9
    return {
        "rows": len(rows),
        "rows_per_s": len(rows) / seconds,
        "all": [len(rows) / run[0] for run in runs],
        "batch_size_at_end": runs[-1][2],
        "peak_beyond_weights_gb": peak,
        "prefill_only_s": ours.run(rows, 1, size, prefill)[0],
    }


def peer(model, rows, shared):
    """mlx-lm's batch_generate, with or without a copied prefix."""
    import mlx.core as mx
    from mlx_lm.generate import BatchGenerator
    from mlx_lm.models.cache import make_prompt_cache

    def once(rows, output):
        generator = BatchGenerator(model, max_tokens=output, stop_tokens=[], completion_batch_size=64)
        cache = make_prompt_cache(model)
        if shared:
            model(mx.array([rows[0][:PREFIX]]), cache=cache)
            mx.eval([layer.state for layer in cache])
        own = [row[PREFIX if shared else 0 :] for row in rows]
        began, left = time.perf_counter(), len(rows)
        generator.insert(own, caches=[cache] * len(rows) if shared else None)
        while left:
            left -= sum(answer.finish_reason is not None for answer in generator.next_generated())
        generator.close()
        return time.perf_counter() - began

    once(rows[:16], 3)
    mx.reset_peak_memory()
    seconds = once(rows, OUTPUT)
    return {"rows": len(rows), "rows_per_s": len(rows) / seconds, "peak_gb": mx.get_peak_memory() / 1e9}


def agreement(model, ours, rows):
    """Greedy tokens against one-by-one generation: rows that agree, and the margin where the first one does not."""
    import mlx.core as mx
    from mlx_lm.generate import generate_step

    _, tokens, _ = ours.run(rows, OUTPUT, 64)
    equal, margins = 0, []
    for row, got in zip(rows, tokens, strict=True):
        want = [int(token) for token, _ in generate_step(mx.array(row), model, max_tokens=OUTPUT)]
        place = next((i for i, pair in enumerate(zip(want, got, strict=True)) if pair[0] != pair[1]), None)
        equal += place is None
        if place is not None:
            logits = model(mx.array([row + want[:place]]))[0, -1].astype(mx.float32)
            margins.append(float(logits[want[place]] - logits[got[place]]))
    return {"rows": len(rows), "equal": equal, "logit_margins_at_first_divergence": [round(m, 4) for m in margins]}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--quick", action="store_true", help="rowmill alone")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    device.set_up("cuda")
    log = Log(options.out / "llama_8b.json")
    model, rows = build(options.layers), prompts(options.rows)
    for shared in () if options.quick else (True, False):  # first: the model is as mlx-lm made it
        few = rows[: 128 if shared else 64]
        log.stage(f"mlx-lm batches, prefix {'copied' if shared else 'computed'}", peer, model, few, shared)
    ours = Ours(model)
    log.stage("costs", ours.costs._asdict)
    log.stage("warm up", lambda: {"s": ours.run(rows[:64], 4, 64)[0]})
    for size in (None, 64):
        log.stage(f"batch {size or 'found'}", throughput, ours, rows, size)
    if not options.quick:
        log.stage("agreement", agreement, model, ours, rows[:16])


if __name__ == "__main__":
    main()
