"""Families of models: prefixes shared against a copied cache for each row.

``python -m tests.bench.families [--only NAME...] [--rows 48] [--turns 2]``: for each family a model of random weights,
wide enough that matrix products count; rows/s of processor time that both engines generate and label with, taking
turns, and the bytes that a token's keys and values take. Above 1 sharing is faster.
"""

import argparse
import time

SHARED, OWN, GENERATED = 256, 16, 16  # tokens
WIDTH = 256
LATENT = {"kv_lora_rank": 64, "q_lora_rank": 64, "qk_rope_head_dim": 16, "qk_nope_head_dim": 32, "v_head_dim": 32}
WIDER = {
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "num_attention_heads": 8,
    "head_dim": 32,
    "max_position_embeddings": 4096,
}
OWN_SIZES = {
    "afm7": {"hidden_dim": WIDTH, "num_heads": 8, "num_layers": 6},
    "gemma3n": {"sliding_window": 64},
    "gemma4_text": {"sliding_window": 64, "global_head_dim": 64},
    "gear": {"sliding_window": 64},
    "llama4": {"attention_chunk_size": 128, "intermediate_size_mlp": 2 * WIDTH},
    **dict.fromkeys(("deepseek_v2", "deepseek_v3", "glm4_moe_lite", "mistral4"), LATENT | {"num_key_value_heads": 8}),
    "minicpm3": LATENT
    | {
        "num_key_value_heads": 8,
        "rope_scaling": {"original_max_position_embeddings": 512, "short_factor": [1.0] * 8, "long_factor": [1.0] * 8},
    },
}


def made(name):
    """A model of a family, of attention alone or with recurrent layers."""
    from tests.support import attentions, recurrent

    if name in attentions.FAMILIES:
        return attentions.tiny(name, **WIDER, **OWN_SIZES.get(name, {}))
    return recurrent.recurrent(getattr(recurrent, name), width=WIDTH)


def names():
    from tests.support import attentions, recurrent

    return [*attentions.FAMILIES, *(family.__name__ for family in recurrent.FAMILIES)]


def engines(name):
    """Makers of the two engines; the first is None if the family cannot share."""
    from runner.engine.attention.resident import ResidentModel, UnsupportedModelError
    from runner.engine.copying.engine import CopyingEngine
    from runner.engine.engine import BatchEngine

    copying = made(name)
    try:
        resident = ResidentModel(made(name))
    except UnsupportedModelError as problem:
        print(f"{name}: {problem}", flush=True)
        return None, None, 0
    sizes = {"batch_size": 16, "prefill_tokens": 512}
    return (
        lambda: BatchEngine(resident, **sizes),
        lambda: CopyingEngine(copying, **sizes),
        resident.token_bytes,
    )


def work(rows, choices):
    """Rows behind one prefix, to be generated from or labelled."""
    from runner.sequences import Sequence

    shared = [1 + i % 90 for i in range(SHARED)]
    own = [[*shared, *((3 + 7 * i + j) % 96 + 1 for j in range(OWN + i % 5))] for i in range(rows)]
    return [Sequence((i, 0), row, GENERATED, boundaries=(SHARED,), choices=choices) for i, row in enumerate(own)]


def seconds(make, todo):
    """Processor seconds until all is done, and the peak of memory beyond the weights."""
    import mlx.core as mx

    engine = make()
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    began, done = time.process_time(), 0
    engine.add(list(todo))
    while done < len(todo):
        done += len(engine.step())
    took = time.process_time() - began
    engine.close()
    return took, mx.get_peak_memory() - before


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="*", default=None)
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--turns", type=int, default=2)
    options = parser.parse_args()
    from runner.machine.device import set_up

    set_up("auto")
    for name in options.only or names():
        shared, copied, token = engines(name)
        if shared is None:
            continue
        said = []
        for choices in (None, ((5,), (6, 7), (8, 9, 10))):
            todo = work(options.rows, choices)
            turns = [(seconds(shared, todo), seconds(copied, todo)) for _ in range(options.turns)]
            best = [min(turn[side][0] for turn in turns) for side in (0, 1)]
            peak = [min(turn[side][1] for turn in turns) / 1e6 for side in (0, 1)]
            rates = [options.rows / took for took in best]
            said.append(f"{rates[0]:.1f} {rates[1]:.1f} {rates[0] / rates[1]:.2f} | {peak[0]:.1f} {peak[1]:.1f}")
        print(f"| {name} | {' | '.join(said)} | {token} |", flush=True)


if __name__ == "__main__":
    main()
