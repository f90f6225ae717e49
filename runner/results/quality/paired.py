"""Two runs on the same rows with gold: which is right more often, and whether that may be chance."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from runner.results.quality.shapes import PairedFigures
from runner.results.scores import resample

Bools = npt.NDArray[np.bool_]
SHOWN = 10  # rows of each kind


def paired_figures(
    column: str, gold: str, positions: npt.NDArray[np.int64], a: Bools, b: Bools
) -> PairedFigures | None:
    """Of rows with gold, whether each run is right: ``difference`` of the accuracies (b less a) with its 95% bootstrap
    interval over pairs; rows ``righted`` and ``broken`` by b, and the ``positions`` of the first of them; ``p`` of
    McNemar's test (1947), exact. None without rows.
    """
    from scipy.stats import binomtest

    rows = len(a)
    if not rows:
        return None
    better, worse = b & ~a, a & ~b
    righted, broken = int(better.sum()), int(worse.sum())
    counts = np.array([righted, broken, rows - righted - broken])
    drawn = resample(counts)
    low, high = np.percentile((drawn[:, 0] - drawn[:, 1]) / rows, [2.5, 97.5])
    differing = righted + broken
    return PairedFigures(
        column=column,
        gold=gold,
        rows=rows,
        accuracy_a=float(a.mean()),
        accuracy_b=float(b.mean()),
        difference=(righted - broken) / rows,
        interval=[float(low), float(high)],
        righted=righted,
        broken=broken,
        righted_rows=positions[better][:SHOWN].tolist(),
        broken_rows=positions[worse][:SHOWN].tolist(),
        p=float(binomtest(righted, differing).pvalue) if differing else 1.0,
    )
