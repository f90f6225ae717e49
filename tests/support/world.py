"""A small world for the loop: rows from a list, jobs from functions, an engine that counts."""

from dataclasses import dataclass, field

import pyarrow as pa

from runner.checkpoint.store import Store
from runner.engine.fake import FakeEngine
from runner.loop.feed import RowFeed
from runner.loop.loop import Loop
from runner.loop.requests import Defaults
from runner.text.prompter import PromptConf, Prompter
from runner.text.vocabulary import ByteTokenizer
from runner.types import Sampling

SCHEMA = pa.schema([("text", pa.string())])


class FunctionJob:
    def __init__(self, steps, schema=SCHEMA):
        self.steps, self._schema = steps, schema

    def schema(self):
        return self._schema


class ListSource:
    fingerprint = "list"
    column_names = ("text",)

    def __init__(self, texts, origin=None):
        self.texts = texts
        self.stored_place = origin or (lambda row: row)

    def __len__(self):
        return len(self.texts)

    def rows(self, start, stop=None):
        return ({"text": text} for text in self.texts[start:stop])

    def table(self, start, stop, columns):
        return pa.table({"text": self.texts[start:stop]}).select(columns)


class CountingEngine(FakeEngine):
    """``computed``: the sequences answered. ``fails`` says why a sequence has no answer, or None."""

    def __init__(self, batch_size=None, fails=lambda sequence: None):
        super().__init__(batch_size)
        self.computed, self.fails = [], fails

    def answer(self, sequence):
        self.computed.append(sequence)
        generation = super().answer(sequence)
        problem = self.fails(sequence)
        return generation if problem is None else type(generation)(sequence.key, finish_reason="error", error=problem)


@dataclass
class World:
    path: object
    texts: list
    steps: object
    schema: pa.Schema = SCHEMA
    engine: CountingEngine = field(default_factory=CountingEngine)
    window: int = 64
    sampling: Sampling = field(default_factory=Sampling)
    user: str = "{{ text }}"
    seed: int = 0
    shard_rows: int = 100
    origin: object = None

    def run(self, stop_after=None):
        """The output's rows; with ``stop_after`` the loop ends early, after so many steps."""
        ticks = []
        source = ListSource(self.texts, self.origin)
        keep = {"keep": pa.schema([]), "kept": lambda start, stop: None}
        with Store.open(
            self.path, {}, rows=len(self.texts), shard_rows=self.shard_rows, schema=self.schema, **keep
        ) as store:
            loop = Loop(
                FunctionJob(self.steps, self.schema),
                RowFeed(source, store),
                Prompter(PromptConf(user=self.user, chat=False), ByteTokenizer(), "2026-01-01"),
                self.engine,
                store,
                Defaults(64, self.sampling, self.seed),
                self.window,
                stopped=lambda: stop_after is not None and len(ticks) >= stop_after,
            )
            loop.work(lambda: ticks.append(store.totals()))
            self.loop, self.totals = loop, store.totals()
        return None if stop_after is not None else self.output()

    def output(self):
        files = sorted(self.path.glob("data-*.arrow"))
        return [row for f in files for row in pa.ipc.open_stream(f.read_bytes()).read_all().to_pylist()]
