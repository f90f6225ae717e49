"""One shared copy of a prefix against a copy in each slot: a decode step of one layer, by batch and prefix.

``python -m tests.bench.ways [OUT.json] [--plain]``: microseconds of both ways on this device for Llama 8B's shape, on a
CPU for SmolLM2's; above 1 sharing is faster. ``--plain`` leaves the CUDA kernels out, as on Metal.
"""

import argparse
import json
from pathlib import Path

BATCHES = (4, 8, 16, 32, 64)
PREFIXES = (128, 512, 2048, 8192)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", nargs="?")
    parser.add_argument("--plain", action="store_true")
    options = parser.parse_args()
    from runner.machine.device import set_up

    device = set_up("auto")
    import mlx.core as mx

    from runner.engine.attention import prefix
    from runner.engine.attention.copies import measure, seconds
    from runner.engine.attention.prefix import Form

    if options.plain:
        prefix.cuda_attention.kernels = lambda *_: None
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
                shared, copied = (seconds(shape, length, count, way) for way in (False, True))
                cells.append(f"{count}: {1e6 * shared:.0f} us shared, {1e6 * copied:.0f} copied, {copied / shared:.2f}")
            results[f"{name}, prefix {length}"] = cells
            print(name, length, *cells, sep="\n  ", flush=True)
        results[name] = measure(shape)
        print(results[name])
    if options.out:
        Path(options.out).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
