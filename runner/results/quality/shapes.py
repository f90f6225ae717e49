"""The shapes of evaluations and comparisons, as JSON has them."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

Interval = list[float | None]  # of 95%; None where it is not known
NONE = "(none)"  # in a confusion: the answer of rows without one


class ClassFigures(TypedDict):
    """One label's figures; ``rows``: with it as gold; ``answers``: with it as one of several."""

    precision: float
    recall: float
    f1: float
    rows: int
    answers: NotRequired[int]
    intervals: dict[str, Interval]


class Share(TypedDict):
    """A label, and of how many rows it is the one."""

    label: str
    share: float


class Covered(TypedDict):
    """The rows of at least this confidence: their share, and how many of them are right."""

    threshold: float
    coverage: float
    accuracy: float
    interval: Interval


class PriorEffect(TypedDict):
    """The prior, and the accuracy with and without it."""

    kind: str
    rows: int
    logprobs: dict[str, float]
    accuracy_without: float
    accuracy: float


class CalibrationEffect(TypedDict):
    """The temperature, and the calibration error on the rows that it was not fitted on.

    ``fitted``: the temperature before it was held against other rows; ``held_out``: figures of those, without and with
    it; ``left_out``: rows without usable scores.
    """

    temperature: float
    fitted_on: int
    rows: int
    ece_before: float
    interval_before: Interval
    ece: float
    interval: Interval
    fitted: NotRequired[float]
    held_out: NotRequired[dict[str, Any]]
    left_out: NotRequired[int]


class Judged(TypedDict, total=False):
    """What all figures of a column say: the column, the rows with gold, those of them that have an answer."""

    column: str
    rows: int
    answered: int
    intervals: dict[str, Interval]


class LabelFigures(Judged, total=False):
    """How right labels are; see ``runner.results.evaluate.Evaluation.figures``. Without rows it ends with confusion."""

    kind: Literal["labels"]
    accuracy: float | None
    confusion: dict[str, dict[str, int]]
    labelled: int
    abstained: int
    errors: int
    accuracy_labelled: float | None
    kappa: float | None
    macro_f1: float
    classes: dict[str, ClassFigures]
    baseline: Share | None
    favourite: Share | None
    ece: float
    intervals_ece: Interval
    reliability: list[list[float]]
    coverage: list[Covered]
    prior: PriorEffect
    calibration: CalibrationEffect
    decision: dict[str, Any]


class NumberFigures(Judged, total=False):
    """How near numbers are; see ``runner.results.quality.values.number_figures``."""

    kind: Literal["numbers"]
    exact: float
    mae: float
    rmse: float
    bias: float
    correlation: float | None


class SetFigures(Judged, total=False):
    """How alike sets are; see ``runner.results.quality.values.set_figures``."""

    kind: Literal["sets"]
    exact: float
    jaccard: float
    precision: float
    recall: float
    micro_f1: float
    macro_f1: float
    classes: dict[str, ClassFigures]
    thresholds: dict[str, Any]
    decision: dict[str, Any]


class ScaleFigures(Judged, total=False):
    """How near levels are; see ``runner.results.quality.scale.scale_figures``."""

    kind: Literal["scale"]
    accuracy: float
    mae: float
    mae_expected: float
    mae_constant: float
    bias: float
    kappa: float | None
    spearman: float | None
    confusion: dict[str, dict[str, int]]
    decision: dict[str, Any]


class QuestionFigures(TypedDict):
    """The figures of each question that has a gold column; ``rows``: the most of any."""

    kind: Literal["questions"]
    rows: int
    questions: dict[str, Any]


class KindFigures(TypedDict):
    """How right spans are, of a kind or of all; see ``runner.results.quality.spans.span_figures``."""

    precision: float
    recall: float
    f1: float
    partial_f1: float
    found: int
    gold: int
    intervals: dict[str, Interval]


class SpanFigures(Judged, total=False):
    """How right spans are; see ``runner.results.quality.spans.span_figures``."""

    kind: Literal["spans"]
    exact: float
    precision: float
    recall: float
    f1: float
    partial_f1: float
    found: int
    gold: int
    kinds: dict[str, KindFigures]


class PairedSpans(TypedDict):
    """Spans of two runs against the same gold; see ``runner.results.quality.spans.paired_spans``."""

    f1_a: float
    f1_b: float
    f1_difference: float
    f1_interval: Interval
    partial_f1_a: float
    partial_f1_b: float
    partial_f1_difference: float
    partial_f1_interval: Interval


class PairedFigure(TypedDict):
    """A figure of two runs on the same rows, and b less a."""

    a: float | None
    b: float | None
    difference: float | None
    interval: Interval


class PairedFigures(TypedDict):
    """Two runs against the same gold; see ``runner.results.quality.paired.paired_figures``."""

    column: str
    gold: str
    rows: int
    accuracy_a: float
    accuracy_b: float
    difference: float
    interval: Interval
    righted: int
    broken: int
    righted_rows: list[int]
    broken_rows: list[int]
    p: float
    spans: NotRequired[PairedSpans]
    figures: NotRequired[dict[str, PairedFigure]]


AnyFigures = LabelFigures | NumberFigures | SetFigures | ScaleFigures | SpanFigures | QuestionFigures
