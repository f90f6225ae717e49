"""A report's figures as one HTML page that loads nothing and escapes every text of a row."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from runner.report.charts import charts
from runner.report.figures import Figures
from runner.report.quality import perplexity_facts, sections
from runner.report.tables import confusion_matrix, labels_table, rows_table, text_of
from runner.results.quality.verdict import advice, verdict
from runner.results.status import Status
from runner.words import count_of, duration, size, without_hashes

MOST_BYTES = 1_900_000
_CELL, _LEAST_CELL = 500, 40  # characters shown of a cell
_PROMPT, _CONFIG = 12_000, 30_000


def render(figures: Figures, cascade: Mapping[str, Any] | None = None) -> str:
    """The page; cells are cut shorter until it is under MOST_BYTES."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters |= {
        "share": "{:.1%}".format,
        "moment": _moment,
        "duration": duration,
        "cut": text_of,
    }
    template = environment.from_string(_resource("page.html.j2"))
    style, script = _resource("page.css"), _resource("page.js")
    drawn = {name: Markup(svg) for name, svg in charts(figures).items() if svg}
    cell = _CELL
    while True:
        page = template.render(
            **_content(figures, cell, cascade),
            charts=drawn,
            count_of=count_of,
            own_charts=[name for name in drawn if ":" in name],
            style=Markup(style),
            script=Markup(script),
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )
        if len(page.encode()) < MOST_BYTES or cell <= _LEAST_CELL:
            return page
        cell //= 2


def _resource(name: str) -> str:
    return (files("runner.report") / name).read_text(encoding="utf-8")


def _content(figures: Figures, cell: int, cascade: Mapping[str, Any] | None) -> dict[str, Any]:
    """The template's variables; every text among them is cut and shows its control characters."""
    status, identity = figures.status, figures.identity
    return {
        "name": figures.path.resolve().name,
        "status": status,
        "identity": identity,
        "written": time.time(),
        "sessions": _sessions(figures),
        "what": _what(figures),
        "prompt": _prompt(identity.get("prompt") or {}),
        "config": text_of(json.dumps(identity, indent=2, ensure_ascii=False), _CONFIG),
        "evaluation": figures.evaluation if (figures.evaluation or {}).get("accuracy") is not None else None,
        "verdict": verdict_of(figures),
        "tips": [text_of(tip, 400) for tip in advice(figures.evaluation or {})],
        "confusion": confusion_matrix(figures.evaluation or {}),
        "by_label": labels_table(figures.evaluation or {}),
        "errors": _errors(figures, cell),
        "table": rows_table(figures, cell),
        "kinds": _kinds(figures),
        "missing": text_of(figures.missing, cell) if figures.missing else None,
        "extra": [
            (title, [(text_of(a, 80), text_of(b, 200)) for a, b in facts])
            for title, facts in sections(figures, cascade)
        ],
        "restarts": len(figures.sessions) - _begun(status),
    }


def _begun(status: Mapping[str, Any]) -> int:
    """How many runs it is: of a chain, its stages that have begun."""
    return sum("finished" in one for one in status.get("stages") or [{"finished": 0}])


def verdict_of(figures: Figures) -> str:
    """One sentence on what has come of the run."""
    status = figures.status
    if said := verdict(figures.evaluation or {}):
        return text_of(said, 400)
    errors, finished = status["errors"], status["finished"]
    if not finished:
        return "No row is finished yet."
    left = "All" if finished == status["rows"] else f"{finished:,} of"
    done = "Its row is finished" if status["rows"] == 1 else f"{left} {status['rows']:,} rows are finished"
    if facts := dict(perplexity_facts(figures)):
        done = f"Perplexity {facts['perplexity']} on {facts['scored']}"
    if not errors:
        return f"{done}, none with an error."
    kind = text_of(next(iter(status["error_kinds"]), ""), 80)
    return f"{done}, {errors:,} ({errors / finished:.1%}) with an error, most often: {kind}."


def _kinds(figures: Figures) -> list[tuple[str, str]]:
    """The choices of rows to show, as values and words."""
    counts = {why: len(figures.shown(why)) for why in ("sample", "wrong", "failed", "unsure")}
    wrong = f" of {figures.wrong:,}" if figures.wrong and figures.wrong > counts["wrong"] else ""
    failed = f" of {figures.status['errors']:,}" if figures.status["errors"] > counts["failed"] else ""
    words = {
        "sample": f"A sample of {count_of(counts['sample'], 'row')}",
        "wrong": f"{counts['wrong']:,}{wrong} wrong {'row' if counts['wrong'] == 1 else 'rows'}",
        "failed": f"{counts['failed']:,}{failed} {'row' if counts['failed'] == 1 else 'rows'} with an error",
        "unsure": f"The {count_of(counts['unsure'], 'least confident row')}",
    }
    return [(why, words[why]) for why, count in counts.items() if count]


def _errors(figures: Figures, cell: int) -> list[tuple[str, int, list[tuple[str, str]]]]:
    """Kind, rows and examples (which row, text) of the most frequent errors."""
    counts = figures.status["error_kinds"]
    frequent = sorted(figures.errors.items(), key=lambda pair: -counts.get(pair[0], 0))[:20]
    return [
        (text_of(kind, 80), counts.get(kind, 0), [(text_of(one.shown, cell), text_of(one.error, cell)) for one in rows])
        for kind, rows in frequent
    ]


def _sessions(figures: Figures) -> list[dict[str, Any]]:
    """The newest sessions, with the rows that each finished."""
    finished: dict[int, int] = {}
    for mark in figures.marks:
        finished[mark["session"]] = mark["finished"]
    sessions, before = [], 0
    for session in figures.sessions:
        done = finished.get(session["session"], before)
        sessions.append({**session, "rows": done - before})
        before = done
    return sessions[-50:]


def _what(figures: Figures) -> list[tuple[str, str]]:
    """What was run, as names and values."""
    identity, provenance = figures.identity, figures.provenance
    model, data = identity.get("model") or {}, identity.get("dataset") or {}
    machine, versions = dict(provenance.get("machine") or {}), provenance.get("versions") or {}
    machine.pop("boot", None)
    if "memory" in machine:
        machine["memory"] = size(machine["memory"])
    facts = {
        "job": (identity.get("job") or {}).get("_target_"),
        "model": without_hashes(str(model.get("path") or model.get("backend"))),
        "adapter": model.get("adapter"),
        "revision": provenance.get("commit") or model.get("revision"),
        "weights": model.get("weights"),
        "quantisation": _pairs(provenance.get("quantization")),
        "data": without_hashes(str(provenance.get("dataset") or data.get("_target_") or data.get("path"))),
        "fingerprint": data.get("fingerprint"),
        "prompt hash": provenance.get("prompt_sha256"),
        "seed": identity.get("seed"),
        "drafted tokens that were right": _drafts(figures.status),
        "thoughts ended at engine.think_tokens": figures.status["thoughts_ended"] or None,
        "date in prompts": identity.get("date"),
        "machine": _pairs(machine),
        "versions": _pairs(versions),
    }
    return [(name, text_of(str(value), 600)) for name, value in facts.items() if value not in (None, "", "None")]


def _drafts(status: Status) -> str | None:
    drafted = status["drafted_tokens"]
    return f"{status['accepted_tokens']:,} of {drafted:,}" if drafted else None


def _pairs(values: dict[str, Any] | None) -> str:
    return ", ".join(f"{name} {value}" for name, value in (values or {}).items() if value is not None)


def _prompt(conf: dict[str, Any]) -> list[tuple[str, str]]:
    parts = [("system", conf.get("system")), ("user", conf.get("user"))]
    if conf.get("examples"):
        parts.append(("examples", json.dumps(conf["examples"], indent=1, ensure_ascii=False)))
    return [(name, text_of(str(text), _PROMPT)) for name, text in parts if text]


def _moment(seconds: float | None) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds)) if seconds else "killed"
