"""Labels decided anew from the log-probabilities on disk: without a prior, at another temperature or threshold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from runner.results.quality.columns import LABEL, prefix_of
from runner.results.run import Run
from runner.types import UserError

ROUNDING = 1e-12  # of probabilities that went through logarithms and back
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Decision:
    """What is to differ from the run. ``prior``: whether its prior counts. None: the run's own.

    ``temperature``: 1 undoes a calibration. ``threshold``: the confidence below which a row gets no label; 0 for none.
    """

    prior: bool = True
    temperature: float | None = None
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.temperature is not None and not 0 < self.temperature < float("inf"):
            raise UserError("--temperature", "it must be above 0", value=self.temperature)
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise UserError("--threshold", "it must be from 0 to 1", value=self.threshold)

    def __str__(self) -> str:
        parts = [] if self.prior else ["without the prior"]
        if self.temperature is not None:
            parts.append(f"at temperature {self.temperature:g}")
        if self.threshold is not None:
            parts.append(
                f"with a label from confidence {self.threshold:g} on" if self.threshold else "all with a label"
            )
        return ", ".join(parts)


AS_RUN = Decision()


class Scores:
    """The log-probabilities that a run's labels were decided by: before its prior, and before its temperature.

    ``prefix``: what the columns about the labels begin with, such as that of their confidence.
    """

    def __init__(self, run: Run, column: str = LABEL, prefix: str = "") -> None:
        prelude = run.prelude
        prior = (prelude.get("priors") or {}).get(column) if prefix else prelude.get("prior")
        self.prior: dict[str, Any] = prior or {}
        self._columns = f"{prefix}logprobs", f"{prefix}probabilities"
        self.temperature = float((prelude.get("calibration") or {}).get("temperature") or 1.0)

    def bias(self, names: list[str]) -> Floats:
        """The prior's log-probabilities, in the order of ``names``; zeros without one."""
        return np.array([self.prior.get("logprobs", {}).get(name, 0.0) for name in names], np.float64)

    def read(self, table: pa.Table, names: list[str]) -> tuple[npt.NDArray[np.bool_], Floats]:
        """Which rows have some, and these [rows there, labels], each row up to a constant."""
        logprobs, probabilities = self._columns
        raw = logprobs in table.column_names
        there, scores = stored_in(table, logprobs if raw else probabilities, names, -np.inf if raw else 0.0)
        if raw:
            return there, scores
        with np.errstate(divide="ignore"):
            return there, np.log(scores) * self.temperature + self.bias(names)


def softmax(scores: Floats) -> Floats:
    """Probabilities over the last axis."""
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def likeliest(scores: Floats) -> npt.NDArray[np.int64]:
    """The place of the highest score in each row, the first one of those that only rounding tells apart."""
    return np.asarray((scores >= scores.max(axis=-1, keepdims=True) - ROUNDING).argmax(axis=-1))


class Rescoring:
    """A run's labels in ``column`` as another decision makes them. UserError where it does not hold what that needs."""

    def __init__(self, run: Run, decision: Decision, column: str = LABEL) -> None:
        prefix = prefix_of(run, column)
        details = ("confidence", "probabilities", "abstained")
        self.column, (self._confidence, self._probabilities, self._abstained) = (
            column,
            (prefix + one for one in details),
        )
        self.decision = decision
        self.scores = Scores(run, column, prefix)
        job = run.columns.job
        self._least = run.identity["job"].get("abstain_below")
        self._has_scores = {column, self._confidence, self._probabilities} <= job.keys()
        if not decision.prior and not self.scores.prior:
            raise UserError("--no-prior", f"{run.path} has no prior to leave out")
        if not self._has_scores:
            self._check_without_scores(run, job)

    def _check_without_scores(self, run: Run, job: dict[str, str]) -> None:
        decision = self.decision
        if not decision.prior or decision.temperature is not None:
            option = "--temperature" if decision.prior else "--no-prior"
            raise UserError(option, f"{run.path} holds no probabilities of labels (job.method=choice writes them)")
        if not {self.column, self._confidence} <= job.keys():
            raise UserError("--threshold", f"{run.path} has no label and confidence of its job")
        if self._least is not None and (decision.threshold or 0) < self._least:
            raise UserError("--threshold", f"rows below {self._least} lost their label in the run: give that or more")

    def table(self, table: pa.Table) -> pa.Table:
        """The table with the columns that follow from the decision in their places."""
        if self.decision == AS_RUN:
            return table
        confidence = table[self._confidence].to_numpy(zero_copy_only=False).astype(np.float64)
        labels = np.array(table[self.column].to_pylist(), dtype=object)
        if self._has_scores:
            names = [field.name for field in table.schema.field(self._probabilities).type]
            there, scores = self.scores.read(table, names)
            probabilities = softmax(self._decided(scores, names))
            confidence, labels = np.full(len(table), np.nan), np.full(len(table), None, dtype=object)
            confidence[there] = probabilities.max(axis=1)
            labels[there] = np.array(names, dtype=object)[likeliest(probabilities)]
            table = replaced(table, self._probabilities, structs(probabilities, there, table, self._probabilities))
            table = replaced(table, self._confidence, pa.array(confidence, from_pandas=True))
        return self._with_threshold(table, labels, confidence)

    def _decided(self, scores: Floats, names: list[str]) -> Floats:
        decision = self.decision
        temperature = self.scores.temperature if decision.temperature is None else decision.temperature
        return (scores - self.scores.bias(names) if decision.prior else scores) / temperature

    def _with_threshold(self, table: pa.Table, labels: Any, confidence: Floats) -> pa.Table:
        least = self._least if self.decision.threshold is None else self.decision.threshold
        known = np.isfinite(confidence)
        if least is not None:
            below = known & (confidence < least)
            labels[below] = None
            flags = pa.array(below, mask=~known)
            if self._abstained in table.column_names:
                table = replaced(table, self._abstained, flags)
            elif self.decision.threshold:
                table = table.add_column(table.column_names.index(self._confidence) + 1, self._abstained, flags)
        return replaced(table, self.column, pa.array(labels.tolist(), pa.string()))


def stored_in(
    table: pa.Table, column: str, names: list[str], empty: float = 0.0
) -> tuple[npt.NDArray[np.bool_], Floats]:
    """Which rows have a number for each of ``names``, and these [rows there, names]; ``empty`` for null."""
    struct = table[column].combine_chunks()
    there = struct.is_valid().to_numpy(zero_copy_only=False)
    numbers = [struct.field(name).fill_null(empty).to_numpy(zero_copy_only=False) for name in names]
    return there, np.stack(numbers, axis=1)[there]


def structs(values: Floats, there: npt.NDArray[np.bool_], table: pa.Table, column: str) -> pa.Array:
    """The cells of a column with a number for each label: ``values`` [rows there, labels]."""
    fields = list(table.schema.field(column).type)
    whole = np.zeros((len(table), len(fields)))
    whole[there] = values
    return pa.StructArray.from_arrays(
        [pa.array(whole[:, at], mask=~there) for at in range(len(fields))], fields=fields, mask=pa.array(~there)
    )


def replaced(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    """The table with other values in a column."""
    field = table.schema.field(name)
    return table.set_column(table.column_names.index(name), field, values.cast(field.type))
