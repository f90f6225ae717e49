"""Families of models: prefixes shared against a copied cache for each row.

``python -m tests.bench.families [--only NAME...] [--rows 48] [--turns 2]``: for each family a model of random weights,
wide enough that matrix products count; rows/s of processor time that both engines generate and label with, taking
turns, and the bytes that a token's keys and values take. Above 1 sharing is faster.
``python -m tests.bench.families --gpu [--width 2048]``: rows a second of some families in bf16, with heads of usual
sizes.
"""

import argparse
import functools
import time

SHARED, OWN, GENERATED = 256, 16, 16  # tokens
WIDTH = 256
GPU = (
    *("gemma2", "gemma3n", "gemma4_text", "deepseek_v3", "glm4_moe_lite", "llama4", "afm7", "qwen3_next", "qwen3_5"),
    *("qwen3_5_moe", "kimi_linear", "olmo_hybrid", "nemotron_h", "granitemoehybrid", "falcon_h1", "lfm2", "jamba"),
    *("mamba", "rwkv7", "recurrent_gemma", "bailing_moe_linear"),
)
HEADS = ("num_attention_heads", "num_heads", "linear_num_value_heads", "mamba_num_heads", "mamba_n_heads")
FEWER_HEADS = ("num_key_value_heads", "linear_num_key_heads")
LATENT = {"kv_lora_rank": 64, "q_lora_rank": 64, "qk_rope_head_dim": 16, "qk_nope_head_dim": 32, "v_head_dim": 32}
WIDE_LATENT = {"kv_lora_rank": 512, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128}


def attention_sizes(name, width):
    """What a family's configuration gets for a width: heads of 32 numbers, of 128 where there are many."""
    head = 32 if width <= 256 else 128
    wider = {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_attention_heads": width // head,
        "num_key_value_heads": 2 if width <= 256 else width // head // 2,
        "head_dim": head,
        "max_position_embeddings": 4096,
    }
    latent = (LATENT if width <= 256 else WIDE_LATENT | {"q_lora_rank": width // 2}) | {
        "num_key_value_heads": width // head
    }
    scaling = {"original_max_position_embeddings": 512, "short_factor": [1.0] * 8, "long_factor": [1.0] * 8}
    own = {
        "afm7": {"hidden_dim": width, "num_heads": width // head, "num_layers": 6},
        "gemma3n": {"sliding_window": 64},
        "gemma4_text": {"sliding_window": 64, "global_head_dim": 2 * head},
        "gear": {"sliding_window": 64},
        "llama4": {"attention_chunk_size": 128, "intermediate_size_mlp": 2 * width},
        **dict.fromkeys(("deepseek_v2", "deepseek_v3", "glm4_moe_lite", "mistral4"), latent),
        "deepseek_v32": latent | {"index_head_dim": head, "index_topk": 128},
        "minicpm3": latent | {"rope_scaling": scaling},
    }
    return wider | own.get(name, {})


def usual_heads(family, width):
    """A recurrent family whose heads have 128 numbers, where it would have four wide ones."""
    factor = width // 512

    def changed(name, value):
        if isinstance(value, dict):
            return {one: changed(one, found) for one, found in value.items()}
        if name in WIDE_LATENT:
            return WIDE_LATENT[name]
        if name in (*HEADS, *FEWER_HEADS):
            return value * factor
        return 128 if value == width // 4 else value

    @functools.wraps(family)
    def wider(D):
        return {name: changed(name, value) for name, value in family(D).items()}

    return wider


def made(name, width):
    """A model of a family, of attention alone or with recurrent layers."""
    from tests.support import attentions, recurrent

    if name in attentions.FAMILIES:
        return attentions.tiny(name, **attention_sizes(name, width))
    family = getattr(recurrent, name)
    return recurrent.recurrent(usual_heads(family, width) if width > 512 else family, width=width)


def names():
    from tests.support import attentions, recurrent

    return [*attentions.FAMILIES, *(family.__name__ for family in recurrent.FAMILIES)]


def engines(name, options, device):
    """Makers of the two engines; the first is None if the family cannot share."""
    import mlx.core as mx
    from mlx.utils import tree_map

    from runner.engine.attention.resident import ResidentModel, UnsupportedModelError
    from runner.engine.copying.engine import CopyingEngine
    from runner.engine.engine import BatchEngine
    from runner.engine.kernels.cuda.prepare import prepare
    from runner.engine.tuning import copies_here

    def prepared():
        model = made(name, options.width)
        if options.gpu and device.kind != "cpu":  # which has no experts in 16 bits
            model.set_dtype(mx.bfloat16)
            # Random weights this large would make much of what 16 bits round.
            model.update(tree_map(lambda a: a / 2 if a.ndim > 1 else a, model.parameters()))
            mx.eval(model.parameters())
        if device.kind == "cuda":
            prepare(model, 40 << 30)
        return model

    copying = prepared()
    try:
        resident = ResidentModel(prepared())
    except UnsupportedModelError as problem:
        print(f"{name}: {problem}", flush=True)
        return None, None, 0
    sizes = {"batch_size": options.batch, "prefill_tokens": 512 if device.kind == "cpu" else 2048}
    copies = copies_here(resident, device.name)
    return (
        lambda: BatchEngine(resident, copies=copies, **sizes),
        lambda: CopyingEngine(copying, **sizes),
        resident.token_bytes,
    )


def work(rows, choices, prefix):
    """Rows behind one prefix, to be generated from or labelled."""
    from runner.sequences import Sequence

    shared = [1 + i % 90 for i in range(prefix)]
    own = [[*shared, *((3 + 7 * i + j) % 96 + 1 for j in range(OWN + i % 5))] for i in range(rows)]
    return [Sequence((i, 0), row, GENERATED, boundaries=(prefix,), choices=choices) for i, row in enumerate(own)]


def seconds(make, todo, clock):
    """Until all is done, and the peak of memory beyond the weights."""
    import mlx.core as mx

    engine = make()
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    began, done = clock(), 0
    engine.add(list(todo))
    while done < len(todo):
        done += len(engine.step())
    took = clock() - began
    engine.close()
    return took, mx.get_peak_memory() - before


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="*", default=None)
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--width", type=int, default=0)
    parser.add_argument("--prefix", type=int, default=SHARED)
    parser.add_argument("--batch", type=int, default=16)
    options = parser.parse_args()
    options.width = options.width or (2048 if options.gpu else WIDTH)
    from runner.machine.device import set_up

    device = set_up("auto")
    clock = time.process_time if device.kind == "cpu" else time.perf_counter
    for name in options.only or (GPU if options.gpu else names()):
        began = time.perf_counter()
        shared, copied, token = engines(name, options, device)
        if shared is None:
            continue
        said = []
        for choices in (None, ((5,), (6, 7), (8, 9, 10))):
            todo = work(options.rows, choices, options.prefix)
            turns = [(seconds(shared, todo, clock), seconds(copied, todo, clock)) for _ in range(options.turns)]
            best = [min(turn[side][0] for turn in turns) for side in (0, 1)]
            peak = [min(turn[side][1] for turn in turns) / 1e6 for side in (0, 1)]
            rates = [options.rows / took for took in best]
            said.append(f"{rates[0]:.1f} / {rates[1]:.1f} | {rates[0] / rates[1]:.2f}")
            said.append(f"{peak[0]:.1f} / {peak[1]:.1f}")
        took = time.perf_counter() - began
        print(f"| {name} | {said[0]} | {said[2]} | {said[1]} | {said[3]} | {token:,} | ({took:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
