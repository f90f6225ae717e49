"""KV caches of 16, 8 and 4 bits: a decode step of the engine and the memory of its caches, by batch and prefix.

``python -m tests.bench.gpu.kv_bits [OUT.json] [--layers 32] [--quick]``: a model of Llama 8B's shape in bf16 with
random weights (on a CPU: of SmolLM2's, in float32), 64 own tokens; the three ways take turns.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

BITS = (None, 8, 4)
OWN, WARM_UP, STEPS, TURNS = 64, 6, 20, 2


def step_seconds(resident, prefix, count, clock):
    """The median decode step of ``count`` sequences behind a prefix, and the bytes of slots and prefix."""
    from runner.engine.engine import BatchEngine
    from runner.sequences import Sequence

    engine = BatchEngine(resident, batch_size=count, kv_bytes=60 << 30, prefill_tokens=2048)
    shared = [3 + i % 90 for i in range(prefix)]
    rows = [shared + [(7 * i + j) % 90 + 1 for j in range(OWN)] for i in range(count)]
    engine.add([Sequence((0, i), row, 400, boundaries=(prefix,)) for i, row in enumerate(rows)])
    while not engine.work.decoded or engine.work.decoded < WARM_UP * count:
        engine.step()
    taken = []
    for _ in range(STEPS):
        began = clock()
        engine.step()
        taken.append(clock() - began)
    nbytes = sum(batch.kv_bytes for batch in engine.batches) + engine.snapshots.nbytes
    engine.close()
    return statistics.median(taken), nbytes


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", nargs="?")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--quick", action="store_true", help="one small cell")
    options = parser.parse_args()
    from runner.machine import device

    found = device.set_up("auto")
    import mlx.core as mx

    from runner.engine.attention.resident import ResidentModel
    from runner.engine.kernels.cuda.prepare import prepare
    from tests.bench.gpu.llama_8b import build
    from tests.bench.lookup import small

    model = small(options.layers) if found.kind == "cpu" else build(options.layers)
    mx.eval(model.parameters())
    if found.kind == "cuda":
        prepare(model, 40 << 30)
    clock = time.process_time if found.kind == "cpu" else time.perf_counter
    residents = {bits: ResidentModel(model, kv_bits=bits) for bits in BITS}
    results = {}
    for prefix in (64,) if options.quick else (512, 2048, 8192):
        for count in (2,) if options.quick else (4, 16, 64, 256):
            best = {}
            for _ in range(TURNS):
                for bits, resident in residents.items():
                    took, nbytes = step_seconds(resident, prefix, count, clock)
                    best[bits] = min(best.get(bits, (took, nbytes)), (took, nbytes))
                    mx.clear_cache()
            said = {str(bits): {"ms": round(1e3 * took, 2), "MB": round(n / 1e6)} for bits, (took, n) in best.items()}
            results[f"{prefix} x {count}"] = said
            print(prefix, count, said, flush=True)
            if options.out:
                Path(options.out).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
