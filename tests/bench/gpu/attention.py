"""The CUDA kernels of attention against MLX's own operations, on a GPU.

``python -m tests.bench.gpu.attention OUT_DIR``: random shapes, the largest difference of outputs and masses for each,
and the microseconds of both ways when the device is kept waiting for nothing. Results: OUT_DIR/attention.json.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

from runner.machine import device
from tests.bench.gpu.gpt_oss import Log

HEADS = ((128, 4, 8), (64, 8, 8), (128, 1, 4), (64, 5, 2), (16, 2, 2), (32, 3, 1))  # D, G, N


def slots_case(draw, D, G, N, dtype):
    import mlx.core as mx

    slots, ring = draw.choice([1, 3, 64]), draw.choice([32, 96, 160])
    slot_of = draw.sample(range(slots), draw.randint(1, slots))
    K = draw.randint(1, ring)
    q = mx.random.normal((len(slot_of) + draw.choice([0, 2]), N, G, D)).astype(dtype)
    keys, values = (mx.random.normal((slots + 1, N, ring, D)).astype(dtype) for _ in range(2))
    hidden = mx.random.uniform(shape=(slots, 1, 1, K)) < 0.4
    hidden = mx.where(mx.arange(K) == 0, False, hidden)
    return q, keys, values, mx.where(hidden, -1e30, 0.0), mx.array(slot_of, mx.int32)


def segment_case(draw, D, G, N, dtype):
    import mlx.core as mx

    tokens, K = draw.choice([1, 7, 64, 300]), draw.choice([1, 63, 64, 65, 700, 2048])
    first = draw.choice([0, 3])
    q = mx.random.normal((first + tokens + 1, N, G, D)).astype(dtype)
    k, v = (mx.random.normal((N, K, D)).astype(dtype) for _ in range(2))
    mask = None
    if draw.random() < 0.5:
        mask = mx.where(mx.random.uniform(shape=(tokens, K)) < 0.5, -1e30, 0.0)
    return q, k, v, mask, first, tokens


def difference(parts, want):
    """Of merged outputs and masses, where a token sees any key at all."""
    import mlx.core as mx

    masses = mx.stack([part[1] for part in parts])
    mass = mx.logsumexp(masses, axis=0)
    out = sum(mx.exp(part[1] - mass) * part[0] for part in parts)
    want_out, want_mass = want
    seen = want_mass > -1e29
    errors = (mx.abs(out - want_out) * seen).max(), (mx.abs(mass - want_mass) * seen).max()
    hidden = mx.where(seen, -1e30, mass).max()
    assert float(hidden) < -1e29, "a token that sees nothing has a mass"
    return tuple(float(error) for error in errors)


def unstacked(stacked):
    return list(zip(*stacked, strict=True))


def finish_case(draw, found, plain, D, G, N, dtype):
    """Slots merged with stacked parts and sinks, against merging them by MLX's operations."""
    import mlx.core as mx

    q, *slots = slots_case(draw, D, G, N, dtype)
    tokens = slots[-1].size
    q = q[:tokens]
    k, v = (mx.random.normal((N, 700, D)).astype(dtype) for _ in range(2))
    before = found.over_segment(q, k, v, None, 0, tokens, 4) if draw.random() < 0.7 else None
    sinks = mx.random.normal((N * G,)).astype(dtype) if draw.random() < 0.5 else None
    keys, values, mask, slot_of = slots
    fresh = [mx.random.normal((tokens, N, 1, D)).astype(dtype) for _ in range(2)]
    fresh.append(mx.array([draw.randrange(mask.shape[-1]) for _ in range(tokens)], mx.int32))
    mine, theirs = ([a * 1 for a in (keys, values)] for _ in range(2))
    mx.eval(mine, theirs, fresh)
    got = found.finish(q.reshape(tokens, N * G, 1, D), *mine, mask, slot_of, fresh, before, sinks).reshape(q.shape)
    stacked = plain.over_segment(q, k, v, None, 0, tokens, 1) if before is not None else None
    want = plain.finish(q, *theirs, mask, slot_of, fresh, stacked, sinks)
    mx.eval(got, want)
    stored = max(float(mx.abs(a - b).max()) for a, b in zip(mine, theirs, strict=True))
    return float(mx.abs(got.astype(mx.float32) - want.astype(mx.float32)).max()), stored


def agreement(count):
    import mlx.core as mx

    from runner.engine.kernels.cuda.attention import kernels
    from tests.support.kernels import PlainKernels

    draw, worst = random.Random(1), {}
    for index in range(count):
        (D, G, N), dtype = HEADS[index % len(HEADS)], draw.choice([mx.bfloat16, mx.float16])
        found, plain = kernels(dtype, D, D, G, D**-0.5), PlainKernels(D**-0.5)
        case = slots_case(draw, D, G, N, dtype)
        slots = difference([found.over_slots(*case)], plain.over_slots(*case))
        case = segment_case(draw, D, G, N, dtype)
        (want,) = unstacked(plain.over_segment(*case, 1))
        segment = difference(unstacked(found.over_segment(*case, draw.choice([1, 2, 4]))), want)
        finish = finish_case(draw, found, plain, D, G, N, dtype)
        for name, errors in (("slots", slots), ("segment", segment), ("finish", finish)):
            key = f"{name} D{D} G{G} {str(dtype).split('.')[-1]}"
            worst[key] = [max(pair) for pair in zip(errors, worst.get(key, (0, 0)), strict=True)]
    return worst


def microseconds(call, repeat=50):
    import mlx.core as mx

    mx.eval(call())
    began = time.perf_counter()
    mx.eval([call() for _ in range(repeat)])
    return 1e6 * (time.perf_counter() - began) / repeat


def speed(D, G, N, tokens, prefix, own):
    import mlx.core as mx

    from runner.engine.kernels.cuda.attention import kernels
    from tests.support.kernels import PlainKernels

    dtype = mx.bfloat16
    found, plain = kernels(dtype, D, D, G, D**-0.5), PlainKernels(D**-0.5)
    q = mx.random.normal((tokens, N, G, D)).astype(dtype)
    k, v = (mx.random.normal((N, prefix, D)).astype(dtype) for _ in range(2))
    times = {}
    shares = found.shares(N, tokens, prefix)
    times["segment_us"] = microseconds(lambda: found.over_segment(q, k, v, None, 0, tokens, shares))
    times["segment_mlx_us"] = microseconds(lambda: plain.over_segment(q, k, v, None, 0, tokens, 1))
    times["segment_tflops"] = 4e-6 * tokens * N * G * prefix * D / times["segment_us"]
    if tokens <= 256:
        keys, values = (mx.random.normal((tokens, N, own, D)).astype(dtype) for _ in range(2))
        case = q, keys, values, mx.zeros((tokens, 1, 1, own)), mx.arange(tokens, dtype=mx.int32)
        times["slots_us"] = microseconds(lambda: found.over_slots(*case))
        times["slots_mlx_us"] = microseconds(lambda: plain.over_slots(*case))
    return {name: round(value, 1) for name, value in times.items()} | {"shares": shares}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--cases", type=int, default=60)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    device.set_up("cuda")
    log = Log(options.out / "attention.json")
    log.stage("largest differences [output, mass]", agreement, options.cases)
    for shape in (
        (128, 4, 8, 64, 2048, 96),
        (128, 4, 8, 2048, 2048, 96),
        (64, 8, 8, 64, 600, 96),
        (64, 8, 8, 1, 600, 2048),
    ):
        log.stage("D {} G {} N {} tokens {} prefix {} own {}".format(*shape), speed, *shape)


if __name__ == "__main__":
    main()
