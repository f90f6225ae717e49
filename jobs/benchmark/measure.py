"""The command ``benchmark``: how fast this machine goes through prompts, and against what else.

Every engine runs in a process of its own, one after the other, and memory peaks are each engine's own. One process
cannot serve all fairly on CPUs. An OpenMP build of OpenBLAS asks the calling thread how many threads to take, MLX calls
it from threads that nobody else can reach, and these go by what OMP_NUM_THREADS was when the process started: with 1,
``batch_generate`` takes 8.2 s (with 2: 6.6 s), and ``openblas_set_num_threads(2)`` changes nothing; with 2, rowmill's
two streams take 11 to 20 s (with 1: 4.5 s), whatever ``openblas_set_num_threads(1)`` is told. And what rowmill does to
MLX's functions speeds mlx-lm up: ``batch_generate`` then takes 5.5 s. (8 prompts of 200 tokens and 16 generated,
SmolLM2-135M in float32 on 2 cores.) The first run of a process warms up; the median of the others counts.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from jobs.benchmark.apart import apart, tell
from jobs.benchmark.peers import LLAMA_CPP, MLX_LM, PEERS, Once, llama_cpp_peer, mlx_lm_peer, shared_tokens
from runner.keys import key
from runner.machine.facts import peak_memory
from runner.types import UserError
from runner.words import aligned

WORKLOADS = ("shared", "unique", "documents", "run", "card")
TWO_LABELS = ((5,), (7,))


@dataclass
class BenchmarkConf:
    """What to measure.

    Attributes:
        workload: shared: all prompts begin with the same tokens; unique: nothing is shared; documents: several
            questions about each document, shuffled; run: the prompts of an earlier run; card: the line of a model
            card, which is tokens/s and time to first token, for one stream and then for a batch.
        n: The number of prompts.
        prefix: The number of tokens in a shared beginning or a document.
        suffix: The number of tokens that each prompt has to itself.
        output: The number of tokens generated. 0: two labels are scored (with run: the run's own).
        documents: The number of documents.
        questions: The number of questions about each document.
        batch_sizes: Batch sizes to try in turn. null: the size that a run would use.
        against: Other engines that get the same prompts: ``mlx_lm.generate``, ``mlx_lm.batch_generate``,
            ``mlx_lm.batch_generate+prefix``, and ``llama.cpp`` for GGUF models.
        repeat: The number of timed repetitions.
        seed: Determines the made-up prompts.
        response: The length of a model card's answers in tokens.
        run_dir: The folder of the run whose prompts are used.
    """

    workload: str = key("shared", among=WORKLOADS)
    n: int = key(64, least=1)
    prefix: int = key(600, least=0)
    suffix: int = key(60, least=1)
    output: int = key(16, least=0)
    documents: int = key(8, least=1)
    questions: int = key(8, least=1)
    batch_sizes: list[int] | None = None
    against: list[str] = field(default_factory=list)
    repeat: int = key(3, least=1)
    seed: int = 0
    response: int = key(2048, least=2)
    run_dir: str | None = None

    def __post_init__(self) -> None:
        if (self.workload == "run") != (self.run_dir is not None):
            raise UserError("benchmark.workload=run and benchmark.run_dir=OUTPUTS/NAME go together")
        if self.workload == "card" and self.against:
            raise UserError("benchmark.against", "the workload card measures rowmill only: use shared or unique")
        if self.batch_sizes is not None and min(self.batch_sizes, default=0) < 1:
            raise UserError("benchmark.batch_sizes", "it must be a list such as [1,8,32]", value=self.batch_sizes)
        for peer in self.against:
            if peer not in PEERS:
                raise UserError("benchmark.against", f"{peer!r} is not one of {', '.join(PEERS)}")
            if self.output < 1:
                raise UserError("benchmark.against needs benchmark.output of at least 1: other engines score no labels")


@dataclass
class Measurement:
    """One engine on one workload: a line of ``benchmark.json``. ``seconds``: the median of ``repeat`` runs.

    ``first_token_s``: until the first row's first token, with all rows waiting. Prefill counts all prompt tokens, those
    served from a cache included; decode is what the rest of the time goes into.
    """

    workload: str
    n: int
    prefix: int
    suffix: int
    output: int
    engine: str
    batch_size: int | None
    seconds: float
    rows_per_s: float
    first_token_s: float | None
    prefill_tokens_per_s: float
    decode_tokens_per_s: float | None
    peak_bytes: int
    tokens_equal: float | None = None  # share of rows whose tokens equal the first engine's


def prompts(conf: BenchmarkConf, vocabulary: int) -> list[list[int]]:
    """Random token ids, the same for the same configuration."""
    draw = random.Random(conf.seed)

    def text(size: int) -> list[int]:
        return [draw.randrange(vocabulary // 50, vocabulary - vocabulary // 50) for _ in range(size)]

    if conf.workload == "unique":
        return [text(conf.prefix + conf.suffix) for _ in range(conf.n)]
    if conf.workload == "shared":
        shared = text(conf.prefix)
        return [shared + text(conf.suffix) for _ in range(conf.n)]
    documents = [text(conf.prefix) for _ in range(conf.documents)]
    rows = [document + text(conf.suffix) for document in documents for _ in range(conf.questions)]
    draw.shuffle(rows)
    return rows


def benchmark(
    conf: BenchmarkConf,
    model: Path,
    engine: dict[str, Any],
    environment: dict[str, str],
    own: list[tuple[list[int], Any]] | None = None,
    gguf: Path | None = None,
) -> list[Measurement]:
    """Measure rowmill at each batch size, then the others. ``engine``: backend and the sizes of the engine group.
    ``environment``: of the engines' processes.

    ``own``: prompts to take instead of made-up ones, with their choices or None. ``gguf``: the file that llama.cpp
    reads. Every engine's tokens are compared with the first one's.
    """
    measured: list[Measurement] = []
    reference: list[list[int]] | None = None
    sizes: list[int | None] = list(conf.batch_sizes) if conf.batch_sizes else [None]
    runs = [("rowmill", size) for size in sizes]
    for name, size in runs + [(peer, None) for peer in conf.against]:
        sized = {**engine, "batch_size": size or engine.get("batch_size")}
        task = {"benchmark": asdict(conf), "engine_name": name, "model": str(model), "engine": sized, "own": own}
        answer = _in_child(task | {"gguf": str(gguf) if gguf else None}, environment)
        tokens = answer.pop("tokens")
        reference = reference or tokens
        pairs = list(zip(tokens, reference, strict=True))
        equal = sum(a == b for a, b in pairs) / len(pairs) if conf.output else None
        measured.append(Measurement(**answer, tokens_equal=equal))
    return measured


def table(measured: list[Measurement]) -> str:
    """The measurements as text, with each engine's time as a multiple of the first one's."""
    head = ("engine", "batch", "rows/s", "prefill tok/s", "decode tok/s", "first token s", "peak GB", "equal", "speed")
    rows: list[tuple[str, ...]] = [head]
    for one in measured:
        speed = measured[0].seconds / one.seconds
        numbers = (one.prefill_tokens_per_s, one.decode_tokens_per_s)
        rows.append(
            (
                one.engine,
                str(one.batch_size or ""),
                f"{one.rows_per_s:.2f}",
                *(f"{number:,.0f}" if number else "" for number in numbers),
                f"{one.first_token_s:.2f}" if one.first_token_s else "",
                f"{one.peak_bytes / 1e9:.2f}",
                "" if one.tokens_equal is None else f"{one.tokens_equal:.0%}",
                f"{speed:.2f}x",
            )
        )
    return "\n".join(aligned(rows))


def _in_child(task: dict[str, Any], environment: dict[str, str]) -> dict[str, Any]:
    if task["engine_name"] in MLX_LM:  # mlx-lm works on one stream: all cores to its matrix products
        environment = {"OMP_NUM_THREADS": str(os.cpu_count() or 1)} | environment
    return apart("jobs.benchmark.measure", task["engine_name"], task, environment)


def measure(task: dict[str, Any]) -> dict[str, Any]:
    """Run one engine in this process; a Measurement's fields and the ``tokens`` of every row."""
    conf = BenchmarkConf(**task["benchmark"])
    rows, once, size, peak = _opened(task, conf)
    first = [once(1) for _ in range(2)][-1] if conf.output > 1 else None
    runs = [once(conf.output) for _ in range(conf.repeat + 1)][1:]
    seconds = statistics.median(run[0] for run in runs)
    prefill, first_token, _ = first or (seconds, runs[0][1], [])  # one token, or none: that is all there is
    decode = len(rows) * (conf.output - 1)
    return {
        **_shape(conf, rows),
        "engine": task["engine_name"],
        "batch_size": size(),
        "seconds": seconds,
        "rows_per_s": len(rows) / seconds,
        "first_token_s": first_token,
        "prefill_tokens_per_s": sum(map(len, rows)) / prefill,
        "decode_tokens_per_s": decode / (seconds - prefill) if seconds > prefill else None,
        "peak_bytes": int(peak()),
        "tokens": runs[0][2],
    }


def _shape(conf: BenchmarkConf, rows: list[list[int]]) -> dict[str, Any]:
    """What the prompts are like; those of a run share what they share, and are of so many tokens on average."""
    prefix, suffix = conf.prefix, conf.suffix
    if conf.workload == "run":
        prefix = shared_tokens(rows)
        suffix = round(statistics.mean(map(len, rows))) - prefix
    return {"workload": conf.workload, "n": len(rows), "prefix": prefix, "suffix": suffix, "output": conf.output}


class Opened(NamedTuple):
    """An engine in this process, the prompts it is given, its batch size and its peak of memory, in bytes."""

    rows: list[list[int]]
    once: Once
    batch_size: Callable[[], int | None]
    peak_bytes: Callable[[], int]


def _opened(task: dict[str, Any], conf: BenchmarkConf) -> Opened:
    name, own = task["engine_name"], task["own"]
    if name == LLAMA_CPP:
        vocabulary = json.loads((Path(task["model"]) / "config.json").read_text())["vocab_size"]
        rows = [row for row, _ in own] if own else prompts(conf, int(vocabulary))
        return Opened(rows, llama_cpp_peer(Path(task["gguf"]), rows, conf.output), lambda: None, peak_memory)
    from runner.engine import weights
    from runner.engine.conf import EngineConf
    from runner.machine import device
    from runner.models.resolve import read_config

    folder, engine = Path(task["model"]), EngineConf(**task["engine"])
    found = device.set_up(engine.backend, engine.costly(read_config(folder)) if name == "rowmill" else None)
    import mlx.core as mx

    model, config = weights.load(folder, found)
    rows = [row for row, _ in own] if own else prompts(conf, int(config["vocab_size"]))
    mx.reset_peak_memory()
    if name == "rowmill":
        return _rowmill(task["engine"], found, model, rows, [choices for _, choices in own] if own else None)
    tokenizer = weights.load_tokenizer(folder, config)
    return Opened(rows, mlx_lm_peer(name, model, tokenizer, rows), lambda: None, mx.get_peak_memory)


def _rowmill(engine: dict[str, Any], found: Any, model: Any, rows: list[list[int]], choices: Any) -> Opened:
    import mlx.core as mx

    from runner.engine.conf import EngineConf
    from runner.engine.open import batch_engine
    from runner.loop.plan import Plan
    from runner.sequences import Sequence

    batches = batch_engine(model, found, EngineConf(**engine))
    scored = [tuple(map(tuple, one or TWO_LABELS)) for one in choices or [None] * len(rows)]

    def once(output: int) -> tuple[float, float | None, list[list[int]]]:
        began, first = time.perf_counter(), None
        plan = Plan(batches.costs)
        asked = zip(rows, scored, strict=True)
        plan.add([Sequence((0, i), row, output, choices=None if output else c) for i, (row, c) in enumerate(asked)])
        done: dict[int, list[int]] = {}
        while len(done) < len(rows):
            batches.add(plan.take(batches.room()))
            for generation in batches.step():
                if generation.error:
                    raise UserError(f"a prompt failed: {generation.error}", exit_code=3)
                done[generation.key[1]] = generation.tokens
                first = first or time.perf_counter() - began
        return time.perf_counter() - began, first, [done[i] for i in range(len(rows))]

    return Opened(rows, once, lambda: batches.batch_size, mx.get_peak_memory)


if __name__ == "__main__":
    tell(measure)
