"""One shared copy of a prefix against a copy in each slot: a decode step of one layer, by batch and prefix.

``python -m tests.bench.ways [OUT.json] [--plain]``: microseconds of both ways on this device for Llama 8B's shape, on a
CPU for SmolLM2's; above 1 sharing is faster. ``--plain`` leaves the CUDA kernels out, as on Metal.
"""

import argparse
import json
from pathlib import Path

BATCHES = (4, 8, 16, 32, 64)
PREFIXES = (128, 512, 2048, 8192)


def steps(model, layers):
    """Milliseconds of a whole decode step of the engine, shared and copied, with the model's other layers."""
    import time

    import mlx.core as mx

    from runner.engine.attention.copies import Copies
    from runner.engine.engine import BatchEngine
    from runner.sequences import Sequence

    for length in (512, 2048):
        for count in (4, 16, 64):
            found = []
            for most in (0, count):
                engine = BatchEngine(
                    model, batch_size=count, kv_bytes=40 << 30, prefill_tokens=2048, copies=Copies((most,) * 3)
                )
                rows = [[7] * length + [i % 90 + 1] * 64 for i in range(count)]
                engine.add([Sequence((i, 0), row, 200, boundaries=(length,)) for i, row in enumerate(rows)])
                for _ in range(20):
                    engine.step()
                began = time.perf_counter()
                for _ in range(60):
                    engine.step()
                found.append((time.perf_counter() - began) / 60 * 1e3)
                engine.close()
                mx.clear_cache()
            shared, copied = found
            line = f"{layers} layers, prefix {length}, {count}: {shared:.2f} ms shared, {copied:.2f} copied"
            print(line, f"{copied / shared:.2f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", nargs="?")
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--steps", type=int, default=0, help="of a model of Llama 8B's shape with so many layers")
    options = parser.parse_args()
    from runner.machine.device import set_up

    device = set_up("auto")
    import mlx.core as mx

    from runner.engine.attention import prefix
    from runner.engine.attention.copies import cell, measure
    from runner.engine.attention.parts import Form

    if options.plain:
        prefix.cuda_attention.kernels = lambda *_: None
    if options.steps:
        from runner.engine.attention.resident import ResidentModel
        from runner.engine.kernels.cuda.prepare import prepare
        from runner.engine.tuning import copies_here
        from tests.bench.gpu.llama_8b import build

        model = build(options.steps)
        if device.kind == "cuda":
            prepare(model, 40 << 30)
        resident = ResidentModel(model)
        print(copies_here(resident, device.name))
        steps(resident, options.steps)
        return
    shapes = {"llama 8B": Form(32, 128, 8, 128, mx.bfloat16)}
    if device.kind == "cpu":
        shapes = {"SmolLM2": Form(9, 64, 3, 64, mx.float32)}
    results = {}
    for name, shape in shapes.items():
        for length in PREFIXES:
            cells = []
            for count in BATCHES:
                if count * length > 64 * 4096:
                    continue
                found = cell(shape, length, count)
                shared, copied = min(found.shared), min(found.copied)
                cells.append(f"{count}: {1e6 * shared:.0f} us shared, {1e6 * copied:.0f} copied, {copied / shared:.2f}")
            results[f"{name}, prefix {length}"] = cells
            print(name, length, *cells, sep="\n  ", flush=True)
        results[name] = measure(shape)
        print(results[name])
    if options.out:
        Path(options.out).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
