"""What ``rowmill help`` and ``conf/README.md`` print: keys from their dataclasses, prose from the docstrings.

``python -m runner.cli.topics > conf/README.md`` writes the page of all keys.

Modules:
__main__   ``python -m runner.cli.topics``: the page of all keys, conf/README.md.
messages   What exit codes and messages mean, and what to do.
rendering  A topic in blocks, and these as text for a terminal and as Markdown.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache

from runner.cli.commands import COMMANDS
from runner.cli.topics.messages import ERRORS, EXIT_CODES
from runner.cli.topics.rendering import Block, as_markdown, as_text, prose_blocks
from runner.config.declared import Class, Key, columns, commented, declared_class, groups, keys, prose
from runner.config.groups import group_files
from runner.types import UserError


@dataclass(frozen=True)
class Topic:
    """A line for the list of topics; ``modules`` whose docstrings explain it, names and what they mean as ``entries``,
    the beginnings of single ``keys``, and ``groups`` of keys that belong to it.
    """

    title: str
    modules: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    entries: Callable[[], Iterable[tuple[str, str]]] = tuple


JOBS = ("label", "spans", "generate", "summarize", "synthesize", "openai_batch")
TOPICS = {
    "config": Topic("every key of the configuration"),
    "jobs": Topic("what can be done with each row", entries=lambda: _jobs()),
    **{name: Topic(f"the job {name}: options and output columns") for name in JOBS},
    "multi": Topic("several labels a row, thresholds", ("jobs.label.multi",)),
    "scale": Topic("levels on a scale", ("jobs.label.scale",)),
    "questions": Topic("several questions a row", ("jobs.label.questions",)),
    "own-job": Topic("a job of your own in Python", ("jobs",)),
    "own-folder": Topic("a folder with your own configurations", ("conf",)),
    "run-as-data": Topic("a run as the data of the next one", ("runner.chain.reader",)),
    "chain": Topic("several questions in one file, stage by stage", ("runner.stages.conf",)),
    "cascade": Topic("a large model only where a small one is not sure", ("runner.chain.cascade",), ("cascade",)),
    "file": Topic("a command line kept in a file", ("runner.config.file",)),
    "dataset": Topic(
        "where rows come from",
        ("runner.data.source", "runner.data.where"),
        ("dataset",),
        entries=lambda: _choices("dataset"),
    ),
    "own-reader": Topic("a reader of your own in Python", ("runner.data.readers.own",)),
    "prompt": Topic("how a row becomes a prompt: templates, examples", ("runner.text.prompter",), ("prompt",)),
    "examples": Topic(
        "few-shot examples: the same for all rows, or for each", ("runner.text.examples",), keys=("prompt.examples",)
    ),
    "model": Topic(
        "which models run: names, files, hub ids, recipes",
        ("runner.models.resolve",),
        ("model",),
        entries=lambda: _choices("model"),
    ),
    "adapters": Topic("a model and what you trained on top of it", ("runner.models.adapters",)),
    "engine": Topic("device, batches, memory, sampling", ("runner.session.preflight",), ("engine",)),
    "drafts": Topic("tokens drafted from the prompt (prompt lookup)", ("runner.engine.drafts",)),
    "output": Topic("the files of a run and their columns", ("runner.results.run",), ("output", "checkpoint")),
    "night": Topic("hours, pauses, notifications", ("runner.night",), ("schedule", "notify")),
    "fleet": Topic("several GPUs or machines: Ray, step by step", ("runner.fleet.conf",), ("fleet",)),
    "resume": Topic(
        "after a kill, a crash or a change",
        ("runner.night.supervisor",),
        keys=("resume", "engine.stall_minutes", "engine.max_restarts"),
    ),
    "calibrate": Topic("confidences fitted to gold labels", (), ("calibrate",)),
    "export": Topic("tables, training data, pre-annotations, the hub", ("runner.export",)),
    "exit": Topic("what exit codes mean", entries=lambda: EXIT_CODES),
    "errors": Topic("what messages mean and what to do", entries=lambda: ERRORS),
    "convert": Topic("a quantised model of your own", ("jobs.convert",), ("convert",)),
    "perplexity": Topic("how well models predict a text", ("jobs.perplexity",), ("perplexity",)),
    "benchmark": Topic("how fast a model is on this machine", ("jobs.benchmark",), ("benchmark",)),
    "tune": Topic("what is fastest on this machine, measured and kept", ("jobs.tune",), ("tune",)),
    "metal": Topic("Macs: what is known of them, and what is not", ("runner.machine.metal",)),
    "how": Topic("how rowmill works", ("runner",)),
}
ALIASES = {
    **{"data": "dataset", "where": "dataset", "reader": "own-reader", "own reader": "own-reader", "readers": "dataset"},
    **{"prompts": "prompt", "models": "model", "job": "jobs", "own job": "own-job", "own folder": "own-folder"},
    **{"schedule": "night", "notify": "night", "checkpoint": "output", "columns": "output", "configuration": "config"},
    **{"exit codes": "exit", "codes": "exit", "messages": "errors", "kill": "resume", "sampling": "engine"},
    **{"folder": "own-folder", "adapter": "adapters", "lora": "adapters", "save": "file", "stages": "chain"},
    **{"memory": "engine", "batch": "openai_batch", "openai": "openai_batch"},
    **{"labels": "multi", "threshold": "multi", "thresholds": "multi", "levels": "scale", "mac": "metal"},
}
_OTHER_COMMANDS = ("convert", "perplexity", "benchmark", "tune")
_OTHER_GROUPS = {name: (f"jobs.{name}", f"{name.title()}Conf") for name in _OTHER_COMMANDS}
WRITTEN = "Every key of the configuration, written by `python -m runner.cli.topics > conf/README.md`."


def topics() -> str:
    """The list of topics, a line each."""
    width = max(map(len, TOPICS))
    lines = [f"  {name:<{width}}  {topic.title}" for name, topic in TOPICS.items()]
    return "\n".join(["rowmill help TOPIC, or a key such as engine.batch_size:", "", *lines])


def help_text(name: str, width: int = 80) -> str:
    """A topic or a key as text. UserError, with what was perhaps meant, if there is none of this name."""
    if name in known_keys() and name not in TOPICS:
        return as_text([Block("keys", keys=[known_keys()[name]])], width)
    if found := [block for topic in (*JOBS, *_OTHER_GROUPS) for block in _with_key(topic, name)]:
        return as_text(found, width)
    return as_text(blocks(_topic_name(name)), width)


def _with_key(topic: str, name: str) -> Iterator[Block]:
    """A key that only a job or another command than ``run`` has."""
    if found := [key for block in blocks(topic) for key in block.keys if key.name == name]:
        yield from (Block("prose", TOPICS[topic].title), Block("keys", keys=found))


def blocks(name: str) -> Iterator[Block]:
    """The content of one topic."""
    topic = TOPICS[name]
    yield Block("title", topic.title[0].upper() + topic.title[1:])
    for module in topic.modules:
        yield from prose_blocks(prose(module).partition("\n\n")[2])
    if name in JOBS:
        yield from _job(name)
    if entries := list(topic.entries()):
        yield Block("entries", entries=entries)
    if listed := [key for begin in topic.keys for name, key in known_keys().items() if name.startswith(begin)]:
        yield Block("keys", keys=listed)
    for group in ("", *_groups()) if name == "config" else topic.groups:
        yield from _group(group)


def configuration_page() -> str:
    """``conf/README.md``: a folder of one's own, every key of a run, the jobs' options."""
    content = [block for name in ("config", *JOBS) for block in blocks(name)]
    return f"# Configuration\n\n{WRITTEN}\n\n{as_markdown([*prose_blocks(prose('conf')), *content])}"


@cache
def known_keys() -> dict[str, Key]:
    """All keys of a run, the options of jobs as ``job.NAME`` apart."""
    return {key.name: key for key in keys(declared_class("runner.config.conf", "RunConf")) if key.name != "job"}


def job_class(job: str) -> Class:
    """The class that ``conf/job`` names."""
    module, _, name = commented(group_files("job")[job])["_target_"][0].rpartition(".")
    return declared_class(module, name)


@cache
def _groups() -> dict[str, Class]:
    ours = groups(declared_class("runner.config.conf", "RunConf"))
    return ours | {name: declared_class(*place) for name, place in _OTHER_GROUPS.items()}


def _jobs() -> Iterator[tuple[str, str]]:
    """All jobs, and how their docstrings begin."""
    for job in JOBS:
        yield job, " ".join(job_class(job).prose.partition("\n\n")[0].split())


def _job(name: str) -> Iterator[Block]:
    found = job_class(name)
    yield from prose_blocks(found.prose)
    written = commented(group_files("job")[name])
    declared = {key.name: key for key in keys(found)}
    options = [key for key in written if key != "_target_"] + [key for key in declared if key not in written]
    yield Block("prose", "Options:")
    yield Block("keys", keys=[_option(key, declared.get(key), written.get(key)) for key in options])
    yield Block("prose", "Output columns, beside those of every run (``rowmill help output``):")
    yield Block("entries", entries=list(columns(found).items()))


def _option(name: str, declared: Key | None, written: tuple[str, str] | None) -> Key:
    """A job's key: its type from the class, its value and meaning from the file."""
    kind = declared.kind if declared else "mapping or null"
    default, meaning = written or (declared.default if declared else "", "")
    return Key(f"job.{name}", kind, default, _sentence(meaning))


def _group(name: str) -> Iterator[Block]:
    found = _groups()[name] if name else declared_class("runner.config.conf", "RunConf")
    yield Block("title", f"Keys of the group {name}" if name else "Keys without a group")
    yield from prose_blocks(found.prose)
    prefix = f"{name}." if name else ""
    listed = [key for key in keys(found, prefix) if name or ("." not in key.name and key.name != "job")]
    yield Block("keys", keys=listed)


def _choices(group: str) -> Iterator[tuple[str, str]]:
    """The files of a group, and the comments that they begin with."""
    for file in group_files(group).values():
        lines = file.read_text(encoding="utf-8").splitlines()
        comment = [line[2:] for line in lines if line.startswith("# ")]
        yield f"{group}={file.stem}", " ".join(comment).replace("`", "``")


def _sentence(text: str) -> str:
    begin = text[:1] if re.match(r"\w+:", text) else text[:1].upper()  # a value stays as it is typed
    return begin + text[1:] + ("." if text and not text.endswith(".") else "")


def _topic_name(name: str) -> str:
    asked = name.removeprefix("job=").removeprefix("job.").lower()
    found = ALIASES.get(asked, asked)
    if found in TOPICS:
        return found
    close = get_close_matches(asked, [*TOPICS, *COMMANDS, *ALIASES, *known_keys()], n=1)
    hint = f"did you mean {close[0]}?" if close else "rowmill help lists the topics"
    raise UserError(f"there is no help on {name!r}: {hint}")
