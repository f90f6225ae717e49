"""gpt-oss at full size on a GPU, with random weights: what it weighs, and that ``rowmill`` runs it.

``python -m tests.bench.gpu.gpt_oss FOLDER OUT_DIR``, where FOLDER has the real config.json and tokenizer. Results are
written to OUT_DIR/gpt_oss.json as they come; weights and runs lie in ``--work``. A stage that fails is noted; the next
runs.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

SIZES = ((8, 64), (6, 32), (5, 32), (4, 32))  # bits, group size
WORDS = "the film plot cast music was is felt slow bright dull brave long short and but very quite never again"


class Log:
    """Stages with their times, printed and written at once."""

    def __init__(self, path):
        self.path, self.began, self.results = path, time.time(), {}

    def say(self, text):
        print(f"[{time.time() - self.began:7.1f} s] {text}", flush=True)

    def stage(self, name, work, *arguments):
        self.say(f"{name} ...")
        began = time.time()
        try:
            result = work(*arguments)
        except Exception as error:
            traceback.print_exc()
            result = {"failed": f"{type(error).__name__}: {error}"}
        self.results[name] = {"stage_s": round(time.time() - began, 2), **result}
        self.path.write_text(json.dumps(self.results, indent=1) + "\n")
        self.say(f"{name}: {json.dumps(self.results[name])[:1500]}")


def lazy_model(config):
    """The model with lazy random bfloat16 weights, as the hub's checkpoint has once it is dequantised."""
    import mlx.core as mx
    from mlx.utils import tree_map_with_path
    from mlx_lm.models import gpt_oss

    model = gpt_oss.Model(gpt_oss.ModelArgs.from_dict(config))
    keys = iter(mx.random.split(mx.random.key(0), 100_000))

    def weights(name, array):
        if "norm" in name:
            return mx.ones(array.shape, mx.bfloat16)
        reach = 0.035 if array.ndim > 1 else 0.1
        return mx.random.uniform(-reach, reach, array.shape, mx.bfloat16, key=next(keys))

    model.update(tree_map_with_path(weights, model.parameters()))
    return model


def four_sizes(config):
    """Bytes of tensors for each size, from shapes alone."""
    from jobs.convert.quantise import flat, precisions, quantise
    from runner.models.tensors import Tensor

    sizes = {}
    for bits, group in SIZES:
        model = lazy_model(config)
        quantised = quantise(model, config, bits, group)
        kinds = precisions({name: Tensor(tuple(a.shape), a.nbytes) for name, a in flat(model).items()}, quantised)
        size, values = sum(kind.size_bytes for kind in kinds), sum(kind.values for kind in kinds)
        sizes[f"{bits}-bit/{group}"] = {"weight_bytes": size, "values": values, "bits_per_weight": 8 * size / values}
    return sizes


def build(config, source, folder, bits):
    """Quantised in groups of 32 on the device, saved."""
    import mlx.core as mx

    from jobs.convert.quantise import carry, flat, quantise, write_config, write_weights

    if folder.is_dir():
        return {"note": "built before"}
    part = folder.with_name("part")
    part.mkdir(parents=True, exist_ok=True)
    mx.reset_peak_memory()
    model = lazy_model(config)
    quantised = quantise(model, config, bits, 32)
    weights = flat(model)
    del model
    write_weights(part, weights)
    write_config(part, quantised)
    carry(source, part)
    peak = mx.get_peak_memory()
    mx.clear_cache()
    part.rename(folder)
    return {"disk_bytes": sum(file.stat().st_size for file in folder.iterdir()), "peak_bytes": int(peak)}


def rowmill(log, *words):
    """A command's JSON, its log shown as it comes. RuntimeError for an exit code but 0 and 1 (rows in error)."""
    command = [sys.executable, "-m", "runner.cli", *map(str, words), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=sys.stdout, text=True, check=False)
    log.say(f"exit code {done.returncode}")
    if done.returncode not in (0, 1):
        raise RuntimeError(f"exit code {done.returncode}: {done.stdout[-500:]}")
    return {"exit_code": done.returncode, **json.loads(done.stdout)}


def label_job(log, model, work, rows, backend):
    draw = random.Random(0)
    table = work / "rows.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text"])
        writer.writerows([[" ".join(draw.choices(WORDS.split(), k=draw.randrange(20, 60)))] for _ in range(rows)])
    prompt = "prompt.user='Is this film review positive or negative? One word. Review: {{ text }}'"
    labels = ("job=label", "job.labels=[positive,negative]", "dataset=csv", f"dataset.path={table}", prompt)
    return rowmill(log, "run", *labels, *_where(model, work, backend), f"run_name=label-{int(time.time())}")


def generation(log, model, work, tokens, backend):
    table = work / "one.csv"
    table.write_text("text\nthe sea\n")
    words = ("job=generate", "dataset=csv", f"dataset.path={table}", "prompt.user='Write about {{ text }}.'")
    name = f"run_name=generate-{int(time.time())}"
    return rowmill(log, "run", *words, f"engine.max_tokens={tokens}", *_where(model, work, backend), name)


def card_line(log, model, work, tokens, backend):
    words = ("benchmark.workload=card", f"benchmark.response={tokens}", "benchmark.suffix=64")
    return rowmill(log, "benchmark", *words, *_where(model, work, backend))


def _where(model, work, backend):
    return f"model.path={model}", f"engine.backend={backend}", f"output.dir={work / 'outputs'}"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "rowmill-gpt-oss")
    parser.add_argument("--backend", default="cuda")
    parser.add_argument("--layers", type=int, help="fewer layers, for a trial")
    parser.add_argument("--experts", type=int, help="fewer experts, for a trial")
    parser.add_argument("--bits", type=int, default=6, help="of the model that is built")
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=2048)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    options.work.mkdir(parents=True, exist_ok=True)
    log = Log(options.out / "gpt_oss.json")

    from runner.machine import device

    found = device.set_up(options.backend)
    from tests.support.checkpoints import shaped

    config = json.loads((options.folder / "config.json").read_text())
    config.pop("quantization_config", None)
    given = {"num_hidden_layers": options.layers, "num_local_experts": options.experts}
    config = shaped(config, **{name: size for name, size in given.items() if size})
    model = options.work / f"gpt-oss-random-{options.bits}bit-gs32"
    log.stage("machine", lambda: {"device": found.kind, "name": found.name, "memory_bytes": found.memory_bytes})
    log.stage("sizes", four_sizes, config)
    log.stage("build", build, config, options.folder, model, options.bits)
    log.stage("label", label_job, log, model, options.work, options.rows, options.backend)
    log.stage("generate", generation, log, model, options.work, options.tokens, options.backend)
    log.stage("card", card_line, log, model, options.work, options.tokens, options.backend)
    log.say("done")


if __name__ == "__main__":
    main()
