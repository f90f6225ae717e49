"""What is to differ from a run where its answers are decided again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from runner.results.run import Run
from runner.text.questions.question import Question
from runner.types import UserError


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


def prior_of(run: Run, question: Question) -> dict[str, Any]:
    """What the run's prior takes off a question's choices, by name. UserError if it has none."""
    prior = (run.prelude.get("priors") or {}).get(question.column)
    if not prior:
        raise no_prior(run)
    return dict(prior["logprobs"])


def no_prior(run: Run) -> UserError:
    """The error for a run that has none to leave out."""
    return UserError("--no-prior", f"{run.path} has no prior to leave out")
