r"""Cascades: a small model labels all rows, a large one those of which the small one is not sure.

``my_conf/cascade.yaml``:

    job: label
    job.labels: [ham, spam]
    prompt.user: "Is this mail ham or spam? Mail: {{ text }}"
    dataset: csv
    dataset.path: mail.csv
    dataset.gold: kind
    run_name: cascade
    stages:
      - {name: small, model: smollm2_135m}
      - {name: large, model: gpt_oss_20b_q6g32, where: confidence < 0.8 or error is not null, merge: replace}

Then:

    rowmill run my_conf/cascade.yaml
    rowmill export outputs/cascade cascade.csv --columns text,label,confidence,stage

The output has one label a row, and the column ``stage`` says whose it is. The end of the run and its report say which
share of the rows was escalated, what that took in seconds against either model alone and, with a gold column, how
accurate the cascade and the models are: the large one on the rows that it was asked about, which are the hard ones, or,
with ``cascade.agree``, on a random sample. Where the large model ends with an error, so does the row.

``cascade.agree=0.95`` instead of ``where`` chooses the threshold: both models label a random sample of
``cascade.rows`` rows, and the lowest threshold is taken at which the cascade has the large model's label in at least
95% of all rows, with a confidence of 95%. Thresholds are tried from the highest down, in an order that the sample does
not decide, until one fails: fixed-sequence testing, as in Angelopoulos et al., "Learn then Test" (2021). Each test is
the exact binomial lower bound of Clopper and Pearson (1934). No answer of the sample is computed twice. For these few
rows, at half of the agreement:

    rowmill run my_conf/cascade.yaml stages.large.where=null cascade.agree=0.5 cascade.rows=5 run_name=agree
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from runner.chain.folder import Chain
from runner.chain.reader import by_confidence, confidences, joined
from runner.results.quality.columns import Golds
from runner.types import UserError
from runner.words import count_of, duration

RISK = 0.05  # of taking a threshold at which the models agree less than was asked for
_STEPS = 100  # thresholds that are tried, by the share of rows that they escalate


def least_rows(agree: float) -> int:
    """The smallest sample that can show such an agreement: one without a disagreement."""
    return math.floor(math.log(RISK) / math.log(agree)) + 1


def lower_bound(agreeing: int, rows: int) -> float:
    """What the share of agreeing rows is at least, with a confidence of 1 - RISK (Clopper and Pearson, one-sided)."""
    from scipy.stats import beta

    return float(beta.ppf(RISK, agreeing, rows - agreeing + 1)) if agreeing else 0.0


def choose(confidence: np.ndarray, sampled: np.ndarray, same: np.ndarray, agree: float) -> tuple[float, int]:
    """The threshold, below which rows are escalated, and in how many rows of the sample the cascade then agrees.

    ``confidence`` [N] of all rows, -1 where there is no label; ``sampled`` [n]: positions of the sample; ``same`` [n]:
    whether both models gave the same label. The order of the thresholds depends on ``confidence`` alone.
    """
    steps = np.quantile(confidence, np.linspace(1, 0, _STEPS + 1), method="higher")
    found = (math.inf, len(sampled))
    for threshold in dict.fromkeys(steps.tolist()):
        if threshold < 0:
            break
        agreeing = int((same | (confidence[sampled] < threshold)).sum())
        if lower_bound(agreeing, len(sampled)) < agree:
            break
        found = (threshold, agreeing)
    return found


def threshold_of(chain: Chain) -> dict[str, Any]:
    """What ``cascade.agree`` led to, from the small model's rows and the sample that the large one has labelled."""
    small = chain.upto(chain.plan.names[0])
    table = joined(small)
    rows = min(chain.plan.sample[0] if chain.plan.sample else 0, len(table))
    sampled = by_confidence(table, chain.plan)[:rows]
    large = chain.runs[1]
    if large is None:
        raise UserError(f"{chain.path}: {chain.plan.names[1]} has not begun")
    answers = large.take(range(rows), ["label"])
    first = table["label"].take(pa.array(sampled)).to_pylist()
    same = np.array([answers[at]["label"] is not None and answers[at]["label"] == first[at] for at in range(rows)])
    confidence = confidences(table)
    threshold, agreeing = choose(confidence, sampled, same, chain.plan.agree or 1.0)
    below = int((confidence < threshold).sum())
    return {
        "agree": chain.plan.agree,
        "threshold": None if math.isinf(threshold) else threshold,
        "sample": rows,
        "same": int(same.sum()),
        "agreeing": agreeing,
        "at_least": 1.0 if math.isinf(threshold) else lower_bound(agreeing, rows),
        "below": below,
        "asked": rows + below - int((confidence[sampled] < threshold).sum()),
    }


def cascade_figures(chain: Chain) -> dict[str, Any]:
    """Share escalated, seconds and, with gold, accuracy, against the first and the last model alone."""
    models = [chain.plan.names[-1]]
    for stage in reversed(chain.plan.stages):
        if stage.name == models[0] and stage.replaces:
            models.insert(0, stage.replaces)
    first, last = models[0], models[-1]
    each = {one["name"]: one for one in chain.status["stages"]}  # type: ignore[typeddict-item]
    rows, asked = each[first]["finished"], each[last].get("finished") or 0
    spent = {name: float(one.get("active_s") or 0.0) for name, one in each.items() if name in models}
    chosen = threshold_of(chain) if chain.plan.sample else None
    return {
        "first": first,
        "last": last,
        "rows": rows,
        "escalated": asked,
        "share": asked / rows if rows else None,
        "seconds": sum(spent.values()),
        "seconds_first": spent[first],
        "seconds_last": spent[last] / asked * rows if asked else None,
        "threshold": chosen,
        "accuracy": _accuracies(chain, first, last, chosen),
    }


def _accuracies(chain: Chain, first: str, last: str, chosen: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Of the cascade and the first model on all rows with gold; of the last on the sample, else on its own rows."""
    if chain.plan.gold is None or chain.plan.stages[-1].columns.get("label") != "label":
        return None  # there is no gold, or it is for another question
    golds = Golds.open(chain, chain.source.conf.gold or "", "label")
    before, after = chain.upto(first), chain.rows_of(len(chain.plan.stages) - 1)
    judged = dict(_judged(chain, golds))
    alone = dict(_judged(before, golds))
    asked = set(after.tolist())
    if chosen is not None:
        asked = set(by_confidence(joined(before), chain.plan)[: chosen["sample"]].tolist())
    there = [row for row in judged if row in asked]
    return {
        "rows": len(judged),
        "cascade": _mean(judged.values()),
        "first": _mean(alone.values()),
        "asked": len(there),
        "is_sample": chosen is not None,
        "first_there": _mean(alone[row] for row in there if row in alone),
        "last_there": _mean(judged[row] for row in there),
    }


def _judged(chain: Chain, golds: Golds) -> list[tuple[int, bool]]:
    found = []
    for start, table in chain.blocks(["label"]):
        for row, (label, gold) in enumerate(
            zip(table["label"].to_pylist(), golds.values(start, table), strict=True), start
        ):
            if golds.has(gold):
                found.append((row, label == golds.name(gold)))
    return found


def _mean(values: Any) -> float | None:
    found = list(values)
    return sum(found) / len(found) if found else None


def cascade_lines(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The figures of a cascade for people, as names and values."""
    first, last = found["first"], found["last"]
    share = f" ({found['share']:.1%})" if found["share"] is not None else ""
    lines = [("escalated", f"{found['escalated']:,} of {count_of(found['rows'], 'row')}{share} from {first} to {last}")]
    alone = "" if found["seconds_last"] is None else f", {last} alone about {duration(found['seconds_last'])}"
    lines.append(
        ("time", f"{duration(found['seconds'])} at work; {first} alone {duration(found['seconds_first'])}{alone}")
    )
    if chosen := found.get("threshold"):
        limit = "none" if chosen["threshold"] is None else f"{chosen['threshold']:.4g}"
        sampled = (
            f"on {count_of(chosen['sample'], 'sampled row')} the cascade agrees with {last} in {chosen['agreeing']:,}"
        )
        lines.append(("threshold", f"{limit}, {count_of(chosen['below'], 'row')} below it; {sampled}"))
        lines.append(("agreement", f"in at least {chosen['at_least']:.1%} of all rows, with {1 - RISK:.0%} confidence"))
    if accuracy := found.get("accuracy"):
        where = "sampled rows" if accuracy["is_sample"] else "rows that it was asked about"
        alone = f"{first} alone {_share(accuracy['first'])}"
        lines.append(("accuracy", f"{_share(accuracy['cascade'])} on {accuracy['rows']:,} rows with gold; {alone}"))
        if accuracy["asked"]:
            there = f"{last} {_share(accuracy['last_there'])}, {first} {_share(accuracy['first_there'])}"
            lines.append(("of these", f"on the {accuracy['asked']:,} {where}: {there}"))
    return lines


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
