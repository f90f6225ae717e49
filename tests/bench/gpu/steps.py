"""What a decode step takes on a GPU, and which part of it the host takes.

``python -m tests.bench.gpu.steps OUT_DIR [CONFIG]``: a model of Llama 8B's shape and, with gpt-oss-20b's config.json as
CONFIG, one of its shape; bf16, random weights, sequences behind a shared prefix. Results are written to
OUT_DIR/steps.json as they come.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import io
import json
import pstats
import random
import statistics
import time
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

from runner.machine import device
from tests.bench.gpu.gpt_oss import Log, lazy_model
from tests.bench.gpu.llama_8b import Ours, build

PREFIX, SUFFIX = 2048, 64
OPERATIONS = 200


def gpt_oss(config):
    import mlx.core as mx

    from jobs.convert.quantise import flat, quantise

    model = lazy_model(config)
    quantise(model, config, 6, 32)
    for array in flat(model).values():
        mx.eval(array)
    return model


def sequences(count):
    from runner.sequences import Sequence

    draw = random.Random(0)
    prefix = [draw.randrange(1000, 100_000) for _ in range(PREFIX)]
    rows = [prefix + [draw.randrange(1000, 100_000) for _ in range(SUFFIX)] for _ in range(count)]
    return [Sequence((i, 0), row, 200, boundaries=(PREFIX,)) for i, row in enumerate(rows)]


def prefill(ours, rows=32, tokens=512):
    """Tokens/s of prompts that share nothing."""
    from runner.sequences import Sequence

    draw, speeds = random.Random(1), []
    for _ in range(4):
        engine, left = ours.engine(64), rows
        prompts = [[draw.randrange(1000, 100_000) for _ in range(tokens)] for _ in range(rows)]
        began = time.perf_counter()
        engine.add([Sequence((i, 0), row, 1) for i, row in enumerate(prompts)])
        while left:
            left -= len(engine.step())
        speeds.append(rows * tokens / (time.perf_counter() - began))
        engine.close()
    return {"tokens_per_s": round(statistics.median(speeds[1:])), "all": [round(speed) for speed in speeds]}


def step(ours, size):
    """Milliseconds of a step; of setting it up, of handing it to the device, and of waiting for the one before."""
    import mlx.core as mx

    engine = ours.engine(size)
    engine.add(sequences(size))
    for _ in range(12):
        engine.step()
    (batch,), times = engine.batches, []
    for _ in range(60):
        before, began = batch.latest, time.perf_counter()
        arrays = batch.launch()
        launched = time.perf_counter()
        mx.async_eval(arrays)
        handed = time.perf_counter()
        before.read()
        ended = time.perf_counter()
        times.append((ended - began, launched - began, handed - launched, ended - handed))
    profile = cProfile.Profile()
    profile.enable()
    arrays = [batch.launch() for _ in range(5)]
    profile.disable()
    mx.eval(arrays)
    text = io.StringIO()
    pstats.Stats(profile, stream=text).sort_stats("tottime").print_stats(14)
    print(text.getvalue()[:3000], flush=True)
    engine.close()
    names = ("step_ms", "set_up_ms", "hand_over_ms", "wait_ms")
    columns = list(zip(*times, strict=True))
    medians = {name: round(1e3 * statistics.median(part), 2) for name, part in zip(names, columns, strict=True)}
    return medians | {"best_ms": round(1e3 * min(columns[0]), 2)}


def operations():
    """Microseconds that the host takes for one of each: to set it up, to hand it over, and with the device."""
    import mlx.core as mx

    from runner.engine.kernels.cuda.attention import kernels

    T, N, G, D, K = 64, 8, 4, 128, 2048
    half = mx.bfloat16
    x, w = mx.random.normal((T, 4096)).astype(half), (mx.random.normal((4096, 4096)) / 64).astype(half)
    norm, q = mx.ones((4096,), half), mx.random.normal((T, N * G, 1, D)).astype(half)
    at, slot = mx.arange(T, dtype=mx.int32) + 2000, mx.arange(T, dtype=mx.int32)
    k, v = (mx.random.normal((N, K, D)).astype(half) for _ in range(2))
    stored = mx.zeros((T, N, 96, D), half)
    new = mx.random.normal((T, N, D)).astype(half)
    found, mask = kernels(half, D, D, G, D**-0.5), mx.zeros((T, 1, 1, 96))
    mx.eval(x, w, norm, q, at, slot, k, v, stored, new, mask)

    def write(a):
        a[slot, :, slot] = new
        return a

    def segment(a):
        return a + found.over_segment(a.reshape(T, N, G, D), k, v, None, 0, T, 8)[0][0].reshape(a.shape).astype(half)

    def finish(a):
        return found.finish(a, stored, stored, mask, slot, (new, new, slot), None, None)

    ways = {
        "add": (x, lambda a: a + x),
        "matmul": (x, lambda a: a @ w),
        "rms_norm": (x, lambda a: mx.fast.rms_norm(a, norm, 1e-5)),
        "rope": (q, lambda a: mx.fast.rope(a, D, traditional=False, base=1e4, scale=1.0, offset=at)),
        "write": (stored, write),
        "segment, add": (q, segment),
        "finish": (q, finish),
    }
    return timed(ways)


def experts(T=64, E=32, D=2880, F=2880):
    """The same for the parts of gpt-oss's layer of experts."""
    import mlx.core as mx
    from mlx_lm.models.gpt_oss import mlx_topk
    from mlx_lm.models.switch_layers import _gather_sort, _scatter_unsort

    half = mx.bfloat16
    x, bias = mx.random.normal((T, D)).astype(half), mx.random.normal((E, F)).astype(half)
    w = (mx.random.normal((E, F, D)) / 54).astype(half)
    packed = mx.quantize(w, 32, 6)
    router, out = mx.random.normal((E, D)).astype(half), mx.random.normal((E, T, F)).astype(half)
    chosen = mlx_topk(x @ router.T, 4)[1]
    heads = mx.random.normal((T, 64, 1, 64)).astype(half)
    mx.eval(x, bias, w, router, chosen, out, heads, *packed)

    def sorted_mm(a):
        rows, indices, back = _gather_sort(mx.expand_dims(a, (-2, -3)), chosen)
        made = mx.gather_mm(rows, w.swapaxes(-1, -2), rhs_indices=indices, sorted_indices=True)
        return _scatter_unsort(made, back, chosen.shape).sum(axis=1).reshape(T, -1)

    def pick(a):
        return out[chosen, mx.arange(T)[:, None]].sum(axis=1) + a

    def choose(a):
        values, indices = mlx_topk(a @ router.T, 4)
        return a + mx.softmax(values, axis=-1, precise=True).sum(axis=-1, keepdims=True) + indices[:, :1]

    return timed(
        {
            "32 experts": (x, lambda a: (a[None] @ w.swapaxes(-1, -2)).sum(axis=0)),
            "32 experts, dequantised": (x, lambda a: (a[None] @ mx.dequantize(*packed, 32, 6).swapaxes(-1, -2)).sum(0)),
            "sum of 32": (x, lambda a: (out + a).sum(axis=0)),
            "bias": (out, lambda a: a + bias[:, None]),
            "gather_mm, sorted": (x, sorted_mm),
            "pick, add": (x, pick),
            "top 4, softmax, add": (x, choose),
            "yarn's factor": (heads, lambda a: a.at[..., :64].multiply(1.3)),
        }
    )


def packed_experts(D=2880, E=32, k=4):
    """Microseconds of a layer of 6-bit experts by tokens: by kernels, and all at once."""
    import mlx.core as mx
    from mlx_lm.models.gpt_oss import SwigluOAI
    from mlx_lm.models.switch_layers import SwitchGLU

    from runner.engine.kernels.cuda.prepare import AllExperts

    ways, told = {}, {}
    for way in ("kernels", "all"):
        experts = SwitchGLU(D, D, E, SwigluOAI(), bias=True)
        experts.set_dtype(mx.bfloat16)
        for name in ("up_proj", "gate_proj", "down_proj"):
            setattr(experts, name, experts[name].to_quantized(32, 6))
        with patch("runner.engine.kernels.cuda.experts.kernels", lambda _: None) if way == "all" else nullcontext():
            ways[way] = AllExperts(experts)
    for T in (16, 64, 128, 256, 512, 1024, 2048):
        x = mx.random.normal((T, D)).astype(mx.bfloat16)
        chosen = mx.argsort(mx.random.normal((T, E)), axis=-1)[:, :k]
        mx.eval(x, chosen)
        for name, way in ways.items():
            times = []
            for _ in range(4):
                began = time.perf_counter()
                mx.eval([way(x, chosen) for _ in range(10)])
                times.append((time.perf_counter() - began) / 10)
            told[f"{T} {name}"] = round(1e6 * min(times))
    return told


def timed(ways):
    """Microseconds of each way, called again and again on its own result: set up, handed over, done."""
    import mlx.core as mx

    told = {}
    for name, (start, way) in ways.items():
        for _ in range(3):
            began, a = time.perf_counter(), mx.array(start)
            for _ in range(OPERATIONS):
                a = way(a)
            made = time.perf_counter()
            mx.async_eval(a)
            handed = time.perf_counter()
            mx.synchronize()
            done = time.perf_counter()
        told[name] = [round(1e6 * s / OPERATIONS, 1) for s in (made - began, handed - made, done - began)]
    return told


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("config", type=Path, nargs="?")
    parser.add_argument("--layers", type=int, default=32, help="of Llama, for a trial")
    parser.add_argument("--operations", action="store_true", help="microseconds of single operations, too")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    device.set_up("cuda")
    log = Log(options.out / "steps.json")
    if options.operations:
        log.stage("operations", operations)
        log.stage("experts", experts)
        log.stage("packed experts", packed_experts)
    if options.layers:
        ours = Ours(build(options.layers))
        for size in (64, 256):
            log.stage(f"Llama 8B, {size} sequences", step, ours, size)
        del ours
        gc.collect()
    if options.config:
        config = json.loads(options.config.read_text())
        config.pop("quantization_config", None)
        model = gpt_oss(config)
        ours, layer = Ours(model), model.layers[0]
        log.stage("gpt-oss-20b, kernels", lambda: {"experts": layer.mlp.experts.kernels is not None})
        for size in (64, 256):
            log.stage(f"gpt-oss-20b, {size} sequences", step, ours, size)
        log.stage("gpt-oss-20b, prefill", prefill, ours)


if __name__ == "__main__":
    main()
