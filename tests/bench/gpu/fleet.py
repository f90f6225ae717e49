"""Seats on the GPUs of one host against one engine: a model of Llama 8B's shape with random weights.

``python -m tests.bench.gpu.fleet OUT_DIR``. Every figure is of the same rows (2,048 shared and 64 own tokens, 32
generated) on the same machine; results are written to OUT_DIR/fleet.json as they come. ``--model FOLDER`` takes another
model, such as the one that ``tests.bench.gpu.gpt_oss`` builds, ``--ray`` a Ray cluster that runs here, ``--tiny``
shows on any machine that the program works.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.gpu.gpt_oss import Log
from tests.bench.gpu.llama_8b import OUTPUT, prompts

TINY = {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128, "vocab_size": 100_000}
TINY |= {"num_attention_heads": 4, "num_key_value_heads": 2}
LLAMA_8B = {"hidden_size": 4096, "num_hidden_layers": 32, "intermediate_size": 14336, "vocab_size": 128256}
LLAMA_8B |= {"num_attention_heads": 32, "num_key_value_heads": 8}
COMMON = {"model_type": "llama", "rms_norm_eps": 1e-5, "rope_theta": 5e5, "max_position_embeddings": 8192}


def build(folder, shape):
    """The model in bf16 as a folder; its tokenizer knows three words, for all prompts are token ids."""
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.models.llama import Model, ModelArgs

    from tests.support.tiny import tiny_tokenizer

    folder.mkdir(parents=True)
    config = COMMON | shape | {"tie_word_embeddings": False, "eos_token_id": shape["vocab_size"] - 1}
    model = Model(ModelArgs.from_dict(config))
    model.set_dtype(mx.bfloat16)
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())), {"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(config))
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    mx.clear_cache()


class Bench:
    def __init__(self, folder, rows, backend, ray, own):
        from runner.engine.conf import EngineConf
        from runner.fleet.start import spec_of
        from runner.models.recipes import ModelConf
        from runner.text.prompter import PromptConf

        self.folder, self.rows, self.ray, self.own = folder, rows, ray, own
        engine = EngineConf(backend=backend)
        self.spec = spec_of(ModelConf(path=str(folder)), engine, PromptConf(user="-", chat=False), True, False)
        self.known = None

    def local(self, repeat, gpus=("0",)):
        """The engine of a run without a fleet on a GPU, or one on each at once, which is the best that seats can do."""
        code = "import sys; from tests.bench.gpu import fleet; fleet.one_engine(*sys.argv[1:])"
        words = [str(self.folder), str(len(self.rows)), str(repeat), self.spec.engine.backend, str(self.own)]
        command = [sys.executable, "-c", code, *words]
        started = [
            subprocess.Popen(
                command, stdout=subprocess.PIPE, text=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": gpu}
            )
            for gpu in gpus
        ]
        found = [json.loads(process.communicate()[0].splitlines()[-1]) for process in started]
        return found[0] if len(found) == 1 else {"rows_per_s": sum(one["rows_per_s"] for one in found), "each": found}

    def seats(self, count, repeat, kill=False):
        """Rows/s of so many seats; with ``kill`` one of two is killed when half of the rows are done."""
        from runner.fleet.conf import FleetConf
        from runner.fleet.fleet import Fleet
        from runner.fleet.handshake import handshake_of
        from runner.fleet.start import transport_of
        from tests.support.stores import open_store

        conf = FleetConf(kind="ray" if self.ray else "local", seats=count)
        with tempfile.TemporaryDirectory() as work, open_store(Path(work, "run")) as store:
            began = time.perf_counter()
            fleet = Fleet(transport_of(conf), self.spec, handshake_of(self.folder), conf, store.seats, store.flight)
            try:
                while len(fleet.membership.at_work()) < count:
                    fleet.step()
                    time.sleep(0.05)
                start_s = time.perf_counter() - began
                measured(fleet, self.rows, OUTPUT)  # kernels are compiled, and batches grow
                kills = [len(self.rows) // 2] if kill else []
                runs = []
                for _ in range(1 if kill else repeat):
                    run, tokens = measured(fleet, self.rows, OUTPUT, kills)
                    runs.append(run)
                    while any(load.flying for load in fleet.dispatch.loads.values()):  # what two seats were at
                        fleet.step()
                        time.sleep(0.01)
                turns = [member.turn for member in fleet.membership.at_work()]
                memory = gpu_memory()
            finally:
                fleet.close()
        self.known = self.known or tokens
        equal = sum(tokens[row] == self.known[row] for row in tokens)
        more = {"start_s": round(start_s, 1), "turns": turns, "gpu_memory_mib": memory, "equal_to_first_fleet": equal}
        return summary(runs) | more


def summary(runs):
    """The median of rows/s, and each run's figures."""
    return {"rows_per_s": statistics.median(run["rows_per_s"] for run in runs), "runs": runs}


def measured(engine, rows, output, kills=()):
    """A run's figures, and the tokens by row.

    ``busy``: the share of the time in which the engine was at its steps, the mean of seats; what is missing it waited
    for work. ``occupancy``: of the batch, in these steps. ``cpu_s``: this process's.
    """
    from runner.loop.plan import Plan
    from runner.sequences import Sequence

    plan, done, kills = Plan(engine.costs), {}, list(kills)
    work, cpu, began = copy.copy(engine.work), time.process_time(), time.perf_counter()
    plan.add([Sequence((i, 0), row, output) for i, row in enumerate(rows)])
    while len(done) < len(rows):
        engine.add(plan.take(engine.room()))
        done.update({one.key[0]: one.tokens for one in engine.step()})
        if kills and len(done) >= kills[0]:
            kills.pop(0)
            os.kill(engine.membership.at_work()[0].handshake.pid, signal.SIGKILL)
    seconds, after = time.perf_counter() - began, engine.work
    figures = {
        "rows_per_s": len(rows) / seconds,
        "cpu_s": time.process_time() - cpu,
        "busy": (after.model_s - work.model_s) / seconds,
        "occupancy": (after.lanes - work.lanes) / max(1, after.slots - work.slots),
        "decoded_per_model_s": (after.decoded - work.decoded) / max(1e-9, after.model_s - work.model_s),
    }
    return {name: round(value, 3) for name, value in figures.items()} | {"batch_size": engine.batch_size}, done


def one_engine(folder, rows, repeat, backend, own):
    """``Bench.local``, in its process."""
    from runner.engine.conf import EngineConf
    from runner.engine.open import open_engine
    from runner.engine.weights import load_tokenizer
    from runner.machine.device import set_up
    from runner.models.resolve import read_config
    from runner.text.prompter import PromptConf, Prompter

    device, folder, rows = set_up(backend), Path(folder), prompts(int(rows))
    rows = [row[: 2048 + int(own)] for row in rows]
    tokenizer = load_tokenizer(folder, read_config(folder))
    prompter = Prompter(PromptConf(user="-", chat=False), tokenizer, "2000-01-01")
    engine = open_engine(folder, device, EngineConf(backend=backend), prompter, 1.0)
    measured(engine, rows, OUTPUT)
    runs = [measured(engine, rows, OUTPUT)[0] for _ in range(int(repeat))]
    print(json.dumps(summary(runs) | {"gpu_memory_mib": gpu_memory()}))


def gpu_memory():
    """MiB in use on each GPU, as the driver of the card says."""
    try:
        words = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        return [int(line) for line in subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()]
    except (OSError, subprocess.CalledProcessError):
        return None


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", type=Path, default=Path("/dev/shm/llama-8b"))
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=2, help="of one engine and one seat, one after the other")
    parser.add_argument("--stages", default="engine,seat,engines,seats,killed", help="which of these")
    parser.add_argument("--ray", action="store_true")
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    log = Log(options.out / f"fleet{'-ray' if options.ray else ''}-{options.model.name}.json")
    if not options.model.is_dir():
        log.say("building the model")
        build(options.model, TINY if options.tiny else LLAMA_8B)
    rows, own = prompts(options.rows), 4 if options.tiny else 64
    bench = Bench(
        options.model, [row[: 2048 + own] for row in rows], "cpu" if options.tiny else "cuda", options.ray, own
    )
    stages = options.stages.split(",")
    for pair in range(options.pairs):
        if "engine" in stages:
            log.stage(f"one engine, {pair}", bench.local, options.repeat)
        if "seat" in stages:
            log.stage(f"1 seat, {pair}", bench.seats, 1, options.repeat)
    if "engines" in stages and not options.tiny and not options.ray:
        log.stage("two engines at once", bench.local, options.repeat, ("0", "1"))
    if "seats" in stages:
        log.stage("2 seats", bench.seats, 2, options.repeat)
    if "killed" in stages:
        log.stage("2 seats, one killed", bench.seats, 2, 1, True)


if __name__ == "__main__":
    main()
