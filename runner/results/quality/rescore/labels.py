"""Labels decided again from the log-probabilities on disk: without a prior, at another temperature or threshold."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from runner.results.quality.columns import LABEL, prefix_of
from runner.results.quality.rescore.arrays import Floats, likeliest, replaced, softmax, stored_in, structs
from runner.results.quality.rescore.decision import AS_RUN, Decision, no_prior
from runner.results.run import Run
from runner.types import UserError


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


class LabelRescoring:
    """A run's labels in ``column`` as another decision makes them. UserError where it does not hold what that needs."""

    def __init__(self, run: Run, decision: Decision, column: str = LABEL) -> None:
        prefix = prefix_of(run, column)
        details = ("confidence", "probabilities", "abstained")
        self._confidence, self._probabilities, self._abstained = (prefix + one for one in details)
        self.column, self.decision = column, decision
        self.scores = Scores(run, column, prefix)
        job = run.columns.job
        self._least = run.identity["job"].get("abstain_below")
        self._has_scores = {column, self._confidence, self._probabilities} <= job.keys()
        if not decision.prior and not self.scores.prior:
            raise no_prior(run)
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
